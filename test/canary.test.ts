import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { tinyApp } from './fixtures/app.ts';
import { COMMAND_POLL_MS, eventually, startJibe, type Jibe } from './fixtures/jibe.ts';

const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;

let jibe: Jibe;
before(async () => {
	jibe = await startJibe({ regions: 2 });
});
after(() => jibe.stop());

test('a canary without any traffic: told weight by weight, live everywhere once its window is over', async () => {
	const strategy = { type: 'canary', ramp: [10, 50, 100], window: '4s' };
	using app = tinyApp('app', text('one'), { strategy });
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	app.write('server.ts', text('two'));
	const deploying = jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	await eventually(async () => (/v1, v2 at (10|50) %/.test((await jibe.cli(['status', 'app'])).stdout) ? true : null), 'a weight', {
		eachMs: COMMAND_POLL_MS,
	});
	const { stderr, json } = await deploying;
	assert.equal(json?.['state'], 'Deployed');
	assert.deepEqual(
		stderr.split('\n').flatMap((line) => /^ {2}(.*) for /.exec(line)?.[1] ?? []),
		['10 % of the traffic in fra', '50 % of the traffic in fra', '10 % of the traffic in ams', '50 % of the traffic in ams'],
	);
	for (const region of [0, 1]) assert.equal((await jibe.request(region, 'app.localhost', '/')).body, 'two');
});

test('a canary that harms swings back in the middle of its window', async () => {
	using app = tinyApp('harmful', text('well'), {
		regions: ['fra'],
		userKey: 'header:x-user',
		strategy: { type: 'canary', ramp: [50, 100], window: '1h' },
	});
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	// Well until it is probed: what goes wrong, users see.
	app.write(
		'server.ts',
		`export default { fetch: (request) => new Response('', { status: request.headers.has('x-user') ? 500 : 200 }) };\n`,
	);
	const deploying = jibe.expect(3, ['deploy', '--json'], { cwd: app.dir });
	let over = false;
	void deploying.finally(() => (over = true));
	for (let user = 0; !over; user++) await jibe.request(0, 'harmful.localhost', '/', { headers: { 'x-user': String(user) } });
	const { json } = await deploying;
	assert.deepEqual([json?.['state'], json?.['reason']], ['RolledBack', 'harm']);
	assert.equal((await jibe.request(0, 'harmful.localhost', '/', { headers: { 'x-user': '1' } })).body, 'well');
});

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { startJibe, type Jibe } from './fixtures/jibe.ts';

/** Two environments: what a deploy would change, and what serves in one taken to the other. */

const source = (words: string) =>
	`export default { fetch: () => Response.json({ words: ${JSON.stringify(words)}, level: process.env.LEVEL, own: process.env.OWN, in: process.env.JIBE_ENVIRONMENT }) };\n`;

let jibe: Jibe;
let app: App;
before(async () => {
	jibe = await startJibe({ regions: 2 });
	app = tinyApp('app', source('one'), {
		env: { LEVEL: 'info' },
		environments: { staging: { regions: ['fra'], env: { LEVEL: 'debug' } } },
	});
});
after(async () => {
	app[Symbol.dispose]();
	await jibe.stop();
});

const answer = async (region: number, host: string) => (await jibe.request(region, host, '/')).json;

test('what serves in staging goes to production as it is, configured for production, and nothing is sent', async () => {
	await jibe.expect(0, ['deploy', '--env', 'staging', '--json'], { cwd: app.dir });
	await jibe.expect(0, ['env', 'set', 'OWN=production', '--stage'], { cwd: app.dir });
	// What lies in the directory is another app by now.
	app.write('server.ts', 'this is no program');
	const { json, stderr } = await jibe.expect(0, ['deploy', '--from', 'staging', '--json'], { cwd: app.dir });
	assert.match(stderr, /v1, which serves staging, goes to production/);
	assert.deepEqual([json?.['state'], json?.['environment'], json?.['uploadedBytes']], ['Deployed', 'production', 0]);
	for (const region of [0, 1])
		assert.deepEqual(await answer(region, 'app.localhost'), { words: 'one', level: 'info', own: 'production', in: 'production' });
	assert.deepEqual(await answer(0, 'staging--app.localhost'), { words: 'one', level: 'debug', in: 'staging' });
	const again = await jibe.expect(0, ['deploy', '--from', 'staging'], { cwd: app.dir });
	assert.match(again.stderr, /Already live/);
});

test('a plan compares with what serves, whatever was uploaded last', async () => {
	app.write('server.ts', source('two')).write('page.html', 'hello');
	await jibe.expect(0, ['deploy', '--env', 'staging', '--json'], { cwd: app.dir });
	const { json, stdout } = await jibe.expect(0, ['plan', '--json'], { cwd: app.dir });
	assert.equal(json?.['same'], false, stdout);
	assert.deepEqual(json['change'], { changed: ['server.ts'], added: ['page.html'], gone: [], dependencies: false, config: [] });
	assert.equal((await jibe.expect(0, ['plan', '--env', 'staging', '--json'], { cwd: app.dir })).json?.['same'], true);
	assert.match(
		(await jibe.expect(0, ['plan'], { cwd: app.dir })).stdout,
		/1 file changed, 1 added, 0 gone\n {4}server\.ts\n {4}page\.html \(new\)/,
	);
});

test('what can not be promoted is refused', async () => {
	assert.match((await jibe.expect(2, ['deploy', '--from', 'production'], { cwd: app.dir })).stderr, /where it would go/);
	assert.match((await jibe.expect(2, ['deploy', '--from', 'nowhere'], { cwd: app.dir })).stderr, /was never deployed in nowhere/);
	const body = JSON.stringify({
		environment: 'production',
		from: 'nowhere',
		config: null,
		ancestors: [],
		force: false,
		now: false,
		reason: null,
	});
	const headers = { 'content-type': 'application/json' };
	const refused = await jibe.api('/api/v1/apps/app/promotions', { method: 'POST', body, headers });
	assert.deepEqual([refused.status, (refused.json?.['error'] as { code: string } | undefined)?.code], [409, 'nothing_serves']);
	const made = await jibe.expect(0, ['token', 'create', 'p', '--role', 'deployer', '--environments', 'production', '--json']);
	const env = { JIBE_SERVER: jibe.url, JIBE_TOKEN: String(made.json?.['secret']) };
	await jibe.expect(5, ['deploy', '--from', 'staging'], { cwd: app.dir, env });
});

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { get } from 'node:http';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { COMMAND_POLL_MS, eventually, startJibe, type Jibe } from './fixtures/jibe.ts';

/** Its process on /pid, and a stream that never ends on /stream. */
const STREAMS = `
	const endless = () => new ReadableStream({ start: (stream) => stream.enqueue('tick') });
	export default {
		fetch: (request) => {
			const { pathname } = new URL(request.url);
			return pathname === '/pid' ? Response.json(process.pid) : new Response(pathname === '/stream' ? endless() : 'ok');
		},
	};\n`;
const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;

/** For what does not depend on the number of regions: half as many instances to start. */
const ONE_REGION = { regions: ['fra'] };

let jibe: Jibe;
before(async () => {
	jibe = await startJibe({ regions: 2 });
});
after(() => jibe.stop());

async function deployed(app: App, words: string): Promise<number> {
	app.write('server.ts', text(words));
	const result = await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	return Number(String(result.json?.['release']).replace('v', ''));
}

/** What users of an app are answered in both regions, or in those where it is. */
async function served(name: string, regions = [0, 1]): Promise<string[]> {
	return Promise.all(regions.map(async (region) => (await jibe.request(region, `${name}.localhost`, '/')).body));
}

test('with nothing before, a rollback is refused and says so', async () => {
	using app = tinyApp('only', text('one'), ONE_REGION);
	await deployed(app, 'one');
	const result = await jibe.expect(2, ['rollback', '--json'], { cwd: app.dir });
	assert.match(result.stderr, /no .*(earlier|before|previous)/i);
	assert.deepEqual(await served('only', [0]), ['one']);
});

test('a rollback goes one back, again one further, and by number anywhere', async () => {
	using app = tinyApp('steps', text('one'));
	const one = await deployed(app, 'one');
	await deployed(app, 'two');
	await deployed(app, 'three');
	await jibe.expect(0, ['rollback', '--json'], { cwd: app.dir });
	assert.deepEqual(await served('steps'), ['two', 'two']);
	await jibe.expect(0, ['rollback', '--json'], { cwd: app.dir });
	assert.deepEqual(await served('steps'), ['one', 'one']);
	const same = await jibe.expect(2, ['rollback', '--to', `v${one}`, '--json'], { cwd: app.dir });
	assert.match(same.stderr, /already/);
});

test('straight after a deploy the way back is warm, though a stream of the old release is not over', async () => {
	using app = tinyApp('streams', STREAMS);
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	const pid = async () => JSON.parse((await jibe.request(0, 'streams.localhost', '/pid')).body) as number;
	const first = await pid();
	const stream = get(`${jibe.edgeUrl(0)}/stream`, { headers: { host: 'streams.localhost' } });
	await once(stream, 'response');
	await deployed(app, 'two');
	const back = await jibe.expect(0, ['rollback', '--json'], { cwd: app.dir });
	const timings = back.json?.['timings'] as Record<string, number | null>;
	assert.deepEqual([timings['canaryMs'], timings['prepareMs']], [null, 0], 'nothing had to be prepared, so nothing was gated');
	const regions = back.json?.['regions'] as { name: string }[];
	assert.deepEqual(
		regions.map(({ name }) => name),
		['fra', 'ams'],
	);
	assert.equal(await pid(), first, 'the same instance serves again');
	stream.destroy();
	const status = await jibe.expect(0, ['status', 'streams'], { cwd: app.dir });
	assert.match(status.stdout, /rollback to v1, Deployed/);
	assert.match(status.stdout, /nothing to go back to/);
	// Once it has come to rest, status names what stands by and how to insist on it.
	await eventually(
		async () => {
			const { stdout } = await jibe.expect(0, ['status', 'streams']);
			return /v2 stands by, but was rolled back: jibe rollback --to v2 --again/.test(stdout) ? true : null;
		},
		'what stands by in status',
		{ eachMs: COMMAND_POLL_MS },
	);
});

test('a release that was rolled back is only served again when asked insistently', async () => {
	using app = tinyApp('insist', text('one'), ONE_REGION);
	await deployed(app, 'one');
	const two = await deployed(app, 'two');
	await jibe.expect(0, ['rollback', '--json'], { cwd: app.dir });
	const refused = await jibe.expect(2, ['rollback', '--to', `v${two}`, '--json'], { cwd: app.dir });
	assert.match(refused.stderr, /rolled back/);
	assert.match(refused.stderr, /--again/);
	await jibe.expect(0, ['rollback', '--to', `v${two}`, '--again', '--json'], { cwd: app.dir });
	assert.deepEqual(await served('insist', [0]), ['two']);
});

test('a rollback names a deployment that serves, and refuses one that does not', async () => {
	using app = tinyApp('named', text('one'), ONE_REGION);
	app.write('server.ts', text('one'));
	const one = (await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir })).json?.['deployment'];
	app.write('server.ts', text('two'));
	const two = (await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir })).json?.['deployment'];
	const refused = await jibe.expect(2, ['rollback', String(one), '--json'], { cwd: app.dir });
	assert.match(refused.stderr, /serve/);
	await jibe.expect(0, ['rollback', String(two), '--json'], { cwd: app.dir });
	assert.deepEqual(await served('named', [0]), ['one']);
});

test('a rollback during a walk stops it, and what served before serves', async () => {
	using app = tinyApp('midway', text('one'));
	await deployed(app, 'one');
	await deployed(app, 'two');
	// Three seconds to start: the walk is still preparing when the rollback comes.
	app.write('server.ts', `await new Promise((resolve) => setTimeout(resolve, 3000));\n${text('three')}`);
	const walk = jibe.cli(['deploy', '--json'], { cwd: app.dir });
	await eventually(async () => ((await jibe.newest('midway'))?.state === 'Deploying' ? true : null), 'walk under way');
	await jibe.expect(0, ['rollback', 'midway', '--json']);
	assert.equal((await walk).code, 3);
	assert.match(String((await walk).json?.['state']), /Cancelled|RolledBack/);
	const bodies = await served('midway');
	assert.equal(new Set(bodies).size, 1);
	assert.notEqual(bodies[0], 'three');
});

test('two rollbacks at once end in one state that both report', async () => {
	using app = tinyApp('twice', text('one'));
	await deployed(app, 'one');
	await deployed(app, 'two');
	await deployed(app, 'three');
	const both = await Promise.all([jibe.cli(['rollback', 'twice', '--json']), jibe.cli(['rollback', 'twice', '--json'])]);
	assert.ok(
		both.some(({ code }) => code === 0),
		both.map(({ stderr }) => stderr).join('\n'),
	);
	assert.ok(
		both.every(({ code }) => code === 0 || code === 2 || code === 3),
		both.map(({ code, stderr }) => `${code} ${stderr}`).join('\n'),
	);
	const bodies = await served('twice');
	assert.equal(new Set(bodies).size, 1);
	assert.notEqual(bodies[0], 'three');
});

test('the same app deployed several times at once ends with one release everywhere', async () => {
	using app = tinyApp('crowd', text('one'));
	await deployed(app, 'one');
	app.write('server.ts', text('two'));
	const results = await Promise.all(Array.from({ length: 4 }, () => jibe.cli(['deploy', '--json'], { cwd: app.dir })));
	assert.deepEqual(
		results.map(({ code }) => code),
		[0, 0, 0, 0],
		results.map(({ stderr }) => stderr).join('\n'),
	);
	assert.equal(new Set(results.map(({ json }) => json?.['release'])).size, 1);
	assert.deepEqual(await served('crowd'), ['two', 'two']);
});

test('nobody undoes a colleague silently', async () => {
	using app = tinyApp('team', text('base'), ONE_REGION);
	app.git('init', '-q');
	app.commit('base');
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	app.git('checkout', '-q', '-b', 'colleague');
	app.write('server.ts', text('colleague'));
	const theirs = app.commit('the colleague');
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	app.git('checkout', '-q', '-');
	app.write('server.ts', text('mine'));
	app.commit('mine');
	const refused = await jibe.expect(2, ['deploy', '--json'], { cwd: app.dir });
	assert.match(refused.stderr, new RegExp(theirs.slice(0, 7)));
	assert.match(refused.stderr, /--force/);
	assert.deepEqual(await served('team', [0]), ['colleague']);
	await jibe.expect(0, ['deploy', '--force', '--json'], { cwd: app.dir });
	assert.deepEqual(await served('team', [0]), ['mine']);
	app.git('merge', '-q', '-X', 'ours', '-m', 'merge', 'colleague');
	app.write('server.ts', text('merged'));
	app.commit('merged');
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	assert.deepEqual(await served('team', [0]), ['merged']);
});

test('the same source deployed again answers at once that it is live', async () => {
	using app = tinyApp('same', text('one'), ONE_REGION);
	await deployed(app, 'one');
	const again = await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	assert.equal(again.json?.['state'], 'Deployed');
	assert.equal((again.json['modules'] as { compiled: number }).compiled, 0);
	const history = await jibe.api('/api/v1/deployments?app=same');
	assert.equal((JSON.parse(history.body) as { deployments: unknown[] }).deployments.length, 1);
});

test('a rollback during a rollback: both end in one state, which is served everywhere', async () => {
	using app = tinyApp('again', text('one'), { warm: 'off' });
	const one = await deployed(app, 'one');
	app.write('server.ts', `await new Promise((resolve) => setTimeout(resolve, 1500));\n${text('two')}`);
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	await deployed(app, 'three');
	// Two is no longer warm and takes its time to start; meanwhile somebody wants to be further back.
	const first = jibe.cli(['rollback', 'again', '--to', `v${one + 1}`, '--json']);
	await eventually(async () => ((await jibe.newest('again'))?.kind === 'rollback' ? true : null), 'rollback under way');
	const second = await jibe.expect(0, ['rollback', 'again', '--to', `v${one}`, '--json']);
	assert.equal(second.json?.['state'], 'Deployed');
	assert.equal((await first).code, 3, (await first).stderr);
	assert.match(String((await first).json?.['state']), /Cancelled|RolledBack/);
	assert.deepEqual(await served('again'), ['one', 'one']);
});

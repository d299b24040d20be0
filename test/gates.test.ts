import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { COMMAND_POLL_MS, eventually, startJibe, type Jibe } from './fixtures/jibe.ts';

/** What must have come out well before a release goes further: its smoke test, checks beside the deploy, a person at the end of a window. */

const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;
/** Asks the release that it is run for; what it hears may not be "broken". */
const SMOKE = `
const { JIBE_URL: url, JIBE_TASK: task, JIBE_RELEASE: release, SECRET_WORD: secret } = process.env;
const answer = await fetch(url + '/');
const words = await answer.text();
console.log(task, release, answer.headers.get('x-jibe-release'), words, secret);
if (words === 'broken' || (words === 'broken live' && task === 'smoke-live')) throw new Error('it says ' + words);
`;

let jibe: Jibe;
let place: string;
before(async () => {
	place = mkdtempSync(join(tmpdir(), 'jibe-gates-'));
	jibe = await startJibe({ regions: 2 });
});
after(async () => {
	await jibe.stop();
	rmSync(place, { recursive: true, force: true });
});

async function liveApp(name: string, config: Record<string, unknown>): Promise<App> {
	const app = tinyApp(name, text('one')).write('smoke.js', SMOKE);
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	return app.write('jibe.json', JSON.stringify({ app: name, entry: 'server.ts', ...config }));
}

const deploy = (app: App, code: number, words: string[] = []) => jibe.expect(code, ['deploy', '--json', ...words], { cwd: app.dir });
const served = (name: string) =>
	Promise.all([0, 1].map(async (region) => (await jibe.request(region, `${name}.localhost`, '/')).body.trim()));

test('a smoke test asks what is prepared before it serves, then what serves; it gets no secrets', async () => {
	using app = await liveApp('smoked', {});
	await jibe.expect(0, ['secret', 'set', 'SECRET_WORD', '--stage'], { cwd: app.dir, input: 'never-to-be-seen' });
	app.write('jibe.json', JSON.stringify({ app: 'smoked', entry: 'server.ts', smoke: 'node smoke.js', secrets: ['SECRET_WORD'] }));
	app.write('server.ts', text('broken'));
	const unfit = await deploy(app, 1);
	assert.deepEqual([unfit.json?.['state'], unfit.json?.['reason']], ['DeployFailed', 'smoke']);
	assert.match(unfit.stderr, /it says broken/);
	assert.deepEqual(await served('smoked'), ['one', 'one']);

	app.write('server.ts', text('broken live'));
	const back = await deploy(app, 3);
	assert.deepEqual([back.json?.['state'], back.json?.['reason']], ['RolledBack', 'smoke']);
	assert.deepEqual(await served('smoked'), ['one', 'one']);

	app.write('server.ts', text('two'));
	const done = await deploy(app, 0);
	assert.match(done.stderr, /Smoke test passed, before it serves/);
	assert.deepEqual(await served('smoked'), ['two', 'two']);
	const { stdout } = await jibe.expect(0, ['logs', 'smoked']);
	assert.match(stdout, /smoke-prepared v4 (v4|null) two undefined/);
	assert.match(stdout, /smoke-live v4 v4 two undefined/);
});

test('checks run beside the deploy: the first region has it, the others wait; failed, the first goes back', async () => {
	const go = (name: string) => join(place, name);
	const test = (name: string) => ({
		types: { run: `until [ -e ${go(name)} ]; do sleep 0.05; done; exit $(cat ${go(name)})`, gate: 'promotion' },
	});
	using app = await liveApp('checked', { test: test('one') });
	app.write('server.ts', text('two'));
	const deploying = jibe.cli(['deploy', '--json'], { cwd: app.dir });
	await eventually(async () => ((await served('checked')).join() === 'two,one' ? true : null), 'the first region to serve it');
	writeFileSync(go('one'), '1\n');
	const failed = await deploying;
	assert.equal(failed.code, 3, failed.stderr);
	assert.deepEqual([failed.json?.['state'], failed.json?.['reason']], ['RolledBack', 'checks']);
	await eventually(async () => ((await served('checked')).join() === 'one,one' ? true : null), 'both as before');

	app.write('server.ts', text('three')).write('jibe.json', JSON.stringify({ app: 'checked', entry: 'server.ts', test: test('two') }));
	const again = jibe.cli(['deploy', '--json'], { cwd: app.dir });
	await eventually(async () => ((await served('checked')).join() === 'three,one' ? true : null), 'the first region to serve it');
	writeFileSync(go('two'), '0\n');
	const passed = await again;
	assert.equal(passed.code, 0, passed.stderr);
	assert.match(passed.stderr, /Checked in/);
	assert.deepEqual(await served('checked'), ['three', 'three']);

	app.write('server.ts', text('four')).write('jibe.json', JSON.stringify({ app: 'checked', entry: 'server.ts', test: { types: { run: 'exit 7', gate: 'promotion' } } })); // prettier-ignore
	const before = await deploy(app, 1, ['--detach']);
	assert.match(before.stderr, /The checks failed: exit 7 ended with 7/);
});

test('a canary that is held at the end of its window goes on when a person promotes it', async () => {
	const strategy = { type: 'canary', ramp: [50, 100], window: '200ms', watch: '0s', onWindowEnd: 'hold' };
	using app = await liveApp('held', { strategy });
	app.write('server.ts', text('two'));
	const deploying = jibe.cli(['deploy', '--json'], { cwd: app.dir });
	const { id } = await eventually(() => jibe.newest('held').then((one) => (one?.state === 'CanaryCheck' ? one : null)), 'a canary');
	await eventually(async () => ((await jibe.cli(['promote', id])).code === 0 ? true : null), 'the end of its window', {
		eachMs: COMMAND_POLL_MS,
	});
	const result = await deploying;
	assert.equal(result.code, 0, result.stderr);
	assert.match(result.stderr, /Held at 50 %: jibe promote goes on/);
	assert.deepEqual(await served('held'), ['two', 'two']);
	assert.match((await jibe.expect(2, ['promote', id])).stderr, /waits for nobody/);
});

test('migrations that are not safe beside what serves are told, and refused where jibe.json says so', async () => {
	const migrate = { files: ['migrations/*.sql'] };
	using app = await liveApp('read', { migrate });
	app.write('migrations/1.sql', 'alter table notes drop column body;\n');
	await deploy(app, 0);
	app.write('migrations/2.sql', 'select 1;\nalter table notes add column n int not null;\n');
	const told = await deploy(app, 0);
	assert.match(told.stderr, /! migrations\/2\.sql:2: adds notes\.n that may not be null/);
	app.write('jibe.json', JSON.stringify({ app: 'read', entry: 'server.ts', migrate: { ...migrate, protect: true } }));
	app.write('migrations/3.sql', 'create index on notes (n);\n');
	const refused = await deploy(app, 2);
	assert.match(refused.stderr, /migrations\/3\.sql:1: builds an index/);
	assert.doesNotMatch(refused.stderr, /2\.sql/, 'what serves has it already');
	app.write('migrations/3.sql', '-- jibe:allow, it is a small table\ncreate index on notes (n);\n');
	await deploy(app, 0);
});

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { eventually, startJibe, type Jibe } from './fixtures/jibe.ts';

/** An app's own tests run beside upload and prepare, and no pointer moves before they passed. */

const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;

let jibe: Jibe;
let place: string;
before(async () => {
	place = mkdtempSync(join(tmpdir(), 'jibe-tests-'));
	jibe = await startJibe({ regions: 2 });
});
after(async () => {
	await jibe.stop();
	rmSync(place, { recursive: true, force: true });
});

/** An app that is live, whose tests run from now on until `<name>.go` is there; its content is their exit code. */
async function liveApp(name: string): Promise<App> {
	const app = tinyApp(name, text('one'));
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	const go = join(place, `${name}.go`);
	const test = `echo $$ >> ${join(place, name)}.pids; until [ -e ${go} ]; do sleep 0.05; done; echo counted 3; exit $(cat ${go})`;
	app.write('jibe.json', JSON.stringify({ app: name, entry: 'server.ts', test }));
	app.write('server.ts', text('two'));
	return app;
}

const go = (name: string, code: number) => writeFileSync(join(place, `${name}.go`), `${code}\n`);

async function served(name: string): Promise<string[]> {
	return Promise.all([0, 1].map(async (region) => (await jibe.request(region, `${name}.localhost`, '/')).body));
}

async function regionsOf(name: string): Promise<{ instances: { release: number; state: string; healthy: boolean }[] }[]> {
	const { body } = await jibe.api(`/api/v1/apps/${name}/status?environment=production`);
	return (JSON.parse(body) as { regions: { instances: { release: number; state: string; healthy: boolean }[] }[] }).regions;
}

/** The second release is ready in both regions while its tests still run. */
async function preparedAndTesting(name: string): Promise<string> {
	return eventually(async () => {
		const newest = await jibe.newest(name);
		const regions = await regionsOf(name);
		const ready = regions.filter(({ instances }) => instances.some((one) => one.release === 2 && one.state === 'prepared' && one.healthy));
		return newest?.state === 'Testing' && ready.length === 2 ? newest.id : null;
	}, 'a release that is prepared while its tests run');
}

async function onlyOneRuns(name: string): Promise<void> {
	await eventually(async () => {
		const regions = await regionsOf(name);
		return regions.every(({ instances }) => instances.every(({ release }) => release === 1)) ? true : null;
	}, 'what was prepared is gone');
}

test('what is prepared goes live once its tests have passed, and they do not run again', async () => {
	using app = await liveApp('passing');
	const deploying = jibe.cli(['deploy', '--json'], { cwd: app.dir });
	await preparedAndTesting('passing');
	assert.deepEqual(await served('passing'), ['one', 'one']);
	go('passing', 0);
	const result = await deploying;
	assert.equal(result.code, 0, result.stderr);
	assert.match(result.stderr, /Tested in/);
	assert.deepEqual(await served('passing'), ['two', 'two']);
	app.write('server.ts', text('three'));
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	app.write('server.ts', text('two'));
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	assert.deepEqual(await served('passing'), ['two', 'two']);
	assert.equal(readFileSync(join(place, 'passing.pids'), 'utf8').trim().split('\n').length, 2, 'once for two, once for three');
});

test('tests that fail: nothing moves, and what was prepared goes', async () => {
	using app = await liveApp('failing');
	const deploying = jibe.cli(['deploy', '--json'], { cwd: app.dir });
	await preparedAndTesting('failing');
	go('failing', 3);
	const result = await deploying;
	assert.equal(result.code, 1, result.stderr);
	assert.equal(result.json?.['state'], 'TestFailed');
	assert.match(result.stderr, /ended with 3\ncounted 3/);
	assert.deepEqual(await served('failing'), ['one', 'one']);
	await onlyOneRuns('failing');
});

test('a cancel while tests run ends the deployment, the command that waits, and the tests', async () => {
	using app = await liveApp('cancelled');
	const deploying = jibe.cli(['deploy', '--json'], { cwd: app.dir });
	const id = await preparedAndTesting('cancelled');
	await jibe.expect(0, ['cancel', id]);
	const result = await deploying;
	assert.equal(result.code, 3, result.stderr);
	assert.equal(result.json?.['state'], 'Cancelled');
	const pid = Number(readFileSync(join(place, 'cancelled.pids'), 'utf8'));
	await eventually(() => (existsSync(`/proc/${pid}`) ? null : true), 'an end of the tests');
	assert.deepEqual(await served('cancelled'), ['one', 'one']);
	await onlyOneRuns('cancelled');
});

test('Ctrl-C while tests run cancels: nobody else would say how they ended', async () => {
	using app = await liveApp('interrupted');
	const interrupt = new AbortController();
	const deploying = jibe.cli(['deploy', '--json'], { cwd: app.dir, signal: interrupt.signal });
	await preparedAndTesting('interrupted');
	interrupt.abort();
	const result = await deploying;
	assert.equal(result.code, 3, result.stderr);
	assert.equal((await jibe.newest('interrupted'))?.state, 'Cancelled');
	assert.deepEqual(await served('interrupted'), ['one', 'one']);
});

test('a control that is killed while tests run hears how they ended when it is back', async () => {
	using app = await liveApp('outage');
	const deploying = jibe.cli(['deploy', '--json'], { cwd: app.dir });
	await preparedAndTesting('outage');
	for (const { pid } of jibe.programs('control')) process.kill(pid, 'SIGKILL');
	go('outage', 0);
	const result = await deploying;
	assert.equal(result.code, 0, result.stderr);
	assert.deepEqual(await served('outage'), ['two', 'two']);
});

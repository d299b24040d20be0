import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { pause, systemClock } from '#clock/clock.ts';
import { exitCode } from '#pipeline/states.ts';
import { isolation } from '#process/isolation.ts';
import { readPidFiles } from '#process/pid-file.ts';
import type { Instance, ReleaseSpec } from '#wire/region.ts';
import { ask, openTestbed } from './testbed.ts';

/** What an app may do wrong, and how it is told. */
const bed = await openTestbed();
after(() => bed.close());

const ok = 'export default { fetch: () => new Response("ok") };';

async function failure(app: string, files: Record<string, string>, more: Partial<ReleaseSpec> = {}): Promise<Instance> {
	const spec = bed.release(bed.put(files), { app, ...more });
	bed.want(spec, [{ release: spec.release, instances: 1, as: 'prepared' }]);
	const [instance] = await bed.until(spec, 'failure', ([i]) => i?.state === 'failed');
	bed.want(spec, []);
	assert.ok(instance);
	return instance;
}

test('an app that throws on import is shown with its own words and places', async () => {
	const { reason, detail } = await failure('throws', {
		'src/server.ts': `import './deep.ts';\n${ok}`,
		'src/deep.ts': `function connect() {\n\tthrow new Error('no database');\n}\nconnect();`,
	});
	assert.equal(reason, 'app_throws');
	assert.match(detail ?? '', /^Error: no database\n {4}at connect \(.*\/src\/deep\.ts:2:8\)\n/);
});

test('an import that nobody can resolve names who asked for what', async () => {
	const { reason, detail } = await failure('missing', { 'src/server.ts': `import 'left-pad';\n${ok}` });
	assert.equal(reason, 'app_throws');
	assert.match(detail ?? '', /left-pad/);
});

test('an entry that listens instead of exporting is told what to write', async () => {
	const listens = `import { createServer } from 'node:http';\ncreateServer().listen(0, '127.0.0.1');`;
	const { reason, detail } = await failure('listens', { 'src/server.ts': listens });
	assert.equal(reason, 'app_listens');
	assert.match(detail ?? '', /Export default \{ fetch \}/);
});

test('an entry without fetch is told what it exports', async () => {
	const { reason, detail } = await failure('nofetch', { 'src/server.ts': 'export const handler = () => {};' });
	assert.equal(reason, 'no_fetch');
	assert.match(detail ?? '', /src\/server\.ts exports handler/);
});

test('a process that exits on import shows its last output', async () => {
	const { reason, detail } = await failure('exits', { 'src/server.ts': `console.log('bye'); process.exit(7);` });
	assert.equal(reason, 'exited');
	assert.equal(detail, 'it ended with code 7; its last output:\nbye');
});

test("a process that can't warm up in time is the server's fault, not the app's", async () => {
	let leadMs = 0;
	const slow = await openTestbed({ clock: { ...systemClock, monotonic: () => systemClock.monotonic() + leadMs } });
	try {
		const spec = slow.release(slow.put({ 'src/server.ts': ok }), { app: 'starved' });
		slow.want(spec, [{ release: spec.release, instances: 1, as: 'prepared' }]);
		let born: { pid: number } | undefined;
		while (!(born = readPidFiles(slow.data).find(({ name }) => name.startsWith('instance-')))) await pause(1);
		process.kill(born.pid, 'SIGSTOP');
		leadMs = 31_000;
		const [failed] = await slow.until(spec, 'failure', ([i]) => i?.state === 'failed');
		assert.equal(failed?.reason, 'platform');
		assert.match(failed.detail ?? '', /did not warm up within 30 s: this server is overloaded/);
		assert.equal(exitCode('DeployFailed', failed.reason), 4);
		slow.want(spec, []);
	} finally {
		await slow.close();
	}
});

test('a runtime that this agent has not is refused in words', async () => {
	const { reason } = await failure('other', { 'src/server.ts': ok }, { runtime: { kind: 'container' } });
	assert.equal(reason, 'runtime_unsupported');
});

test('an artifact that the depot does not have is a failure to fetch', async () => {
	const spec = bed.release(`sha256:${'0'.repeat(64)}`, { app: 'absent' });
	bed.want(spec, [{ release: spec.release, instances: 1, as: 'prepared' }]);
	const [instance] = await bed.until(spec, 'failure', ([i]) => i?.state === 'failed');
	assert.equal(instance?.reason, 'fetch');
	bed.want(spec, []);
});

test('an app that answers 500 on its health path is asked for a while, and not before it may be healthy', async () => {
	const server = `let asked = 0;\nexport default { fetch: () => new Response('x', { status: ++asked < 4 ? 503 : 200 }) };`;
	const spec = bed.release(bed.put({ 'src/server.ts': server }), { app: 'slow' });
	bed.want(spec, [{ release: spec.release, instances: 1, as: 'prepared' }]);
	const [instance] = await bed.until(spec, 'healthy', ([i]) => i?.healthy === true);
	assert.equal(instance?.state, 'prepared');
	bed.want(spec, []);
});

test(
	'an app that uses up its memory is ended, told so, and started again',
	{ skip: isolation().cgroup ? false : 'needs cgroups' },
	async () => {
		const server = `const all = [];
		export default { fetch(request) {
			if (new URL(request.url).pathname === '/leak') for (;;) all.push(Buffer.alloc(1 << 20, 1));
			return new Response('ok');
		} };`;
		const spec = bed.release(bed.put({ 'src/server.ts': server }), { app: 'leaks', memoryMiB: 100 });
		bed.want(spec, [{ release: spec.release, instances: 1, as: 'serving' }]);
		const [first] = await bed.until(spec, 'serving', ([i]) => i?.state === 'serving');
		await assert.rejects(ask(first, '/leak'));
		const [failed] = await bed.until(spec, 'failure', ([i]) => i?.state === 'failed');
		assert.equal(failed?.reason, 'memory');
		const [again] = await bed.until(spec, 'another', ([i]) => i?.state === 'serving' && i.healthy);
		assert.notEqual(again?.pid, first?.pid);
		assert.equal(again?.restarts, 1);
		bed.want(spec, []);
	},
);

test('an app that kills itself is started again, later each time', async () => {
	const server = `export default { fetch(request) {
		if (new URL(request.url).pathname === '/die') process.exit(3);
		return new Response('ok');
	} };`;
	const spec = bed.release(bed.put({ 'src/server.ts': server }), { app: 'dies' });
	bed.want(spec, [{ release: spec.release, instances: 1, as: 'serving' }]);
	for (const restarts of [0, 1, 2]) {
		const [serving] = await bed.until(spec, `start ${restarts}`, ([i]) => i?.state === 'serving' && i.healthy && i.restarts === restarts);
		await assert.rejects(ask(serving, '/die'));
	}
	await bed.until(spec, 'the third restart', ([i]) => i?.restarts === 3);
	bed.want(spec, []);
	await bed.until(spec, 'gone', (all) => all.length === 0);
});

test('a promise that nobody handles ends the process as Node does, with the reason in its log', async () => {
	const { reason, detail } = await failure('rejects', {
		'src/server.ts': `await new Promise((resolve) => { Promise.reject(new Error('lost')); setTimeout(resolve, 10_000); });\n${ok}`,
	});
	assert.equal(reason, 'exited');
	assert.match(detail ?? '', /Error: lost/);
});

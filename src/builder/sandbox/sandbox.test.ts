import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { createLog } from '#log/log.ts';
import { buildIsolation } from '#process/build-isolation.ts';
import { cgroupAbilities, createCgroup } from '#process/cgroup.ts';
import { isRoot } from '#process/directory.ts';
import { Factory } from './factory.ts';
import { ownNest } from './leftovers.ts';
import { FIXED_ENV, SandboxError, type SandboxKind } from './sandbox.ts';
import { NODE, openTestbed, tell, whyNot, type Testbed } from './testbed.ts';

/** What every kind of sandbox gives to whoever builds in one. */
for (const kind of ['crun', 'runc', 'bwrap', 'none'] satisfies SandboxKind[]) {
	describe(kind, { skip: whyNot(kind) }, () => sameEverywhere(kind));
}

function sameEverywhere(kind: SandboxKind): void {
	let bed: Testbed;
	before(async () => void (bed = await openTestbed(kind)));
	after(() => bed.close());

	test('a command sees the source, changes its own copy, and what it made is found by globs', async () => {
		const { sandbox, files, sandboxes } = bed;
		const source = files({ 'src/a.txt': 'a', 'dist/old.js': 'old', 'dist/sub/gone.js': 'gone', 'package.json': '{}' });
		const one = await sandboxes.create({ source });
		const script = `cat src/a.txt; echo b > src/a.txt; rm -r dist/sub; mkdir dist/sub; echo new > dist/sub/new.js
			chmod +x dist/sub/new.js; ln -s sub/new.js dist/link; umask; pwd`;
		const { exitCode, out } = await tell(one, script);
		assert.equal(exitCode, 0);
		assert.equal(out, `a0022\n${one.paths.source}\n`);
		const outputs = await one.outputs(['dist/**', '!dist/old.js', 'missing']);
		assert.deepEqual(
			outputs.map(({ path, target, executable }) => [path, target, executable]),
			[['dist/link', 'sub/new.js', false], ['dist/sub/new.js', null, true]], // prettier-ignore
		);
		assert.equal(readFileSync(outputs[1]!.at, 'utf8'), 'new\n');
		assert.equal((await one.outputs(['src']))[0]!.bytes, 2);
		assert.equal(readFileSync(join(source, 'src/a.txt'), 'utf8'), 'a');
		assert.deepEqual(readdirSync(join(source, 'dist')), ['old.js', 'sub']);
		const other = await sandbox();
		assert.equal((await tell(other, 'ls')).out, '');
	});

	test('commands of one sandbox see what earlier ones left, and how each ended', async () => {
		const { sandbox } = bed;
		const one = await sandbox({ 'run.sh': 'exit 7' });
		assert.deepEqual(pick(await tell(one, ['/bin/sh', 'run.sh'])), { exitCode: 7, signal: null, reason: null });
		assert.deepEqual(pick(await tell(one, 'echo kept > kept; echo home > ~/x; exit 0')), { exitCode: 0, signal: null, reason: null });
		const again = await tell(one, 'cat kept ~/x; echo out; echo err >&2; echo again > /dev/stdout');
		assert.deepEqual([again.out, again.err], ['kept\nhome\nout\nagain\n', 'err\n']);
		assert.equal((await tell(one, 'no-such-command-here')).exitCode, 127);
	});

	test("of the environment there is what is fixed and what the step says, nothing of the builder's", async (t) => {
		const { sandbox } = bed;
		process.env['JIBE_TEST_LEAK'] = 'leaked';
		t.after(() => delete process.env['JIBE_TEST_LEAK']);
		const { out } = await tell(await sandbox(), 'env', { env: { MODE: "it's $HOME", SOURCE_DATE_EPOCH: '12' } });
		const seen = Object.fromEntries(out.trimEnd().split('\n').map((line) => line.split(/=(.*)/s).slice(0, 2))); // prettier-ignore
		const { PATH: path, HOME: home, PWD: _pwd, TMPDIR: tmp, ...rest } = seen;
		assert.deepEqual(rest, { ...without(FIXED_ENV, 'HOME', 'TMPDIR'), MODE: "it's $HOME", SOURCE_DATE_EPOCH: '12' });
		assert.ok(path && home && tmp);
		if (kind !== 'none') assert.deepEqual([home, tmp, path.split(':')[0]], ['/home/build', '/tmp', '/opt/node/bin']);
	});

	test('layers lie over the source, later ones over earlier ones', async () => {
		const { sandboxes, files } = bed;
		const source = files({ a: 'source', b: 'source', c: 'source', 'd/x': 'source' });
		const layers = [files({ b: 'first', c: 'first', 'd/y': 'first' }), files({ c: 'second' })];
		const one = await sandboxes.create({ source, layers });
		assert.equal((await tell(one, 'cat a b c d/x d/y; echo 2 > d/y')).out, 'sourcefirstsecondsourcefirst');
		assert.equal(readFileSync(join(layers[0]!, 'd/y'), 'utf8'), 'first');
	});

	test('secrets are files that go with the sandbox', async () => {
		const { sandbox, directory } = bed;
		const one = await sandbox({}, { secrets: { NPM_TOKEN: 'npm-s3cret' } });
		const { out } = await tell(
			one,
			`cat ${one.paths.secrets}/NPM_TOKEN; (echo x > ${one.paths.secrets}/NPM_TOKEN) 2>/dev/null || echo refused`,
		);
		if (kind !== 'none') assert.equal(out, 'npm-s3cretrefused\n');
		else assert.match(out, /^npm-s3cret/);
		await one.destroy();
		assert.deepEqual(filesWith(directory, 'npm-s3cret'), []);
		await assert.rejects(sandbox({}, { secrets: { '../x': 'y' } }), { code: 'sandbox_mount' });
	});

	test('what is mounted writable outlives the sandbox, the rest is gone', async () => {
		const { sandbox, directory, files } = bed;
		const [cache, modules] = [files({ warm: 'warm' }), files({ 'pkg/index.js': 'ok' })];
		const one = await sandbox(
			{ 'package.json': '{}' },
			{ writable: [{ from: cache, to: '/home/build/.npm' }], readOnly: [{ from: modules, to: '/src/node_modules' }] },
		);
		const { out } = await tell(
			one,
			'cat ~/.npm/warm node_modules/pkg/index.js package.json; echo more > ~/.npm/more; echo to be forgotten | tee mine ~/mine $TMPDIR/mine > /dev/null',
		);
		assert.equal(out, 'warmok{}');
		if (kind !== 'none') assert.notEqual((await tell(one, 'echo no > node_modules/no')).exitCode, 0);
		await one.destroy();
		assert.equal(readFileSync(join(cache, 'more'), 'utf8'), 'more\n');
		assert.deepEqual(filesWith(directory, 'to be forgotten'), []);
	});

	test('one command at a time, and none when it was destroyed', async () => {
		const { sandbox } = bed;
		const one = await sandbox();
		let started = () => {};
		const output = new Promise<void>((resolve) => (started = resolve));
		const running = tell(one, 'echo started; sleep 60', { onOutput: () => started() });
		await output;
		await assert.rejects(one.run({ command: 'true', timeoutMs: 1000 }), { code: 'sandbox_busy' });
		await assert.rejects(one.outputs(['**']), { code: 'sandbox_busy' });
		await Promise.all([one.destroy(), one.destroy()]);
		assert.deepEqual(pick(await running), { exitCode: null, signal: 'SIGKILL', reason: null });
		await assert.rejects(one.run({ command: 'true', timeoutMs: 1000 }), { code: 'sandbox_busy' });
	});

	test('a command has ended when it has ended, whoever still holds its output', async () => {
		const { exitCode, out } = await tell(await bed.sandbox(), 'setsid sleep 20 & echo done');
		assert.deepEqual([exitCode, out], [0, 'done\n']);
	});

	test('a tool outside /usr is on PATH', async () => {
		const { sandbox } = bed;
		const { out } = await tell(await sandbox({ 'a.js': 'console.log(process.execPath, 6 * 7)' }), 'node a.js');
		assert.equal(out, `${kind === 'none' ? process.execPath : NODE} 42\n`);
	});
}

test('as root a source comes to belong to builds, and nothing can be mounted where the machine is', { skip: whyNot() }, async (t) => {
	const { sandbox, sandboxes, files, close } = await openTestbed();
	t.after(close);
	const source = files({ 'deep/file': 'x' });
	const one = await sandboxes.create({ source });
	assert.equal((await tell(one, 'id -u; id -un')).out, '77000\nbuild\n');
	if (isRoot()) assert.equal(statSync(join(source, 'deep/file')).uid, 77_000);
	for (const to of ['/usr/local/x', '/etc', 'relative', '/src/../etc', '/proc/x', '/run/secrets/y']) {
		await assert.rejects(sandbox({}, { readOnly: [{ from: source, to }] }), (error: Error) => {
			assert.ok(error instanceof SandboxError && error.code === 'sandbox_mount');
			assert.match(error.message, /absolute path outside/);
			return true;
		});
	}
	await assert.rejects(sandbox({}, { readOnly: [{ from: join(source, 'missing'), to: '/opt/x' }] }), /there is no/);
});

test('where no overlay can be mounted, the source is copied', { skip: whyNot() }, async (t) => {
	const { files, directory, close } = await openTestbed();
	t.after(close);
	mkdirSync(join(directory, 'copies'));
	const [kind] = buildIsolation().kinds;
	const log = createLog({}, { write: () => {} });
	const factory = new Factory({ kind: kind!, copies: true, nest: ownNest(join(directory, 'copies')), missing: [], log });
	t.after(() => factory.close());
	const [source, layer] = [files({ 'a/b': 'source', 'dist/old': 'old' }), files({ 'a/c': 'layer' })];
	const one = await factory.create({ source, layers: [layer] });
	const { out } = await tell(one, 'cat a/b a/c; stat -c %U a/b a/c; echo new > a/b; rm -r dist; mkdir dist; echo x > dist/new');
	assert.equal(out, 'sourcelayerbuild\nbuild\n');
	assert.deepEqual((await one.outputs(['**'])).map(({ path }) => path), ['a/b', 'a/c', 'dist/new']); // prettier-ignore
	assert.equal(readFileSync(join(source, 'a/b'), 'utf8'), 'source');
});

test('what serves goes before builds when there is not enough CPU for both', { skip: whyNot() || withoutCpuGroups() }, async (t) => {
	const { directory, close } = await openTestbed();
	t.after(close);
	const { cpu } = createCgroup(ownNest(join(directory, 'work')).groups!, {});
	const [one, two] = ['cpu.shares', 'cpu.weight'].map((name) => join(cpu!, name)) as [string, string];
	assert.equal(
		existsSync(one) ? Number(readFileSync(one, 'utf8')) / 1024 : Number(readFileSync(two, 'utf8')) / 100,
		existsSync(one) ? 307 / 1024 : 0.3,
	);
});

function withoutCpuGroups(): string | false {
	return cgroupAbilities().limits.includes('cpu') ? false : 'needs cgroups';
}

function pick({ exitCode, signal, reason }: { exitCode: unknown; signal: unknown; reason: unknown }): object {
	return { exitCode, signal, reason };
}

function without(record: Readonly<Record<string, string>>, ...names: string[]): Record<string, string> {
	return Object.fromEntries(Object.entries(record).filter(([name]) => !names.includes(name)));
}

function filesWith(directory: string, text: string): string[] {
	return spawnSync('grep', ['-rlF', text, directory], { encoding: 'utf8' }).stdout.split('\n').filter(Boolean);
}

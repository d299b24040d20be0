import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import {
	chmodSync,
	chownSync,
	existsSync,
	mkdirSync,
	mkdtempSync,
	readFileSync,
	realpathSync,
	rmSync,
	statSync,
	writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { pause } from '#clock/clock.ts';
import { cgroupOf, cgroupOomKills, cgroupPids, createCgroup, removeCgroup, removeCgroupTree } from './cgroup.ts';
import { freeze, killTree, signalProcess, thaw } from './control.ts';
import { isRoot, runDirectory } from './directory.ts';
import { identify, isAlive, ownIdentity } from './identity.ts';
import { isolation } from './isolation.ts';
import { pssKiB } from './memory.ts';
import { readPidFile, readPidFiles, removePidFile, writePidFile, writeStarting } from './pid-file.ts';
import { spawnDetached } from './spawn.ts';

const data = mkdtempSync(join(tmpdir(), 'jibe-process-'));
const run = runDirectory(data);
const groups = `jibe-test-${process.pid}`;
after(() => {
	removeCgroupTree(groups);
	rmSync(data, { recursive: true, force: true });
	rmSync(run, { recursive: true, force: true });
});

const UID = 2_000_000_017;
const noRoot = isolation().mounts ? false : 'needs root that may make mount namespaces';
/** Where a process of another uid finds Node: the repository may lie below /tmp, which is hidden from it, or a private directory. */
const node = join(run, 'node');
writeFileSync(node, '');
const nodeBind = { from: realpathSync(process.execPath), to: node, readonly: true };
const env = { PATH: process.env['PATH'] ?? '' };

async function until(what: string, condition: () => boolean): Promise<void> {
	for (let i = 0; i < 1000; i++) {
		if (condition()) return;
		await pause(10);
	}
	assert.fail(`never came: ${what}`);
}

function file(name: string): string {
	return existsSync(join(data, name)) ? readFileSync(join(data, name), 'utf8') : '';
}

test('the run directory is short, the same each time, and walkable by other uids only as root', () => {
	assert.equal(runDirectory(data), run);
	assert.ok(run.length < 60, run);
	assert.equal(statSync(run).mode & 0o777, isRoot() ? 0o711 : 0o700);
});

test('a process is known by its pid and start time', async () => {
	const child = spawn('sleep', ['60']);
	await new Promise((resolve) => child.once('spawn', resolve));
	const identity = identify(child.pid ?? 0);
	assert.ok(identity);
	assert.equal(isAlive(identity), true);
	assert.equal(isAlive({ pid: identity.pid, start: ownIdentity().start }), false, 'same pid, another start: another process');
	child.kill('SIGKILL');
	await new Promise((resolve) => child.once('exit', resolve));
	assert.equal(isAlive(identity), false);
});

test('a pid file whose pid is somebody else now reads as dead, and is never signalled', () => {
	writePidFile(data, 'control');
	writePidFile(data, 'edge-0', { pid: process.pid, start: 'long ago' });
	assert.deepEqual(
		readPidFiles(data).map(({ name, alive }) => [name, alive]),
		[
			['control', true],
			['edge-0', false],
		],
	);
	const stale = readPidFile(data, 'edge-0');
	assert.ok(stale);
	assert.equal(signalProcess(stale, 'SIGKILL'), false);
	removePidFile(data, 'edge-0');
	assert.equal(readPidFile(data, 'edge-0'), null);
	// Of one that was just started, unless it was quicker and has written it itself.
	assert.ok(writeStarting(data, 'edge-0', ownIdentity()));
	assert.equal(readPidFile(data, 'edge-0')?.starting, true);
	writePidFile(data, 'edge-0');
	assert.ok(writeStarting(data, 'edge-0', ownIdentity()));
	assert.equal(readPidFile(data, 'edge-0')?.starting, false);
});

test('a detached process has its own session, title and files, and the pid is its own', async () => {
	const { identity } = await spawnDetached({
		argv0: 'jibe instance',
		command: process.execPath,
		args: [
			'-e',
			'console.log("out", process.argv.slice(1).join("|")); console.error("err"); setInterval(() => {}, 1000)',
			"it's",
			'$HOME `x`',
		],
		env,
		cwd: data,
		stdout: join(data, 'out.log'),
		stderr: join(data, 'err.log'),
	});
	await until('output', () => file('out.log').endsWith('\n') && file('err.log') === 'err\n');
	assert.equal(file('out.log'), "out it's|$HOME `x`\n");
	if (process.platform === 'linux') {
		assert.match(readFileSync(`/proc/${identity.pid}/cmdline`, 'utf8'), /^jibe instance\0/);
		const [, , , session] = readFileSync(`/proc/${identity.pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
		assert.equal(Number(session), identity.pid);
		assert.ok((pssKiB(identity.pid) ?? 0) > 1000);
	}
	killTree(identity);
	await until('its end', () => !isAlive(identity));
});

test('as root: uid, no privileges, only its binds, a /tmp of its own, nothing else writable', { skip: noRoot }, async () => {
	const secret = join(data, 'secret');
	const shared = join(data, 'shared');
	const own = join(data, 'own');
	for (const directory of [secret, shared, own, join(run, 'a'), join(run, 'b')]) mkdirSync(directory);
	writeFileSync(join(shared, 'code.js'), 'hi');
	chmodSync(data, 0o700); // below /tmp here, so its own /tmp hides it as well
	chownSync(own, UID, UID);
	writeFileSync(join(own, 'evil'), `touch ${join(run, 'b', 'evil-ran')} ${join(own, 'evil-ran')}`);
	const script = `
		const fs = require('fs');
		const attempt = (f) => { try { return String(f()); } catch (e) { return e.code ?? e.message; } };
		console.log(JSON.stringify({
			uid: process.getuid(), gid: process.getgid(), groups: process.getgroups(),
			caps: /CapBnd:\\s+(\\w+)/.exec(fs.readFileSync('/proc/self/status', 'utf8'))[1],
			privs: /NoNewPrivs:\\s+(\\d)/.exec(fs.readFileSync('/proc/self/status', 'utf8'))[1],
			code: attempt(() => fs.readFileSync('${run}/a/code.js', 'utf8')),
			change: attempt(() => fs.writeFileSync('${run}/a/code.js', 'x')),
			own: attempt(() => fs.writeFileSync('${run}/b/mine', 'x')),
			data: attempt(() => fs.readdirSync('${data}')),
			tmp: attempt(() => fs.readdirSync('/tmp')),
			fill: attempt(() => fs.writeFileSync('/tmp/big', Buffer.alloc(3 << 20))),
			shm: attempt(() => fs.writeFileSync('/dev/shm/big', Buffer.alloc(3 << 20))),
			vartmp: attempt(() => fs.writeFileSync('/var/tmp/jibe-test', 'x')),
			env: Object.keys(process.env).filter((n) => n !== '_' && n !== 'SHLVL').sort().join() + process.env.SECRET,
			evil: fs.existsSync('${run}/b/evil-ran'),
			kill: attempt(() => process.kill(1, 'SIGKILL')),
		}));`;
	const { identity } = await spawnDetached({
		argv0: 'jibe instance',
		command: node,
		args: ['-e', script],
		env: { SECRET: "it's $HOME\n`x`", BASH_ENV: join(own, 'evil'), LD_PRELOAD: '', ENV: join(own, 'evil'), PATH: '/nowhere' },
		cwd: join(run, 'a'),
		stdout: join(data, 'isolated.log'),
		stderr: join(data, 'isolated.log'),
		uid: UID,
		binds: [nodeBind, { from: shared, to: join(run, 'a'), readonly: true }, { from: own, to: join(run, 'b'), readonly: false }],
		privateTmp: { sizeMiB: 2 },
	});
	await until('its end', () => !isAlive(identity));
	const seen = JSON.parse(file('isolated.log'));
	assert.deepEqual(seen, {
		uid: UID,
		gid: UID,
		groups: [UID],
		caps: '0000000000000000',
		privs: '1',
		code: 'hi',
		change: 'EROFS',
		own: 'undefined',
		data: 'ENOENT',
		tmp: '',
		fill: 'ENOSPC',
		shm: 'ENOSPC',
		vartmp: 'EROFS',
		env: "BASH_ENV,ENV,LD_PRELOAD,PATH,SECRETit's $HOME\n`x`",
		evil: false,
		kill: 'EPERM',
	});
});

const noCgroup = isolation().cgroup && isolation().mounts ? false : 'needs cgroups';

test('a cgroup limits memory and processes, freezes, and kills children that left the process group', { skip: noCgroup }, async () => {
	const cgroup = createCgroup(`${groups}/a`, { memoryMiB: 256, pids: 40, cpuMillis: 500 });
	const log = join(data, 'ticks.log');
	const { identity } = await spawnDetached({
		argv0: 'jibe instance',
		command: node,
		args: ['-e', `require('child_process').spawn('sleep', ['60'], { detached: true }); setInterval(() => console.log('tick'), 10)`],
		env,
		cwd: '/',
		stdout: log,
		uid: UID,
		binds: [nodeBind],
		cgroup,
	});
	await until('ticks', () => file('ticks.log').length > 20 && cgroupPids(cgroup).length === 2);
	assert.deepEqual(cgroupOf(identity.pid), cgroup);
	assert.equal(cgroupOf(process.pid), null);
	freeze(identity, cgroup);
	let before = -1;
	await until('silence', () => {
		const now = file('ticks.log').length;
		const still = now === before;
		before = now;
		return still;
	});
	thaw(identity, cgroup);
	await until('more ticks', () => file('ticks.log').length > before + 20);
	freeze(identity, cgroup);
	killTree(identity, cgroup);
	await until('the end of all', () => !isAlive(identity) && cgroupPids(cgroup).length === 0);
	await until('its removal', () => removeCgroup(cgroup));
});

test('more memory than allowed ends the process, and the group knows why', { skip: noCgroup }, async () => {
	const cgroup = createCgroup(`${groups}/b`, { memoryMiB: 80, pids: 40 });
	const { identity } = await spawnDetached({
		argv0: 'jibe instance',
		command: node,
		args: ['-e', 'const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1))'],
		env,
		cwd: '/',
		uid: UID,
		binds: [nodeBind],
		cgroup,
	});
	await until('its end', () => !isAlive(identity));
	assert.equal(cgroupOomKills(cgroup), 1);
	await until('its removal', () => removeCgroup(cgroup));
});

test('without a cgroup a process is frozen by signals', async () => {
	const { identity } = await spawnDetached({ argv0: 'jibe instance', command: 'sleep', args: ['60'], env, cwd: '/' });
	freeze(identity);
	if (process.platform === 'linux') {
		await until('stop', () => readFileSync(`/proc/${identity.pid}/stat`, 'utf8').includes(') T '));
		thaw(identity);
		await until('thaw', () => !readFileSync(`/proc/${identity.pid}/stat`, 'utf8').includes(') T '));
	}
	killTree(identity);
	await until('its end', () => !isAlive(identity));
});

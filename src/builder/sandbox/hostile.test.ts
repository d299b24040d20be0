import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { lookup } from 'node:dns/promises';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, before, describe, test, type TestContext } from 'node:test';
import { pause } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import { cgroupAbilities } from '#process/cgroup.ts';
import { reachOf } from '../reach.ts';
import { Holder } from './holder.ts';
import { openSandboxes } from './open.ts';
import type { SandboxKind, SandboxLimits } from './sandbox.ts';
import { openTestbed, tell, whyNot, type Testbed } from './testbed.ts';

/** Commands that mean harm, or do it: each is stopped, said why, and leaves nothing. */
const NO_LIMITS = cgroupAbilities().limits.includes('memory') ? false : 'needs cgroups';
const KILLED = { exitCode: null, signal: 'SIGKILL' } as const;

for (const kind of ['crun', 'runc', 'bwrap'] satisfies SandboxKind[]) {
	describe(kind, { skip: whyNot(kind) }, () => {
		let bed: Testbed;
		before(async () => void (bed = await openTestbed(kind)));
		after(() => bed.close());

		test('forks without end', { skip: NO_LIMITS }, async () => void (await stopped('f() { f | f & }; f; sleep 300', { pids: 64 }, 'pids')));
		test(
			'fills memory',
			{ skip: NO_LIMITS },
			async () => void (await stopped('head -c 2000M /dev/zero | tail; sleep 300', { memoryMiB: 64 }, 'memory')),
		);
		test('fills the disk with one file', async () => void (await stopped('head -c 300M /dev/zero > big', { diskMiB: 24 }, 'disk')));
		test('fills the disk with many', async () => void (await stopped(FILL, { diskMiB: 24 }, 'disk')));
		test('fills /tmp and its home', async () => void (await stopped(`cd $(mktemp -d); ${FILL} & cd; ${FILL}`, { diskMiB: 24 }, 'disk')));
		test('sleeps for ever', async () => void (await stopped('sleep 300', {}, 'timeout', 300)));
		test('ignores every signal it can', async () =>
			void (await stopped("trap '' TERM INT HUP; while :; do sleep 300; done", {}, 'timeout', 300)));
		test('prints without end', async () => {
			const { out } = await stopped('yes', { outputMiB: 1 }, 'output');
			assert.equal(out.length, 2 ** 20);
		});

		test('leaves processes behind', async () => {
			const mark = `300.${process.pid}`;
			const one = await bed.sandbox();
			const { exitCode } = await tell(one, `setsid sleep ${mark} & (setsid sleep ${mark} >/dev/null 2>&1 </dev/null &) ; exit 0`);
			assert.equal(exitCode, 0);
			assert.deepEqual(processesWith(`sleep\0${mark}`), []);
		});

		test('writes outside, and changes what it runs on', async () => {
			const places = [
				'/',
				'/usr',
				'/usr/bin',
				'/etc',
				'/bin',
				'/lib',
				'/run',
				'/run/secrets',
				'/home',
				'/var',
				'/opt',
				'/proc',
				'/proc/sys/kernel',
			];
			const attempts = [
				...places.map((place) => `touch ${place}/evil`),
				'echo evil >> /etc/passwd',
				'echo evil > /usr/bin/env',
				'echo 1 > /proc/sys/kernel/panic',
				'echo b > /proc/sysrq-trigger',
				'mount -t tmpfs tmpfs /tmp',
				'umount /src',
				'unshare --user --map-root-user true',
				'mknod /tmp/disk b 8 0',
				'chown 0 /src',
				'chroot / true',
				'setpriv --reuid 0 true',
				'hostname evil',
				'cat /proc/kcore > /dev/null',
				'date -s 2001-01-01',
			];
			const { out } = await tell(await bed.sandbox(), attempts.map((one) => `(${one}) >/dev/null 2>&1 && echo "did: ${one}"`).join('\n'));
			assert.equal(out, '');
			assert.ok(!existsSync('/usr/evil') && !existsSync('/evil'));
		});

		test("reads another build's files, processes and secrets, and this machine's", async () => {
			const mark = `300.1${process.pid}`;
			const victim = await bed.sandbox({ 'private.txt': 'private' }, { secrets: { TOKEN: 'tok-other' } });
			let begun = () => {};
			const running = new Promise<void>((resolve) => (begun = resolve));
			const other = tell(victim, `echo here > /tmp/mine; echo started; sleep ${mark}`, { onOutput: () => begun() });
			await running;
			const found = bed.files({ 'host.txt': 'host' });
			const script = `ls -A /tmp /run/secrets /src; ls ${bed.directory} ${found} ${process.cwd()}/package.json /root /etc/shadow /var/log /sys 2>/dev/null
				cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '${mark}'; cat /proc/1/root${found}/host.txt 2>/dev/null
				kill -9 -1`;
			const { out } = await tell(await bed.sandbox(), ['/bin/sh', '-c', script.replace(mark, mark.replace('.1', '[.]1'))]);
			assert.equal(out.replaceAll(/^(\/tmp|\/run\/secrets|\/src):\n\n?/gm, ''), '0\n');
			victim.kill();
			assert.equal((await other).signal, 'SIGKILL');
		});

		test('opens the network', async (t) => {
			const [ours, allowed, hidden] = [await listening(t), await listening(t), await listening(t)];
			const files = { 'dial.js': DIAL, 'own.js': OWN_SERVER };
			const one = await bed.sandbox(files);
			const apart = await tell(one, `node dial.js 127.0.0.1:${ours.port}; node own.js; tail -n +3 /proc/net/dev | grep -vc lo:`);
			assert.equal(apart.out, 'ECONNREFUSED\nown\n0\n');
			// What is allowed is here, too, so that this needs no internet.
			const reach = await reachOf({ reach: { allowed: [`127.0.0.1:${allowed.port}`], own: [] } });
			const network = { ...reach, places: [...reach.places, { address: '127.0.0.1', port: hidden.port }] };
			const dials = ['allowed', 'ours', 'hidden'].map(
				(name, index) => `node dial.js 127.0.0.1:${[allowed, ours, hidden][index]!.port} ${name}`,
			);
			const others = ['169.254.169.254:80', '10.1.2.3:443', '1.1.1.1:5432'].map((place) => `node dial.js ${place}`);
			const changes = 'ip route del local default; ip addr add 10.9.9.9/8 dev lo; nsenter -t 1 -n true';
			const script = [...dials, ...others, 'node own.js', 'tail -n +3 /proc/net/dev | grep -vc lo:', `(${changes}) 2>/dev/null`].join('\n');
			const { out, err } = await tell(one, script, { network });
			assert.equal(out, 'reached\nECONNREFUSED\nECONNRESET\nECONNRESET\nECONNRESET\nECONNREFUSED\nown\n0\n');
			assert.deepEqual(
				[...err.matchAll(/^jibe: (\S+) is not an address of the public internet/gm)].map(([, place]) => place),
				[`127.0.0.1:${hidden.port}`, '169.254.169.254:80', '10.1.2.3:443'],
			);
			assert.match(err, /an admin can list it, "jibe outbound allow 10\.1\.2\.3:443"/);
			assert.deepEqual([ours, allowed, hidden].map(({ connections }) => connections()), [0, 1, 0]); // prettier-ignore
		});

		test('is killed while its way out is made, and while it waits for an answer', async (t) => {
			const { port } = await listening(t, () => {});
			const network = { allows: () => true, places: [{ address: '127.0.0.1', port }] };
			const one = await bed.sandbox({ 'dial.js': DIAL });
			const early = tell(one, 'echo too late', { network });
			one.kill();
			const { exitCode, signal, out } = await early;
			assert.deepEqual({ exitCode, signal, out }, { ...KILLED, out: '' });
			const waiting = tell(one, `node dial.js 127.0.0.1:${port}`, { network, timeoutMs: 1_000 });
			assert.equal((await waiting).reason, 'timeout');
			assert.deepEqual(
				processesWith(`${process.execPath}\0-e\0`).filter((pid) => isChild(pid)),
				[],
			);
		});

		test('asks for names, which this machine answers', async () => {
			const one = await bed.sandbox({ 'names.js': NAMES });
			const network = { allows: () => false, places: [] };
			const { out } = await tell(one, 'grep -c ^nameserver /etc/resolv.conf; node names.js', { network });
			const there = await lookup('example.com').then(() => 'known', () => 'unknown'); // prettier-ignore
			assert.equal(out, `1\n${there}\n`);
		});

		test('leads outputs astray by links', async () => {
			const one = await bed.sandbox({ 'real/a': 'a' });
			assert.equal((await tell(one, 'ln -s /etc dist; ln -s / real/root; ln -s /etc/passwd real/users; mkfifo real/pipe')).exitCode, 0);
			assert.deepEqual(await one.outputs(['dist/passwd', 'real/root/etc/passwd']), []);
			assert.deepEqual(
				(await one.outputs(['dist/passwd', 'dist/**', 'dist', 'real/**'])).map(({ path, target }) => [path, target]),
				[['dist', '/etc'], ['real/a', null], ['real/root', '/'], ['real/users', '/etc/passwd']], // prettier-ignore
			);
		});

		async function stopped(command: string, limits: Partial<SandboxLimits>, reason: string, timeoutMs = 60_000) {
			const one = await bed.sandbox({}, { limits });
			const told = await tell(one, command, { timeoutMs });
			assert.deepEqual({ exitCode: told.exitCode, signal: told.signal, reason: told.reason }, { ...KILLED, reason });
			return told;
		}
	});
}

test('a holder that is killed fails what is asked of it, and goes with its sandbox', { skip: whyNot() }, async () => {
	const holder = await Holder.open(null);
	await assert.rejects(holder.run('echo no such disk; false'), { code: 'sandbox_failed', message: /no such disk/ });
	await holder.run('true');
	const asleep = holder.run('kill -9 $$');
	await assert.rejects(asleep, { code: 'sandbox_failed' });
	await assert.rejects(holder.run('true'), { code: 'sandbox_failed' });
	await holder.close();
});

/** Files of 256 KiB. */
const FILL = 'i=0; while :; do head -c 262144 /dev/zero > fill$i || exit 1; i=$((i+1)); done';
const OWN_SERVER = `require('net').createServer((s) => s.end('own')).listen(0, '127.0.0.1', function () {
	require('net').connect(this.address().port, '127.0.0.1').on('data', (d) => { console.log(String(d)); process.exit(); });
});`;

const DIAL = `const [host, port] = process.argv[2].split(':');
require('net').connect(Number(port), host).on('data', (d) => { console.log(String(d)); process.exit(); }).on('error', (e) => console.log(e.code));`;
const NAMES = `require('dns').resolve4('example.com', (error) => console.log(error ? 'unknown' : 'known'));`;

async function listening(t: TestContext, answer = (socket: Socket) => void socket.end('reached')) {
	let connections = 0;
	const server = createServer((socket) => {
		connections++;
		answer(socket.on('error', () => {}));
	}).listen(0, '127.0.0.1');
	await once(server, 'listening');
	t.after(() => server.close());
	return { port: (server.address() as AddressInfo).port, connections: () => connections };
}

test('a builder that is killed takes what it ran with it, and the next one clears up', { skip: whyNot() }, async (t) => {
	const { directory, close } = await openTestbed();
	t.after(close);
	const work = join(directory, 'killed');
	const mark = `300.2${process.pid}`;
	const builder = spawn(process.execPath, [fileURLToPath(import.meta.resolve('../../../test/fixtures/sleeping-builder.ts')), work, mark], {
		stdio: ['ignore', 'pipe', 'inherit'],
	});
	await once(builder.stdout, 'data');
	for (let left = LOOKS; processesWith(`sleep\0${mark}`).length === 0 && left > 0; left--) await pause(LOOK_MS);
	assert.notDeepEqual(processesWith(`sleep\0${mark}`), []);
	builder.kill('SIGKILL');
	await once(builder, 'exit');
	for (let left = LOOKS; processesWith(`sleep\0${mark}`).length > 0 && left > 0; left--) await pause(LOOK_MS);
	assert.deepEqual(processesWith(`sleep\0${mark}`), []);
	assert.equal(readdirSync(work).length, 1);
	const next = await openSandboxes({ directory: work, log: createLog({}, { write: () => {} }) });
	assert.deepEqual(readdirSync(work).map((name) => name.split('-')[0]), [String(process.pid)]); // prettier-ignore
	await next.close();
	assert.deepEqual(readdirSync(work), []);
});

const LOOKS = 500;
const LOOK_MS = 20;

function isChild(pid: string): boolean {
	return readFileSync(`/proc/${pid}/status`, 'utf8').includes(`PPid:\t${process.pid}\n`);
}

/** Pids of processes whose command line holds the text. */
function processesWith(text: string): string[] {
	return readdirSync('/proc').filter((name) => {
		if (!/^\d+$/.test(name)) return false;
		try {
			return readFileSync(`/proc/${name}/cmdline`, 'utf8').startsWith(text);
		} catch {
			return false; // it has ended
		}
	});
}

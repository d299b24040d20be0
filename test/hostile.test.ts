import assert from 'node:assert/strict';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { runDirectory } from '#process/directory.ts';
import { isolation } from '#process/isolation.ts';
import { tinyApp, type App } from './fixtures/app.ts';
import { eventually, startJibe, type Jibe } from './fixtures/jibe.ts';
import { startTraffic } from './fixtures/traffic.ts';

/** An app that means harm, in a whole installation: beside another app, and beside Jibe itself. */

const can = isolation();
const skip = can.uid && can.mounts && can.cgroup ? false : `not enforced here: ${can.missing.join('; ')}`;

/** Runs what it is posted (the body of an async function) and answers with what that returned. */
const HOSTILE = `import * as fs from 'node:fs';
import * as net from 'node:net';
import * as path from 'node:path';
import * as child from 'node:child_process';
const attempt = async (work: () => unknown) => {
	try {
		return (await work()) ?? 'done';
	} catch (error) {
		return (error as { code?: string; message: string }).code ?? (error as Error).message;
	}
};
const reach = (where: string) =>
	attempt(() => new Promise((resolve, reject) => net.connect(where, () => resolve('connected')).on('error', reject)));
export default {
	async fetch(request: Request) {
		if (request.method !== 'POST') return new Response('harmless');
		const names = ['fs', 'net', 'path', 'child', 'attempt', 'reach'];
		const run = new Function(...names, 'return (async () => {' + (await request.text()) + '})()');
		return Response.json((await run(fs, net, path, child, attempt, reach)) ?? null);
	},
};
`;
const VICTIM = `import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
const notes = join(process.env.JIBE_DATA_DIR!, 'notes');
if (!existsSync(notes)) writeFileSync(notes, 'private', { mode: 0o666 });
export default { fetch: () => Response.json({ notes: readFileSync(notes, 'utf8'), data: process.env.JIBE_DATA_DIR, cwd: process.cwd() }) };
`;
const REFUSED = /^(EACCES|EPERM|ENOENT|EROFS)$/;

let jibe: Jibe;
let victim: App;
let hostile: App;
let theirs: { notes: string; data: string; cwd: string };

before(async () => {
	if (skip) return;
	jibe = await startJibe({ regions: 2 });
	victim = tinyApp('victim', VICTIM, { env: { SECRET: 'of the victim' } });
	hostile = tinyApp('hostile', HOSTILE, { memory: 200 });
	await jibe.expect(0, ['deploy', '--json'], { cwd: victim.dir });
	await jibe.expect(0, ['deploy', '--json'], { cwd: hostile.dir });
	theirs = (await jibe.request(0, 'victim.localhost', '/')).json as typeof theirs;
});
after(async () => {
	if (skip) return;
	victim[Symbol.dispose]();
	hostile[Symbol.dispose]();
	await jibe.stop();
});

async function run(code: string): Promise<unknown> {
	const { status, body } = await jibe.request(0, 'hostile.localhost', '/', { method: 'POST', body: code });
	assert.equal(status, 200, body);
	return JSON.parse(body);
}

async function refused(code: string, what: string): Promise<void> {
	assert.match(String(await run(code)), REFUSED, what);
}

/** What lies below a directory, as its owner sees it. */
function below(directory: string): string[] {
	return readdirSync(directory, { recursive: true, encoding: 'utf8' }).map((name) => join(directory, name));
}

test('it reads nothing of the installation: keys, token, credentials, database, stores, logs, other apps', { skip }, async () => {
	const places = [jibe.data, ...below(jibe.data)];
	for (const name of ['admin.token', 'credentials/agent.json', 'postgres', 'blobs/packs', 'agent', 'depot', 'edge', 'logs/control.log'])
		assert.ok(places.includes(join(jibe.data, name)), `${name} is there to be tried`);
	const read = (paths: readonly string[]) =>
		run(`const got = [];
			for (const file of ${JSON.stringify(paths)}) {
				const how = await attempt(() => fs.statSync(file).isDirectory() ? fs.readdirSync(file) : fs.readFileSync(file, 'latin1'));
				if (!${String(REFUSED)}.test(how)) got.push(file);
			}
			return got;`);
	assert.deepEqual(await read(places), []);
	assert.deepEqual(await read([theirs.data, join(theirs.data, 'notes'), theirs.cwd, join(theirs.cwd, 'package.json')]), []);
	await refused(`return attempt(() => fs.writeFileSync(${JSON.stringify(join(theirs.data, 'notes'))}, 'changed'))`, 'write');
	// Not by another way either: what other processes see, hold open, or were started with.
	const others = jibe.pids().filter(({ line }) => !line.includes(' hostile '));
	const doors = ['environ', 'mem', 'maps', 'fd/1', 'cwd/x', `root${jibe.data}/admin.token`];
	assert.ok(others.some(({ role }) => role === 'instance') && others.some(({ role }) => role === 'postgres'));
	assert.deepEqual(await read(others.flatMap(({ pid }) => doors.map((name) => `/proc/${pid}/${name}`))), []);
	const open = (await run(
		`return fs.readdirSync('/proc/self/fd').map((fd) => { try { return fs.readlinkSync('/proc/self/fd/' + fd); } catch { return ''; } })`,
	)) as string[];
	assert.deepEqual(
		open.filter((path) => path.startsWith(jibe.data) && !/\/agent\/(logs|apps|files|cache)\//.test(path)),
		[],
	);
});

test('it connects to no socket of Jibe, of the database, or of another app', { skip }, async () => {
	const sockets = below(runDirectory(jibe.data)).filter((path) => statSync(path, { throwIfNoEntry: false })?.isSocket());
	assert.ok(sockets.some((path) => path.endsWith('depot.sock')));
	assert.ok(sockets.some((path) => path.includes('.s.PGSQL')));
	const reached = (await run(
		`const got = []; for (const path of ${JSON.stringify(sockets)}) if (await reach(path) === 'connected') got.push(path); return got;`,
	)) as string[];
	// Its own instances, in both regions, are of its own uid.
	const uid = Number(await run('return process.getuid()'));
	assert.ok(uid > 0);
	assert.deepEqual(
		reached.filter((path) => statSync(path).uid !== uid),
		[],
	);
	assert.ok(reached.length < sockets.length);
	// By TCP there are control and the edges: control says nothing without a token.
	for (const path of ['/api/v1/apps', '/api/v1/tokens', '/metrics', '/blobs/sha256:00', '/link'])
		assert.match(String(await run(`return (await fetch('${jibe.url}${path}')).status`)), /^(401|403|404|426)$/, path);
	assert.equal(
		await run(`return (await fetch('${jibe.url}/api/v1/apps', { headers: { authorization: 'Bearer ' + 'a'.repeat(43) } })).status`),
		401,
	);
});

test('it signals, traces and slows nobody', { skip }, async () => {
	await using traffic = startTraffic(jibe, 'victim.localhost', '/', [0, 1]);
	const others = jibe.pids().filter(({ line }) => !line.includes(' hostile '));
	for (const { pid, line } of others) {
		for (const signal of ['SIGKILL', 'SIGSTOP', 'SIGUSR1'])
			assert.equal(await run(`return attempt(() => process.kill(${pid}, '${signal}'))`), 'EPERM', `${signal} to ${line}`);
		assert.match(String(await run(`return attempt(() => fs.writeFileSync('/proc/${pid}/oom_score_adj', '1000'))`)), REFUSED, line);
	}
	// To all that may be signalled, and so to nobody but its own processes: it dies, others do not notice.
	const before = await run('return process.pid');
	await run(`setTimeout(() => child.spawn('kill', ['-9', '-1']), 10)`);
	await eventually(async () => {
		const { status, body } = await jibe.request(0, 'hostile.localhost', '/', { method: 'POST', body: 'return process.pid' });
		return status === 200 && JSON.parse(body) !== before ? true : null;
	}, 'restart of the hostile app');
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
	const now = new Set(jibe.pids().map(({ pid }) => pid));
	assert.deepEqual(
		others.filter(({ pid, role }) => role !== 'postgres' && !now.has(pid)),
		[],
	);
});

test('it writes to no place but its own: the rest is read-only, and what is its own is limited', { skip }, async () => {
	const writable = await run(`const got = [];
		const places = fs.readFileSync('/proc/self/mounts', 'utf8').trim().split('\\n').map((row) => row.split(' ')[1]);
		for (const place of [...places, '/', '/var/tmp', '/run', '/run/lock', '/dev/shm', '/dev/mqueue', '/home', '/root', '/var/lock', process.cwd()]) {
			const file = path.join(place, 'jibe-hostile');
			if (await attempt(() => fs.writeFileSync(file, 'x')) === 'done') got.push(place);
		}
		return [...new Set(got)];`);
	// The first four are one small file system in memory of its own; what lies in the others is measured.
	const own = /^(\/dev\/shm|\/tmp|\/var\/tmp|\/run\/lock|.*\/m\/hostile\/production\/(files|cache))$/;
	assert.deepEqual(
		(writable as string[]).filter((place) => !own.test(place)),
		[],
	);
});

test('it fills memory, /tmp and the table of processes only for itself', { skip }, async () => {
	await using traffic = startTraffic(jibe, 'victim.localhost', '/', [0, 1]);
	const big = `const b = Buffer.alloc(8 << 20); for (let i = 0; i < 200; i++) { const how = await attempt(() => fs.appendFileSync('/tmp/big', b)); if (how !== 'done') { fs.rmSync('/tmp/big'); return how; } }`;
	assert.match(String(await orEnds(big)), /^(ENOSPC|ended)$/);
	const forks = `for (let n = 0; n < 500; n++) { const how = await attempt(() => new Promise((ok, no) => child.spawn('sleep', ['30']).once('spawn', ok).once('error', no))); if (how !== 'done') return how; }`;
	assert.match(String(await orEnds(forks)), /^(EAGAIN|ENOMEM|ended)$/);
	assert.equal(await orEnds(`const held = []; for (;;) held.push(Buffer.alloc(8 << 20, 1));`), 'ended');
	await eventually(
		async () => ((await jibe.request(0, 'hostile.localhost', '/')).status === 200 ? true : null),
		'restart of the hostile app',
	);
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
	using next = tinyApp('neighbour', `export default { fetch: () => new Response('fine') };\n`);
	await jibe.expect(0, ['deploy', '--json'], { cwd: next.dir });
});

/** The answer, or that the process did not live to give one. */
async function orEnds(code: string): Promise<unknown> {
	const { status, body } = await jibe
		.request(0, 'hostile.localhost', '/', { method: 'POST', body: code })
		.catch(() => ({ status: 0, body: '' }));
	if (status === 200) return JSON.parse(body);
	await eventually(
		async () => ((await jibe.request(0, 'hostile.localhost', '/')).status === 200 ? true : null),
		'restart of the hostile app',
	);
	return 'ended';
}

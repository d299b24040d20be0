import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { runDirectory } from '#process/directory.ts';
import { isolation } from '#process/isolation.ts';
import type { Instance } from '#wire/region.ts';
import { ask, openTestbed } from './testbed.ts';

/** An app that means harm, beside one that has something to lose. */
const can = isolation();
const skip = can.uid && can.mounts && can.cgroup ? false : `not enforced here: ${can.missing.join('; ')}`;
const bed = await openTestbed();
after(() => bed.close());
const health = { path: '/', timeoutMs: 2_000, strict: false };

/** Runs `code` (an async function body) in the app and answers with what it returned or threw. */
const RUNNER = `
	import * as fs from 'node:fs';
	import * as net from 'node:net';
	import * as path from 'node:path';
	import * as child from 'node:child_process';
	const attempt = async (work) => { try { return await work(); } catch (error) { return error.code ?? error.message; } };
	const reach = (where) => attempt(() => new Promise((resolve, reject) => net.connect(where, () => resolve('connected')).on('error', reject)));
	export default { async fetch(request) {
		if (request.method !== 'POST') return new Response('ok');
		const run = new Function('fs', 'net', 'path', 'child', 'attempt', 'reach', 'return (async () => {' + (await request.text()) + '})()');
		return Response.json((await run(fs, net, path, child, attempt, reach)) ?? null);
	} };`;

async function serve(app: string): Promise<Instance> {
	const spec = bed.release(bed.put({ 'src/server.ts': RUNNER, 'secret.html': app }), {
		app,
		health,
		memoryMiB: 200,
		env: { SECRET: `of ${app}` },
	});
	bed.want(spec, [{ release: spec.release, instances: 1, as: 'serving' }]);
	const [instance] = await bed.until(spec, 'serving', ([i]) => i?.state === 'serving');
	assert.ok(instance);
	return instance;
}

const run = async (instance: Instance, code: string): Promise<unknown> =>
	JSON.parse((await ask(instance, '/', { method: 'POST', body: code })).body);

test('it reaches nothing of others: files, sockets, processes, and what is Jibe’s', { skip }, async () => {
	const victim = await serve('victim');
	const hostile = await serve('hostile');
	const secrets = ['admin.token', 'credentials/agent.json', 'postgres/data', 'agent/wants.json', 'agent/blobs/packs'];
	for (const file of secrets) {
		mkdirSync(join(bed.data, file, '..'), { recursive: true });
		if (!file.startsWith('agent')) writeFileSync(join(bed.data, file), 'secret', { mode: 0o644 });
	}
	await run(victim, `fs.writeFileSync(path.join(process.env.JIBE_DATA_DIR, 'notes'), 'private')`);
	const theirs = (await run(victim, `return { data: process.env.JIBE_DATA_DIR, cwd: process.cwd() }`)) as { data: string; cwd: string };

	for (const file of [...secrets.map((name) => join(bed.data, name)), join(theirs.data, 'notes'), join(theirs.cwd, 'secret.html')]) {
		assert.match(
			String(await run(hostile, `return attempt(() => fs.readFileSync(${JSON.stringify(file)}, 'utf8'))`)),
			/^(EACCES|ENOENT)$/,
			file,
		);
	}
	const sockets = ['http', 'control'].map((name) => victim.address!.replace('unix:', '').replace(/http$/, name));
	for (const socket of [...sockets, join(runDirectory(bed.data), 'depot.sock')]) {
		assert.match(String(await run(hostile, `return reach(${JSON.stringify(socket)})`)), /^(EACCES|ENOENT)$/, socket);
	}
	const pid = victim.pid;
	assert.equal(await run(hostile, `return attempt(() => process.kill(${pid}, 'SIGKILL'))`), 'EPERM');
	assert.equal(await run(hostile, `return attempt(() => process.kill(${process.pid}, 'SIGSTOP'))`), 'EPERM');
	for (const name of ['environ', 'mem', 'root/etc/passwd', 'cwd/secret.html']) {
		assert.match(
			String(await run(hostile, `return attempt(() => fs.readFileSync('/proc/${pid}/${name}', 'utf8'))`)),
			/^(EACCES|EPERM)$/,
			name,
		);
	}
	assert.equal(await run(victim, `return fs.readFileSync(path.join(process.env.JIBE_DATA_DIR, 'notes'), 'utf8')`), 'private');
});

test('it can’t change its release, the program it runs in, or put another socket in the place of its own', { skip }, async () => {
	const hostile = await serve('changer');
	const own = hostile.address!.replace('unix:', '');
	assert.deepEqual(
		await run(
			hostile,
			`return [
				await attempt(() => fs.writeFileSync('secret.html', 'x')),
				await attempt(() => fs.writeFileSync(process.argv[1], 'x')),
				await attempt(() => fs.writeFileSync(process.execPath, 'x')),
				await attempt(() => fs.rmSync(${JSON.stringify(own)})),
				await attempt(() => fs.symlinkSync('/run/docker.sock', ${JSON.stringify(`${own}2`)})),
				await attempt(() => fs.writeFileSync('/var/tmp/x', 'x')),
				await attempt(() => fs.writeFileSync('/etc/x', 'x')),
			]`,
		),
		['EROFS', 'EROFS', 'EROFS', 'EACCES', 'EACCES', 'EROFS', 'EROFS'],
	);
	assert.notEqual(await run(hostile, `return child.spawnSync('mount', ['-t', 'tmpfs', 'x', '/tmp']).status`), 0);
});

test('it can’t fill memory, /tmp, or the table of processes', { skip }, async () => {
	const hostile = await serve('filler');
	const filled = `const b = Buffer.alloc(8 << 20); for (let i = 0; i < 100; i++) { const c = await attempt(() => fs.appendFileSync('/tmp/big', b)); if (c) return c; }`;
	assert.equal(await run(hostile, filled), 'ENOSPC');
	const forks = `let n = 0; try { for (; n < 400; n++) { const c = child.spawn('sleep', ['60']); await new Promise((ok, no) => c.once('spawn', ok).once('error', no)); } } catch (error) { return error.code; } return n;`;
	assert.match(String(await Promise.race([run(hostile, forks), hostileEnds(hostile)])), /EAGAIN|ENOMEM|ended/);
});

async function hostileEnds(instance: Instance): Promise<string> {
	await bed.until({ app: 'filler' }, 'its end', ([now]) => now?.pid !== instance.pid);
	return 'ended';
}

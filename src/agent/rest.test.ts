import assert from 'node:assert/strict';
import { mkdirSync, rmdirSync } from 'node:fs';
import { connect } from 'node:net';
import { after, test } from 'node:test';
import { pause } from '#clock/clock.ts';
import type { Instance, ReleaseSpec } from '#wire/region.ts';
import { ask, openTestbed } from './testbed.ts';

/** Whoever sent a request to an instance that is put to rest gets an answer: nothing is ever frozen along with it. */
const bed = await openTestbed();
after(() => bed.close());
/** What is frozen along with an instance waits for ever. */
const LIMIT = { timeout: 20_000 };

const SLOW = `
	import { setTimeout } from 'node:timers/promises';
	export default async (request) => {
		if (new URL(request.url).pathname === '/slow') await setTimeout(300);
		return new Response('done');
	};`;

async function pair(app: string, first: 'serving' | 'prepared'): Promise<{ one: ReleaseSpec; two: ReleaseSpec; instance: Instance }> {
	const more = { app, health: { path: '/', timeoutMs: 2000, strict: false } };
	const artifact = bed.put({ 'src/server.ts': SLOW });
	const [one, two] = [bed.release(artifact, more), bed.release(artifact, more)];
	const prepared = { release: two.release, instances: 1, as: 'prepared' as const };
	bed.want([one, two], [{ release: one.release, instances: 1, as: first }, prepared], { primary: one.release });
	const all = await bed.until(one, `${first} and prepared`, (now) =>
		now.some((i) => i.release === one.release && i.state === first && i.healthy) && now.some((i) => i.release === two.release && i.healthy),
	); // prettier-ignore
	const instance = all.find(({ release }) => release === one.release);
	assert.ok(instance);
	return { one, two, instance };
}

function swing({ one, two }: { one: ReleaseSpec; two: ReleaseSpec }): void {
	bed.want([one, two], [
		{ release: one.release, instances: 1, as: 'warm' },
		{ release: two.release, instances: 1, as: 'serving' },
	]); // prettier-ignore
}

const isWarm = (release: number) => (all: Instance[]) => all.some((i) => i.release === release && i.state === 'warm');

test('nobody can connect to an instance that is frozen, and everybody to one that was thawed', LIMIT, async () => {
	const { one, two, instance } = await pair('door', 'serving');
	swing({ one, two });
	await bed.until(one, 'warm', isWarm(one.release));
	await assert.rejects(ask(instance, '/'), { code: 'ENOENT' });
	await bed.restart();
	await bed.until(one, 'warm, of the next agent', isWarm(one.release));
	await assert.rejects(ask(instance, '/'), { code: 'ENOENT' });
	bed.want([one, two], [{ release: one.release, instances: 1, as: 'serving' }, { release: two.release, instances: 1, as: 'warm' }]); // prettier-ignore
	await bed.until(one, 'serving', (all) => all.some((i) => i.release === one.release && i.state === 'serving' && i.healthy));
	assert.equal((await ask(instance, '/')).body, 'done');
});

test('requests that lay unread in the queue of a starved instance are answered before it rests', LIMIT, async () => {
	const { one, two, instance } = await pair('starved', 'serving');
	assert.ok(instance.pid);
	process.kill(instance.pid, 'SIGSTOP');
	const asked = Array.from({ length: 100 }, () => ask(instance, '/slow'));
	swing({ one, two });
	process.kill(instance.pid, 'SIGCONT');
	await bed.until(one, 'warm', isWarm(one.release));
	assert.deepEqual(new Set((await Promise.all(asked)).map(({ body }) => body)), new Set(['done']));
});

test('a request on a connection that was there before the drain is answered', LIMIT, async () => {
	const { one, two, instance } = await pair('late', 'serving');
	const socket = connect(instance.address?.replace('unix:', '') ?? '');
	await new Promise((resolve) => socket.once('connect', resolve));
	swing({ one, two });
	await bed.until(one, 'draining', (all) => all.some((i) => i.release === one.release && i.state !== 'serving'));
	// An edge that got no processor time between its connecting and its writing.
	await pause(200);
	socket.write('GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n');
	let said = '';
	for await (const chunk of socket) said += String(chunk);
	assert.match(said, /^HTTP\/1.1 200 OK\r\n[^]*done/);
	await bed.until(one, 'warm', isWarm(one.release));
});

test('one that the pointer named before it was told to serve is drained too', LIMIT, async () => {
	const { one, two, instance } = await pair('named', 'prepared');
	const asked = ask(instance, '/slow');
	await ask(instance, '/'); // so that the one before has been read
	swing({ one, two });
	assert.equal((await asked).body, 'done');
	await bed.until(one, 'warm', isWarm(one.release));
});

test('one that can not be put to rest is left awake, and those behind it rest', LIMIT, async () => {
	const stuck = await pair('stuck', 'serving');
	const next = await pair('next', 'serving');
	const door = (stuck.instance.address ?? '').replace('unix:', '');
	// Where the name of its socket is moved to while it is frozen.
	mkdirSync(`${door}.shut`);
	swing(stuck);
	swing(next);
	await bed.until(next.one, 'warm', isWarm(next.one.release));
	const [left] = bed.instances(stuck.one).filter(({ release }) => release === stuck.one.release);
	assert.equal(left?.state, 'prepared');
	assert.equal((await ask(stuck.instance, '/')).body, 'done');
	rmdirSync(`${door}.shut`);
	swing(stuck);
	await bed.until(stuck.one, 'warm in the end', isWarm(stuck.one.release));
});

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '#clock/clock.ts';
import { hastyClock, instanceAt, temporary } from './fixture.ts';
import { EJECT_AFTER_FAILURES, Upstream } from './upstream.ts';
import { directWay } from './way.ts';

test('five connections that fail in a row eject; one that succeeds brings it back', async (t) => {
	const path = join(temporary(t), 'i.sock');
	const address = `unix:${path}`;
	const { promise: back, resolve } = Promise.withResolvers<void>();
	const upstream = new Upstream('local', { ...instanceAt(address, 1, 'i1', 'serving'), address }, directWay(address), hastyClock, resolve);
	const fail = (): Promise<unknown> => new Promise((closed) => upstream.take().socket.once('close', closed));
	for (let i = 1; i < EJECT_AFTER_FAILURES; i++) await fail();
	assert.equal(upstream.routable(false), true);
	await fail();
	assert.equal(upstream.ejected, true);
	assert.equal(upstream.routable(false), false);
	const server = createServer((socket) => socket.destroy());
	server.listen(path);
	t.after(() => server.close());
	await back;
	assert.equal(upstream.routable(false), true);
	upstream.leave();
	assert.equal(upstream.routable(false), false);
});

test('a connection is there before the first request, and is used; one that was closed is not', async (t) => {
	const path = join(temporary(t), 'i.sock');
	const accepted: Socket[] = [];
	const server = createServer((socket) => accepted.push(socket)).listen(path);
	const address = `unix:${path}`;
	const upstream = new Upstream('local', { ...instanceAt(address, 1, 'i1', 'warm'), address }, directWay(address), systemClock, () => {});
	t.after(() => {
		upstream.leave();
		accepted.forEach((socket) => socket.destroy());
		server.close();
	});
	const ready = async (): Promise<void> => {
		upstream.ready();
		upstream.ready();
		upstream.closeStale();
		await once(server, 'connection');
	};
	await ready();
	const taken = upstream.take();
	assert.equal(accepted.length, 1);
	await ready();
	assert.equal(accepted.length, 2, 'the first is in use');
	assert.notEqual(upstream.take(), taken);
	assert.equal(accepted.length, 2, 'the second was there');
	await ready();
	const gone = upstream.take();
	upstream.onIdle(gone);
	accepted[2]?.destroy();
	await once(gone.socket, 'close');
	assert.notEqual(upstream.take(), gone);
});

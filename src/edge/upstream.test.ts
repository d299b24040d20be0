import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
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

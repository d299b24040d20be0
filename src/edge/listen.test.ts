import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { systemClock } from '#clock/clock.ts';
import { hastyClock, temporary } from './fixture.ts';
import { answerAlive, listenTogether, noteHeldPorts, PortTaken, type Life } from './listen.ts';

const PID = process.pid;

async function openServer(t: TestContext): Promise<Server> {
	const server = createServer((socket) => socket.destroy());
	t.after(() => server.close());
	return server;
}

async function holder(t: TestContext): Promise<number> {
	const server = await openServer(t);
	server.listen({ port: 0, host: '127.0.0.1', reusePort: true });
	await once(server, 'listening');
	const address = server.address();
	return typeof address === 'object' && address !== null ? address.port : 0;
}

test('a port is shared with the sibling that says it holds it, and lives', async (t) => {
	const directory = temporary(t);
	const port = await holder(t);
	noteHeldPorts({ directory, name: 'edge-0', others: [], host: '127.0.0.1' }, PID, [port]);
	const alive = await answerAlive(join(directory, 'edge-0.alive.sock'), () => 'alive');
	t.after(() => alive.close());
	const of = { directory, name: 'edge-1', others: ['edge-0'], host: '127.0.0.1' };
	assert.equal(await listenTogether(await openServer(t), port, of, systemClock), port);
});

test('a port whose holder is not known, is dead, or is another one, is taken', async (t) => {
	const directory = temporary(t);
	const port = await holder(t);
	const of = { directory, name: 'edge-1', others: ['edge-0'], host: '127.0.0.1' };
	const refused = { name: 'Error', code: 'port_taken', message: new RegExp(`port ${port} on 127\\.0\\.0\\.1 is in use`) };
	await assert.rejects(listenTogether(await openServer(t), port, of, hastyClock), refused);
	noteHeldPorts({ directory, name: 'edge-0', others: [], host: '127.0.0.1' }, PID, [port]);
	await assert.rejects(listenTogether(await openServer(t), port, of, hastyClock), PortTaken);
	const alive = await answerAlive(join(directory, 'edge-0.alive.sock'), () => 'alive');
	t.after(() => alive.close());
	noteHeldPorts({ directory, name: 'edge-0', others: [], host: '127.0.0.1' }, PID + 1, [port]);
	await assert.rejects(listenTogether(await openServer(t), port, of, hastyClock), PortTaken);
});

test('a sibling that has only begun to hold its ports is waited for; one that is about to end holds none', async (t) => {
	const directory = temporary(t);
	const port = await holder(t);
	noteHeldPorts({ directory, name: 'edge-0', others: [], host: '127.0.0.1' }, PID, [port]);
	let life: Life = 'starting';
	let asked = 0;
	const alive = await answerAlive(join(directory, 'edge-0.alive.sock'), () => {
		if (++asked === PATIENCE) life = 'alive';
		return life;
	});
	t.after(() => alive.close());
	const of = { directory, name: 'edge-1', others: ['edge-0'], host: '127.0.0.1' };
	assert.equal(await listenTogether(await openServer(t), port, of, systemClock), port);
	assert.equal(asked, PATIENCE);
	life = 'closing';
	await assert.rejects(listenTogether(await openServer(t), port, of, hastyClock), PortTaken);
});

test('who says something on the connection is answered again, as things are then; who says nothing sees its end', async (t) => {
	const directory = temporary(t);
	const path = join(directory, 'edge-0.alive.sock');
	let life: Life = 'alive';
	const alive = await answerAlive(path, () => life);
	t.after(() => alive.close());
	const held = connect(path);
	held.write('\n');
	let said = '';
	while (said.split('\n').length < 3) said += String((await once(held, 'data'))[0]);
	life = 'closing';
	held.write('\n');
	const [last] = (await once(held, 'data')) as [Buffer];
	assert.deepEqual([said, String(last)], [`alive ${PID}\nalive ${PID}\n`, `closing ${PID}\n`]);
	const other = connect(path).resume();
	await once(other, 'close');
	assert.equal(held.destroyed, false);
	held.destroy();
});

const PATIENCE = 5;

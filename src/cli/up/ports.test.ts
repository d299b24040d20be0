import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { test, type TestContext } from 'node:test';
import { choosePorts, isFree, portOwner } from './ports.ts';

const NONE = new Set<number>();

test('a taken port that was asked for is refused with who has it; a default one is passed over', async (t) => {
	const taken = await listen(t);
	const owner = portOwner(taken);
	assert.equal(owner?.pid, process.pid);
	assert.match(owner.command, /node/);
	const of = { option: '--port', count: 1, ours: NONE, avoid: NONE };
	await assert.rejects(choosePorts({ ...of, asked: taken, preferred: 7070 }), {
		code: 'port_taken',
		exit: 2,
		message: new RegExp(`^port ${taken} is taken by .*node.* \\(pid ${process.pid}\\)$`),
		hint: 'stop it, or choose another with --port',
	});
	const next = await choosePorts({ ...of, asked: null, preferred: taken });
	assert.ok(next > taken);
	assert.ok(await isFree(next));
});

test('ports in a row leave out what is taken or given away, and take what is our own', async (t) => {
	const taken = await listen(t);
	const of = { option: '--edge-port', asked: null, preferred: taken - 2, count: 4, avoid: NONE };
	const elsewhere = await choosePorts({ ...of, ours: NONE });
	assert.ok(elsewhere > taken);
	const avoiding = await choosePorts({ ...of, preferred: elsewhere, ours: NONE, avoid: new Set([elsewhere]) });
	assert.ok(avoiding > elsewhere);
	if (await isFree(taken - 1))
		assert.equal(await choosePorts({ ...of, preferred: taken - 1, count: 2, ours: new Set([taken, taken - 1]) }), taken - 1);
});

test('nobody has a free port', async (t) => {
	const port = await listen(t, true);
	assert.equal(portOwner(port), null);
});

async function listen(t: TestContext, closed = false): Promise<number> {
	const server = createServer().listen(0, '127.0.0.1');
	await new Promise((resolve) => server.once('listening', resolve));
	const { port } = server.address() as { port: number };
	if (closed) await new Promise((resolve) => server.close(resolve));
	else t.after(() => server.close());
	return port;
}

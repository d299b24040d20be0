import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { test } from 'node:test';
import { certificateFinding, reachFindings } from './reach.ts';
import type { ServerPeer } from './region.ts';

test('a server says which of the others it can not reach, and what to open', async (t) => {
	const listening = createServer((socket) => socket.destroy()).listen(0, '127.0.0.1');
	await once(listening, 'listening');
	t.after(() => listening.close());
	const { port } = listening.address() as AddressInfo;
	const closed = createServer().listen(0, '127.0.0.1');
	await once(closed, 'listening');
	const { port: nobody } = closed.address() as AddressInfo;
	await new Promise((resolve) => closed.close(resolve));
	const peer = (name: string, more: Partial<ServerPeer> = {}): ServerPeer => ({
		name, region: 'fra', roles: ['depot', 'agent', 'edge'], host: '127.0.0.1', depotPort: port, agentPort: port, spki: 'x', ...more,
	}); // prettier-ignore
	const all = [peer('a'), peer('b'), peer('elsewhere', { region: 'ams', depotPort: nobody })];
	assert.deepEqual((await reachFindings('a', { servers: all })).map(({ state }) => state), ['ok']); // prettier-ignore
	const [found, ...more] = await reachFindings('a', { servers: [...all, peer('c', { agentPort: nobody })] });
	assert.deepEqual(more, []);
	assert.equal(found?.state, 'bad');
	assert.match(found.detail, new RegExp(`^the agent of c at 127\\.0\\.0\\.1:${nobody} can't be reached \\(ECONNREFUSED\\)$`));
	// Without edges it sends no requests to agents.
	const withoutEdges = [peer('a', { roles: ['agent'] }), peer('c', { agentPort: nobody })];
	assert.deepEqual((await reachFindings('a', { servers: withoutEdges })).map(({ state }) => state), ['ok']); // prettier-ignore
	assert.deepEqual(await reachFindings('alone', { servers: all }), []);
	assert.equal(certificateFinding('/nowhere').state, 'bad');
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '#clock/clock.ts';
import type { ServerStatus } from '#wire/join.ts';
import { openStage, refuse } from './fixture.ts';

const now = systemClock.now();
const WEB: ServerStatus = {
	name: 'web-1',
	region: 'fra',
	roles: ['depot', 'agent', 'edge'],
	labels: ['gpu'],
	host: '10.0.0.7',
	depotPort: 7072,
	agentPort: 7071,
	edgePort: 8080,
	state: 'connected',
	reason: null,
	joinedAt: now - 86_400_000,
	certificateExpires: now + 20 * 3_600_000 + 60_000,
	seenAt: now - 5_000,
	seenFrom: '10.0.0.7',
	instances: 3,
	has: {
		version: '0.2.0',
		platform: 'linux-x64-glibc',
		cpus: 2,
		budgetMiB: 1500,
		reservedMiB: 320,
		diskMiB: 80_000,
		diskFreeMiB: 41_000,
	},
	placed: [{ app: 'notes', environment: 'production', release: 7, instances: 3 }],
};

test('servers are listed with what is wrong with them', async (t) => {
	const cloned = { ...WEB, name: 'web-2', state: 'conflict', reason: 'two machines have its identity', labels: [], has: null };
	const stage = await openStage(t, { 'GET /api/v1/servers': { servers: [WEB, cloned] } });
	const { out } = await stage.jibe('server', 'list');
	assert.match(
		out,
		/web-1 +fra +connected +depot,agent,edge +gpu +3 +320\/1500 MiB +40 GiB free +0\.2\.0 +10\.0\.0\.7 +5 s ago +20 h left/,
	);
	assert.match(out, /! web-2: two machines have its identity/);
	stage.answers['GET /api/v1/servers'] = { servers: [] };
	assert.match((await stage.jibe('server', 'list')).out, /No server has joined/);
});

test('server add prints the line to paste, and nothing else on stdout', async (t) => {
	const answer = { join: 'jibe1.abc', expiresAt: now + 15 * 60_000, region: 'fra', roles: ['agent'] };
	const stage = await openStage(t, { 'POST /api/v1/servers/tokens': answer });
	const { out, err } = await stage.jibe('server', 'add', '--region', 'fra', '--labels', 'gpu,big', '--name', 'web-1');
	assert.equal(out, 'jibe agent join jibe1.abc\n');
	assert.match(err, /one server of region fra \(agent\), within 15 min/);
	assert.deepEqual(JSON.parse(stage.asked[0]?.body ?? ''), { region: 'fra', roles: null, labels: ['gpu', 'big'], name: 'web-1' });
	assert.equal((await stage.jibe('server', 'add')).exit, 2);
});

test('server drain waits until nothing is left; remove says what is left to do', async (t) => {
	const stage = await openStage(t, {
		'POST /api/v1/servers/web-1/drain': [{ left: 2 }, { left: 1 }, { left: 0 }, { drained: true }],
		'DELETE /api/v1/servers/web-1': (_request, response) => void response.writeHead(204).end(),
		'DELETE /api/v1/servers/web-9': (_request, response) => refuse(response, 404, 'server_unknown', 'there is no server web-9'),
	});
	const drained = await stage.jibe('server', 'drain', 'web-1', '--json');
	assert.deepEqual([drained.exit, drained.json], [0, { server: 'web-1', drained: true }]);
	await stage.jibe('server', 'drain', 'web-1', '--cancel');
	assert.equal(stage.asked.at(-1)?.what, 'POST /api/v1/servers/web-1/drain?cancel=1');
	assert.match((await stage.jibe('server', 'remove', 'web-1')).out, /on that machine: jibe down/);
	assert.equal((await stage.jibe('server', 'remove', 'web-9')).exit, 2);
});

test('agent join refuses what is no join string before it asks anybody', async (t) => {
	const stage = await openStage(t);
	const { exit, json } = await stage.jibe('agent', 'join', 'jibe1.eyJhIjpbImh0dHBz', '--json');
	assert.deepEqual([exit, (json['error'] as { code: string }).code], [2, 'join_string']);
	assert.equal((await stage.jibe('agent', 'join', 'jibe1.x', '--roles', 'king')).exit, 2);
	assert.deepEqual(stage.asked, []);
});

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request, type RequestListener } from 'node:http';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { test, type TestContext } from 'node:test';
import { openTunnels, type Tunnels } from '#agent/tunnel.ts';
import { pause, systemClock as clock } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import { Peers } from '#wire/peers.ts';
import { createPeerTls, listenForPeers } from '#wire/tls-listener.ts';
import type { ReportOrder, UpMessage } from '#wire/region.ts';
import { listOf, openAuthority, type TestAuthority } from '../../test/fixtures/certificates.ts';
import { ask, openStage, specOf, startInstance, wantOf, wantsOf, type RunningInstance, type Stage } from './fixture.ts';
import { Remotes } from './remotes.ts';

const log = createLog({}, { write: () => {} });
const KEY = { region: 'fra', app: 'notes', environment: 'production' };

test('an instance on another server is reached through its agent, as often as one likes', async (t) => {
	const house = await twoServers(t, (req, res) => {
		let body = '';
		req.on('data', (part: Buffer) => (body += part.toString()));
		req.on('end', () => res.end(`${req.method} ${body}`));
	});
	assert.equal((await ask(house.port, { method: 'POST', body: 'hello' })).body, 'POST hello');
	const answers = await Promise.all(Array.from({ length: 40 }, (_, i) => ask(house.port, { method: 'POST', body: String(i) })));
	assert.deepEqual(answers.map(({ body }) => body), Array.from({ length: 40 }, (_, i) => `POST ${i}`)); // prettier-ignore
	const large = 'x'.repeat(3_000_000);
	assert.equal((await ask(house.port, { method: 'POST', body: large })).body.length, large.length + 5);
});

test('WebSockets pass to another server, and what is said behind the request is not lost', async (t) => {
	const house = await twoServers(t, (_req, res) => void res.end());
	house.instance.server.on('upgrade', (_req, socket: Socket) => {
		socket.write('HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nwelcome ');
		socket.on('data', (bytes) => void socket.write(`heard ${bytes.toString()}`));
		socket.on('end', () => socket.end());
	});
	const client = connect({ port: house.port, host: '127.0.0.1' });
	client.write('GET / HTTP/1.1\r\nhost: notes.localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nearly');
	let said = '';
	while (!said.includes('heard early')) said += String((await once(client, 'data'))[0]);
	assert.match(said, /^HTTP\/1.1 101 [^]*welcome heard early$/);
	client.destroy();
});

test('an instance that is gone, and an agent that knows nothing of it: another instance is asked', async (t) => {
	const house = await twoServers(t, (_req, res) => void res.end('away'));
	const here = await startInstance(t, 1, (_req, res) => void res.end('here'), 'here');
	house.say('one', here);
	await house.instance.stop();
	for (let i = 0; i < 8; i++) assert.equal((await ask(house.port)).body, 'here');
	house.tunnels.note(reportOf('two', { run: 2, count: 0 }));
	for (let i = 0; i < 8; i++) assert.equal((await ask(house.port, { method: 'POST', body: 'x' })).body, 'here');
});

test('what must not be sent twice waits until the agent has said ok; the rest goes with the line', async (t) => {
	const authority = openAuthority(t);
	const heard: string[] = [];
	const agentPeers = new Peers({ directory: authority.server('two').directory, server: 'two', log });
	agentPeers.take(listOf(1, authority.peer('one')));
	// An agent that dies before it has answered.
	const server = createPeerTls(agentPeers, (socket) => {
		socket.on('data', (bytes: Buffer) => {
			const said = bytes.toString('latin1');
			if (said.startsWith('jibe-pulse')) return void socket.write('ok\n');
			if (said === '.') return;
			heard.push(said.replaceAll('\r\n', ' ').replace(/^(\S+ \S+)\n(\w*).*$/, '$1 $2'));
			socket.destroy();
		});
	});
	const listener = await listenForPeers(server, { peers: agentPeers, host: '127.0.0.1', port: 0, log, clock });
	t.after(() => listener.close());
	const peers = new Peers({ directory: authority.server('one').directory, server: 'one', log });
	peers.take(listOf(1, authority.peer('two', { agentPort: listener.port })));
	const remotes = new Remotes({ peers, onChange: () => {}, log, clock });
	t.after(() => remotes.close());
	const stage = await openStage(t, { remotes });
	const away = await startInstance(t, 1, () => {}, 'i1');
	const here = await startInstance(t, 1, (_req, res) => void res.end('here'), 'here');
	stage.tell(reportOf('two', { run: 1, count: 1 }, away));
	stage.tell(wantsOf(wantOf(1, 1), specOf(1)));
	await stage.saw('applied');
	for (const method of ['POST', 'GET']) {
		const asked = ask(stage.port, { method, ...(method === 'POST' ? { body: 'x' } : {}) });
		while (!heard.some((line) => (method === 'GET' ? line.endsWith('GET') : true))) await pause(5);
		stage.tell(reportOf('local', { run: 1, count: ++said }, here));
		assert.equal((await asked).body, 'here');
		stage.tell(reportOf('local', { run: 1, count: ++said }));
	}
	assert.equal(heard.some((line) => line.includes('POST')), false); // prettier-ignore
	assert.equal(heard.some((line) => line === 'jibe-tunnel/1 i1 GET'), true); // prettier-ignore
});

test('a probe asks an instance on this server where there is one', async (t) => {
	let far = 0;
	const house = await twoServers(t, (_req, res) => {
		far++;
		res.end();
	});
	const here = await startInstance(t, 1, (_req, res) => void res.end(), 'here');
	const probe = { type: 'probe' as const, ...KEY, releases: [1], discard: 2, count: 4 };
	house.stage.tell({ ...probe, id: 'away' });
	assert.equal((await house.stage.saw('probed', ({ id }) => id === 'away')).samples.length, 6);
	assert.equal(far, 6);
	house.say('one', here);
	house.stage.tell({ ...probe, id: 'here' });
	const { samples } = await house.stage.saw('probed', ({ id }) => id === 'here');
	assert.deepEqual([samples.filter(({ status }) => status === 200).length, far], [6, 6]);
});

test('an agent that restarts: requests wait a moment, none is lost', async (t) => {
	const house = await twoServers(t, (_req, res) => void res.end('away'));
	assert.equal((await ask(house.port)).status, 200);
	await house.stopAgent();
	const waiting = Promise.all(Array.from({ length: 20 }, () => ask(house.port)));
	await house.startAgent();
	assert.deepEqual(new Set((await waiting).map(({ body }) => body)), new Set(['away']));
});

test('a server that falls silent is given up: what was on its way to it is asked elsewhere, and it is back when it is heard', async (t) => {
	const away = Promise.withResolvers<void>();
	const house = await twoServers(t, () => away.resolve());
	const asked = ask(house.port);
	await away.promise;
	const here = await startInstance(t, 1, (_req, res) => void res.end('here'), 'here');
	house.say('one', here);
	house.cut();
	assert.equal((await asked).body, 'here', 'no answer will come from there: the request is repeated');
	assert.equal((await ask(house.port)).body, 'here');
	await here.stop();
	house.say('one');
	house.instance.server.removeAllListeners('request').on('request', (_req, res) => void res.end('away'));
	house.mend();
	for (;;) {
		const { status, body } = await ask(house.port);
		if (status === 200) return assert.equal(body, 'away');
		await pause(50);
	}
});

test('a server that vanishes from the list is cut off at once, whatever is under way', async (t) => {
	const begun = Promise.withResolvers<void>();
	const house = await twoServers(t, (_req, res) => {
		res.write('one');
		begun.resolve();
	});
	const asking = request({ port: house.port, host: '127.0.0.1', headers: { host: 'notes.localhost' } }).end();
	const [answer] = (await once(asking, 'response')) as [NodeJS.ReadableStream];
	await begun.promise;
	answer.resume();
	const cut = once(answer, 'error');
	house.peers.take(listOf(9, house.authority.peer('one')));
	await cut;
	assert.equal((await ask(house.port, { method: 'POST', body: 'x' })).status, 503);
	assert.deepEqual([...house.stage.edge.servers()], []);
});

test('an agent serves edges of listed servers only: not one that was removed, nor a server without an edge', async (t) => {
	const house = await twoServers(t, (_req, res) => void res.end('away'));
	assert.equal((await ask(house.port)).status, 200);
	const { authority } = house;
	house.agentPeers.take(listOf(9, authority.peer('two'), authority.peer('one', { roles: ['agent'] })));
	// Those that are open were let in when it had an edge; a new one is not.
	const gone = new Peers({ directory: authority.server('one').directory, server: 'one', log });
	const remotes = new Remotes({ peers: gone, onChange: () => {}, log, clock });
	t.after(() => remotes.close());
	const { socket } = remotes.wayTo('two', 'i1').open();
	await once(socket, 'close');
});

test('an older report that comes by a slower depot changes nothing', async (t) => {
	const house = await twoServers(t, (_req, res) => void res.end('away'));
	const old = reportOf('two', { run: 1, count: 1 }, house.instance);
	house.stage.tell(reportOf('two', { run: 1, count: 2 }));
	house.stage.tell(old);
	assert.equal((await ask(house.port, { method: 'POST', body: 'x' })).status, 503);
	house.stage.tell(reportOf('two', { run: 2, count: 0 }, house.instance));
	assert.equal((await ask(house.port)).status, 200);
});

function reportOf(server: string, order: ReportOrder, ...instances: RunningInstance[]): Extract<UpMessage, { type: 'instances' }> {
	return { type: 'instances', server, groups: [{ ...KEY, order, instances: instances.map((one) => one.as('serving')) }] };
}

interface House {
	authority: TestAuthority;
	stage: Stage;
	port: number;
	instance: RunningInstance;
	peers: Peers;
	agentPeers: Peers;
	tunnels: Tunnels;
	say(server: string, ...instances: RunningInstance[]): void;
	stopAgent(): Promise<void>;
	startAgent(): Promise<void>;
	/** Packets between the servers vanish. */
	cut(): void;
	mend(): void;
}

/** The edge of server `one`, and the agent of server `two` with an instance that serves; between them a cable that can be cut. */
async function twoServers(t: TestContext, listener: RequestListener): Promise<House> {
	const authority = openAuthority(t);
	const agentPeers = new Peers({ directory: authority.server('two').directory, server: 'two', log });
	agentPeers.take(listOf(1, authority.peer('one'), authority.peer('two')));
	const instance = await startInstance(t, 1, listener, 'i1');
	const report = reportOf('two', { run: 1, count: 0 }, instance);
	const open = async (port: number) => {
		const tunnels = await openTunnels({ peers: agentPeers, host: '127.0.0.1', port, log, clock });
		tunnels.note(report);
		return tunnels;
	};
	let tunnels = await open(0);
	const { port: agentPort } = tunnels;
	const cable = await layCable(t, agentPort);
	const peers = new Peers({ directory: authority.server('one').directory, server: 'one', log });
	peers.take(listOf(1, authority.peer('one'), authority.peer('two', { agentPort: cable.port })));
	const remotes: Remotes = new Remotes({ peers, onChange: () => changed(), log, clock });
	const stage = await openStage(t, { remotes });
	const changed = () => stage.edge.serversChanged([...stage.edge.servers()].filter((server) => server !== 'local' && !peers.named(server)));
	t.after(async () => {
		remotes.close();
		await tunnels.close();
	});
	stage.tell(report);
	stage.tell(wantsOf(wantOf(1, 1), specOf(1)));
	await stage.saw('applied');
	return {
		authority,
		stage,
		port: stage.port,
		instance,
		peers,
		agentPeers,
		tunnels,
		say(server, ...instances) {
			stage.tell(server === 'one' ? { ...reportOf('local', { run: 1, count: ++said }, ...instances) } : reportOf(server, { run: 1, count: ++said }, ...instances)); // prettier-ignore
		},
		stopAgent: () => tunnels.close(),
		async startAgent() {
			tunnels = await open(agentPort);
		},
		cut: () => cable.cut(),
		mend: () => cable.mend(),
	};
}

let said = 0;

/** Passes bytes on, until it is cut: then it takes them, and nothing comes of it. */
async function layCable(t: TestContext, to: number): Promise<{ port: number; cut(): void; mend(): void }> {
	let whole = true;
	const sockets = new Set<Socket>();
	const server: Server = createServer((near) => {
		const far = connect({ port: to, host: '127.0.0.1' });
		for (const [from, into] of [[near, far], [far, near]] as const) {
			sockets.add(from);
			from.on('data', (bytes) => void (whole && into.write(bytes)));
			from.on('error', () => from.destroy());
			from.on('close', () => {
				sockets.delete(from);
				if (whole) into.destroy();
			});
		} // prettier-ignore
	});
	server.listen(0, '127.0.0.1');
	await once(server, 'listening');
	t.after(() => {
		server.close();
		for (const socket of sockets) socket.destroy();
	});
	const address = server.address();
	return {
		port: typeof address === 'object' && address ? address.port : 0,
		cut: () => (whole = false),
		mend: () => (whole = true),
	};
}

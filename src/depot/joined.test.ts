import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer as createHttps } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { createDepotClient } from '#agent/depot-client.ts';
import { systemClock as clock } from '#clock/clock.ts';
import { sha256, type Digest } from '#digest/digest.ts';
import { createLog } from '#log/log.ts';
import { manifestOf, treeOf } from '#store/manifest.ts';
import { acceptLinks, type ServerLink } from '#wire/accept.ts';
import { issueCredential, newSigningKey } from '#wire/credential.ts';
import { dial } from '#wire/link.ts';
import { Peers } from '#wire/peers.ts';
import {
	WIRE_VERSION,
	type DownMessage,
	type ReleaseSpec,
	type Role,
	type Run,
	type ServerPeer,
	type UpMessage,
	type Want,
} from '#wire/region.ts';
import { listOf, openAuthority, type TestAuthority } from '../../test/fixtures/certificates.ts';
import { openDepot } from './depot.ts';

/** A depot on a joined server: everything but its own server's programs speaks to it over TLS. */

const log = createLog({}, { write: () => {} });
const key = newSigningKey();
const INSTANCE = { id: 'i1', release: 1, state: 'serving' as const, healthy: true, address: 'unix:/x', pid: 1, reason: null, detail: null, restarts: 0, cold: false, timings: null }; // prettier-ignore
const PLACE = { region: 'fra', app: 'notes', environment: 'production' };

test('programs of other servers have their links and blobs over TLS; a credential opens nothing from another server than its own', async (t) => {
	const house = await region(t);
	const { digest } = house.publish();
	await house.control.say({ type: 'wants', wants: [want(1)], releases: [spec(1, digest)], gift: null });
	const agent = house.join('agent', 'two');
	assert.equal((await agent.next('wants')).wants[0]?.version, 1);
	agent.link.send({ type: 'instances', server: 'two', groups: [{ ...PLACE, instances: [] }] });
	assert.equal((await house.control.heard('instances')).server, 'two');
	const blobs = house.client('two', 'two');
	assert.equal((await blobs.blob(sha256('true'))).toString(), 'true');
	// The machine `two` with a credential that was made for `three`, which is listed as well.
	await assert.rejects(house.client('two', 'three').blob(sha256('true')), /bad_credential|credential is missing/);
	await assert.rejects(house.client('stranger', 'two').blob(sha256('true')));
});

test('an agent is told of, and given, only what is placed on its server', async (t) => {
	const house = await region(t);
	const { digest } = house.publish();
	const run: Run = { release: 1, instances: 3, as: 'serving', placed: { one: 1, two: 2, three: 0 } };
	const [two, three] = [house.join('agent', 'two'), house.join('agent', 'three')];
	const edge = house.join('edge', 'three');
	await Promise.all([two, three, edge].map((program) => program.next('welcome')));
	const gift = { artifact: digest, base: null, set: {}, delete: [], blobs: {} };
	await house.control.say({ type: 'wants', wants: [want(1, [run])], releases: [spec(1, digest)], gift });
	const [told, other, routed] = await Promise.all([two.next('wants'), three.next('wants'), edge.next('wants')]);
	assert.deepEqual([told.releases.length, told.gift?.artifact], [1, digest]);
	assert.deepEqual([other.wants.length, other.releases, other.gift], [1, [], null], 'it learns that nothing runs there, and no more');
	assert.deepEqual([routed.releases.map(({ env }) => env), routed.gift], [[{}], null], 'no edge needs configuration or files');
	assert.deepEqual(told.releases[0]?.env, { KEY: 'value' });
	const late = house.join('agent', 'three', 'agent-late');
	assert.deepEqual((await late.next('wants')).releases, []);
	assert.equal((await house.client('two', 'two').tree(digest)).size, 1);
	await assert.rejects(house.client('three', 'three').tree(digest), /placed on your server/);
	await assert.rejects(house.client('three', 'three').blob(sha256('true')), /placed on your server/);
	// Moved there, all of it comes.
	await house.control.say({ type: 'wants', wants: [want(2, [{ ...run, placed: { three: 3 } }])], releases: [spec(1, digest)], gift: null });
	assert.equal((await three.next('wants')).releases.length, 1);
	assert.equal((await house.client('three', 'three').blob(sha256('true'))).toString(), 'true');
	await assert.rejects(house.client('two', 'two').blob(sha256('true')), /placed on your server/);
});

test('a server that vanishes from the list loses its links, and edges and control forget its instances', async (t) => {
	const house = await region(t);
	const agent = house.join('agent', 'two');
	await agent.next('welcome');
	const edge = house.join('edge', 'three');
	await edge.next('welcome');
	agent.link.send({ type: 'instances', server: 'two', groups: [{ ...PLACE, instances: [INSTANCE] }] });
	assert.equal((await edge.next('instances')).groups[0]?.instances.length, 1);
	assert.equal((await house.control.heard('instances')).groups[0]?.instances.length, 1);
	const gone = agent.down();
	await house.control.say(house.list(2, 'one', 'three'));
	await gone;
	assert.deepEqual((await edge.next('servers')).servers.map(({ name }) => name), ['one', 'three']); // prettier-ignore
	assert.deepEqual((await edge.next('instances')).groups[0]?.instances, []);
	assert.deepEqual((await house.control.heard('instances')).groups[0]?.instances, []);
});

test('each replica of control has a link of its own, comes with the list, and gets the answers to what it asked', async (t) => {
	const house = await region(t);
	const second = await controlOf(t, house.authority);
	await house.control.say({ ...house.list(2, 'one', 'two', 'three'), control: [house.control.address, second.address] });
	assert.equal((await second.heard('presence')).regions[0]?.region, 'fra');
	await second.say({ type: 'probe', id: 'p1', ...PLACE, releases: [1], discard: 0, count: 1 });
	assert.match((await second.heard('probed')).error ?? '', /no edge of fra/);
	assert.equal(house.control.said('probed'), 0);
	const agent = house.join('agent', 'two');
	await agent.next('welcome');
	agent.link.send({ type: 'instances', server: 'two', groups: [{ ...PLACE, instances: [] }] });
	await Promise.all([house.control.heard('instances'), second.heard('instances')]);
	// The first is gone: blobs come from the other.
	const { digest } = second.publish();
	await second.say({ type: 'wants', wants: [want(1)], releases: [spec(1, digest)], gift: null });
	await agent.next('wants');
	await house.control.close();
	assert.equal((await house.client('two', 'two').blob(sha256('true'))).toString(), 'true');
});

test('a probe is asked of an edge beside the release that is judged', async (t) => {
	const house = await region(t);
	const [two, three] = [house.join('edge', 'two'), house.join('edge', 'three')];
	await Promise.all([two.next('welcome'), three.next('welcome')]);
	const agent = house.join('agent', 'three');
	await agent.next('welcome');
	agent.link.send({ type: 'instances', server: 'three', groups: [{ ...PLACE, instances: [INSTANCE] }] });
	await house.control.heard('instances');
	await house.control.say({ type: 'probe', id: 'p1', ...PLACE, releases: [1], discard: 0, count: 1 });
	assert.equal((await three.next('probe')).id, 'p1');
});

test('an agent is told how many edges a depot speaks for', async (t) => {
	const house = await region(t);
	const agent = house.join('agent', 'two');
	assert.equal((await agent.next('settled')).edges, 0);
	const edge = house.join('edge', 'three');
	assert.equal((await agent.next('settled')).edges, 1);
	edge.link.send({ type: 'applied', server: 'three', edge: 'edge', items: [{ ...PLACE, epoch: 1, version: 1 }] });
	const settled = await agent.next('settled');
	assert.deepEqual([settled.items.length, settled.edges], [1, 1]);
});

test('to whom its own depot speaks, and for whom, another one says the same a moment later, and only the newest', async (t) => {
	const house = await region(t);
	const [two, three] = [house.join('edge', 'two'), house.join('edge', 'three')];
	await Promise.all([two.next('welcome'), three.next('welcome')]);
	two.link.send({ type: 'ownDepot', there: true });
	two.link.send({ type: 'stats', edge: 'edge', second: 1, rows: [] });
	await house.control.heard('stats');
	for (const version of [1, 2]) await house.control.say({ type: 'wants', wants: [want(version)], releases: [], gift: null });
	assert.deepEqual([(await three.next('wants')).wants[0]?.version, (await three.next('wants')).wants[0]?.version], [1, 2]);
	for (const version of [1, 2]) {
		const items = [{ ...PLACE, epoch: 1, version }];
		for (const [server, { link }] of Object.entries({ two, three })) link.send({ type: 'applied', server, edge: 'edge', items });
	}
	assert.equal((await two.next('wants')).wants[0]?.version, 2);
	const said: [string, number | undefined][] = [];
	for (let n = 0; n < 3; n++)
		said.push((({ server, items }) => [server, items[0]?.version] as [string, number])(await house.control.heard('applied')));
	assert.deepEqual(said, [['three', 1], ['three', 2], ['two', 2]]); // prettier-ignore
	// Its own depot is gone: what is due is said at once, and all that follows.
	await house.control.say({ type: 'wants', wants: [want(3)], releases: [], gift: null });
	await three.next('wants');
	two.link.send({ type: 'ownDepot', there: false });
	assert.equal((await two.next('wants')).wants[0]?.version, 3);
});

test('who answers for control without its certificate is told nothing', async (t) => {
	const authority = openAuthority(t);
	// A joined server that has taken control's address.
	const { directory } = authority.server('two');
	const impostor = await controlOf(t, authority, new Peers({ directory, server: 'two', log }).towards('one'));
	const dir = mkdtempSync(join(tmpdir(), 'jibe-depot-'));
	const failures = Promise.withResolvers<string>();
	const depot = await openDepot({
		...depotOptions(authority, dir, [impostor.address]),
		log: createLog({}, { write: (line) => line.includes('link.down') && failures.resolve(line) }),
	});
	assert.match(await failures.promise, /does not match certificate|not in the cert/);
	assert.equal(impostor.said('hello') + impostor.said('presence'), 0);
	await depot.close();
	rmSync(dir, { recursive: true });
});

function depotOptions(authority: TestAuthority, dir: string, upstreams: string[]) {
	const peers = new Peers({ directory: authority.server('one').directory, server: 'one', log });
	peers.take(listOf(1, ...['one', 'two', 'three'].map((name) => authority.peer(name))));
	const identity = { installation: 'here', server: 'one', region: 'fra', roles: ['depot' as const], control: upstreams };
	const rest = { fingerprint: '', host: '127.0.0.1', depotPort: 0, agentPort: 0, edgePort: 0 };
	return {
		dir: join(dir, 'depot'),
		socket: join(dir, 'd.sock'),
		regions: ['fra'],
		upstreams,
		joined: { identity: { ...identity, ...rest }, peers },
		listen: { host: '127.0.0.1', port: 0 },
		credential: () => ({ credential: credential('depot', 'one'), publicKey: key.publicPem, installation: 'here' }),
		log,
		clock,
	};
}

/** The depot of server `one` in a region with `two` and `three`, and a control that it has a link to. */
async function region(t: TestContext) {
	const authority = openAuthority(t);
	const dir = mkdtempSync(join(tmpdir(), 'jibe-depot-'));
	const closers: (() => void)[] = [];
	const control = await controlOf(t, authority);
	const depot = await openDepot(depotOptions(authority, dir, [control.address]));
	t.after(async () => {
		for (const close of closers) close();
		await depot.close();
		rmSync(dir, { recursive: true });
	});
	const depotPeer: ServerPeer = authority.peer('one', { depotPort: depot.port });
	const peersOf = (server: string) => {
		const peers = new Peers({ directory: authority.server(server).directory, server, log });
		peers.take(listOf(1, depotPeer));
		return peers;
	};
	await control.linked;
	return {
		authority,
		control,
		publish: () => control.publish(),
		list: (version: number, ...names: string[]) => listOf(version, ...names.map((name) => authority.peer(name))),
		join(role: 'agent' | 'edge', server: string, name: string = role) {
			const seen = inbox<DownMessage>();
			const down = Promise.withResolvers<void>();
			const peers = peersOf(server);
			const link = dial({
				url: `wss://127.0.0.1:${depot.port}/link`,
				tls: () => peers.towards('one'),
				credential: () => credential(role, server),
				hello: () => ({ type: 'hello', wire: WIRE_VERSION, role, server, name, regions: ['fra'], known: [] }),
				onMessage: (message) => seen.push(message),
				onDown: () => down.resolve(),
				log,
				clock,
			});
			closers.push(() => link.close());
			return { link, next: <T extends DownMessage['type']>(type: T) => seen.next(type), down: () => down.promise };
		},
		/** The agent of a server, as the machine of `machine` with a credential of `server`. */
		client(machine: string, server: string) {
			const client = createDepotClient({
				socketPath: null,
				others: { peers: peersOf(machine), regions: ['fra'] },
				credential: () => credential('agent', server),
			});
			closers.push(() => client.close());
			return client;
		},
	};
}

/** What a depot sees of control, over TLS with control's certificate or another. */
async function controlOf(t: TestContext, authority: TestAuthority, identity: object = authority.control()) {
	const blobs = new Map<string, string>();
	const heard = inbox<UpMessage>();
	const linked = Promise.withResolvers<ServerLink>();
	const server = createHttps({ ...identity, requestCert: true }, (incoming, response) => {
		const found = blobs.get((incoming.url ?? '').split('/')[2] ?? '');
		if (incoming.method === 'GET') return response.writeHead(found === undefined ? 404 : 200).end(found);
		incoming.resume();
		response.writeHead(500).end();
	});
	const acceptor = acceptLinks(server, {
		path: '/link',
		authenticate: () => ({ installation: 'here', role: 'depot', server: 'one', regions: ['fra'], expires: 4_000_000_000 }),
		onLink(link) {
			linked.resolve(link);
			return { onMessage: (message) => heard.push(message), onClosed: () => {} };
		},
		log,
		clock,
	});
	server.listen(0, '127.0.0.1');
	await once(server, 'listening');
	let closed = false;
	const close = async () => {
		if (closed) return;
		closed = true;
		acceptor.close();
		server.closeAllConnections();
		server.close();
		await once(server, 'close');
	};
	t.after(close);
	return {
		address: `https://127.0.0.1:${(server.address() as AddressInfo).port}`,
		linked: linked.promise,
		close,
		heard: <T extends UpMessage['type']>(type: T) => heard.next(type),
		said: heard.count,
		say: async (message: DownMessage) => void (await linked.promise).send(message),
		/** A tree of one small file. */
		publish(): { digest: Digest } {
			const manifest = manifestOf([['modules/a.ts', [sha256('true'), 4, false]]]);
			const { root } = treeOf(manifest);
			blobs.set(sha256('true'), 'true').set(root, JSON.stringify({ set: Object.fromEntries(manifest) }));
			return { digest: root };
		},
	};
}

function credential(role: Role, server: string): string {
	return issueCredential({ installation: 'here', role, server, regions: ['fra'], expires: 4_000_000_000 }, key.privatePem);
}

type Of<M extends { type: string }, T extends M['type']> = Extract<M, { type: T }>;

/** Messages as they come; `next` waits for one of a type and drops those before it. */
function inbox<M extends { type: string }>() {
	const seen: M[] = [];
	const counts = new Map<string, number>();
	let wake = () => {};
	return {
		push(message: M) {
			seen.push(message);
			counts.set(message.type, (counts.get(message.type) ?? 0) + 1);
			wake();
		},
		count: (type: M['type']) => counts.get(type) ?? 0,
		async next<T extends M['type']>(type: T): Promise<Of<M, T>> {
			for (;;) {
				for (let message = seen.shift(); message; message = seen.shift()) if (message.type === type) return message as Of<M, T>;
				await new Promise<void>((resolve) => (wake = resolve));
			}
		},
	};
}

function want(version: number, run: Run[] = [{ release: 1, instances: 1, as: 'serving' }]): Want {
	return { ...PLACE, epoch: 1, version, deployment: null, pointer: { primary: 1, candidate: null, hold: null }, run };
}

function spec(release: number, artifact: Digest): ReleaseSpec {
	return {
		app: 'notes',
		environment: 'production',
		release,
		deployment: 'dpl_00000000',
		artifact,
		vendor: null,
		runtime: { kind: 'fetch' },
		entry: 'src/server.ts',
		env: { KEY: 'value' },
		health: { path: '/', timeoutMs: 2000, strict: false },
		memoryMiB: 512,
		cpuMillis: null,
		drain: { requestsMs: 1, streamsMs: 1 },
		warm: 'frozen',
		domains: [],
		userKey: null,
		trustedProxies: [],
	};
}

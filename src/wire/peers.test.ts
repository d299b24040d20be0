import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { connect, type TLSSocket } from 'node:tls';
import { systemClock as clock } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import { listOf, openAuthority, type TestAuthority } from '../../test/fixtures/certificates.ts';
import { acceptLinks, type ServerLink } from './accept.ts';
import { OWN_DEPOT, dialDepots } from './depots.ts';
import { Peers } from './peers.ts';
import { WIRE_VERSION, type DownMessage, type Hello, type Servers, type UpMessage, type Want } from './region.ts';
import { createPeerHttps, createPeerTls, listenForPeers } from './tls-listener.ts';

const log = createLog({}, { write: () => {} });
const hello: Hello = { type: 'hello', wire: WIRE_VERSION, role: 'edge', server: 'two', name: 'edge-0', regions: ['fra'], known: [] };

test('the newest list is kept on disk, and an older one is not taken', (t) => {
	const authority = openAuthority(t);
	const peers = peersOf(authority, 'one');
	const heard: number[] = [];
	peers.onChange(({ version }) => heard.push(version));
	assert.equal(peers.take(listOf(2, authority.peer('one'), authority.peer('two'))), true);
	assert.equal(peers.take(listOf(1)), false);
	assert.equal(peers.take(listOf(2)), false);
	assert.deepEqual(heard, [2]);
	const again = peersOf(authority, 'one');
	assert.equal(again.newest.version, 2);
	assert.equal(again.named('two')?.spki, authority.server('two').spki);
	writeFileSync(join(authority.server('one').directory, 'servers.json'), '{"type":"serv');
	assert.equal(peersOf(authority, 'one').newest.version, 0);
});

test('a listener lets in who is listed with that key, refuses others, and cuts off who vanishes from the list', async (t) => {
	const authority = openAuthority(t);
	const other = openAuthority(t);
	const { peers, port } = await echo(t, authority, [authority.peer('one'), authority.peer('two')]);
	const two = await say(authority, 'two', port);
	assert.equal(two.answer, 'echo');
	assert.equal((await say(authority, 'three', port)).answer, null, 'it is in no list');
	assert.equal((await say(other, 'two', port)).answer, null, 'another CA');
	// The same name with another key: a machine that was joined anew in its place.
	const closed = once(two.socket, 'close');
	peers.take(listOf(3, authority.peer('one'), authority.peer('two', { spki: other.server('two').spki })));
	await closed;
	assert.equal((await say(authority, 'two', port)).answer, null);
	peers.take(listOf(4, authority.peer('one'), authority.peer('two')));
	assert.equal((await say(authority, 'two', port)).answer, 'echo');
});

test('a session that is resumed is looked at like any other', async (t) => {
	const authority = openAuthority(t);
	const { peers, port } = await echo(t, authority, [authority.peer('one'), authority.peer('two')]);
	const first = await say(authority, 'two', port);
	assert.ok(first.session);
	peers.take(listOf(3, authority.peer('one')));
	assert.equal((await say(authority, 'two', port, first.session)).answer, null);
});

test('who dials goes by the list as well: a server with another name or key is not spoken to', async (t) => {
	const authority = openAuthority(t);
	const { port } = await echo(t, authority, [authority.peer('one'), authority.peer('two')]);
	const two = peersOf(authority, 'two', listOf(1, authority.peer('one'), authority.peer('three')));
	assert.equal((await sayAs(two, 'one', port)).answer, 'echo');
	assert.equal((await sayAs(two, 'three', port)).answer, null, 'it answers as one');
	two.take(listOf(2, authority.peer('three')));
	assert.equal((await sayAs(two, 'one', port)).answer, null, 'it was removed');
});

test('links go to every depot of the region, and come and go with the list; what two say of a want is passed on once', async (t) => {
	const authority = openAuthority(t);
	const one = await depot(t, authority, 'one');
	const three = await depot(t, authority, 'three');
	const list = (version: number, ...others: ReturnType<TestAuthority['peer']>[]) => listOf(version, authority.peer('two'), ...others);
	const peers = peersOf(authority, 'two', list(1, one.peer));
	const heard: [string, DownMessage][] = [];
	const wake = Promise.withResolvers<void>();
	let onHeard = wake.resolve;
	const links = dialDepots({
		socket: null,
		peers,
		regions: ['fra'],
		credential: () => 'two',
		hello: () => hello,
		onMessage(message, from) {
			heard.push([from, message]);
			onHeard();
		},
		onUp: () => {},
		log,
		clock,
	});
	t.after(() => links.close());
	const first = await one.link();
	first.send({ type: 'wants', wants: [want(1)], releases: [], gift: null });
	await wake.promise;
	first.send(list(2, one.peer, three.peer));
	const second = await three.link();
	second.send({ type: 'wants', wants: [want(1)], releases: [], gift: null });
	const more = Promise.withResolvers<void>();
	onHeard = more.resolve;
	second.send({ type: 'wants', wants: [want(1), want(2)], releases: [], gift: null });
	await more.promise;
	assert.deepEqual(heard.map(([from, message]) => [from, message.type === 'wants' && message.wants.map(({ version }) => version)]), [['one', [1]], ['three', [2]]]); // prettier-ignore
	assert.equal(links.send({ type: 'applied', server: 'two', edge: 'edge-0', items: [] }), true);
	await Promise.all([one.next(), three.next()]);
	const gone = one.closed();
	second.send(list(3, three.peer));
	await gone;
	assert.equal(heard.some(([from]) => from === OWN_DEPOT), false); // prettier-ignore
});

test('a report that another depot has passed on in the same words is not read again, unless it does not say its order', async (t) => {
	const authority = openAuthority(t);
	const depots = [await depot(t, authority, 'one'), await depot(t, authority, 'three')];
	const heard: string[] = [];
	let onHeard = () => {};
	const links = dialDepots({
		socket: null,
		peers: peersOf(authority, 'two', listOf(1, authority.peer('two'), ...depots.map(({ peer }) => peer))),
		regions: ['fra'],
		credential: () => 'two',
		hello: () => hello,
		onMessage(message, from) {
			heard.push(`${from} ${message.type} ${message.type === 'instances' ? message.groups[0]?.order?.count : ''}`);
			onHeard();
		},
		onUp: () => {},
		log,
		clock,
	});
	t.after(() => links.close());
	const [first, second] = await Promise.all(depots.map((one) => one.link()));
	const report = (order: object): DownMessage => ({ type: 'instances', server: 'two', groups: [{ region: 'fra', app: 'notes', environment: 'production', instances: [], ...order }] }); // prettier-ignore
	const say = async (link: ServerLink, message: DownMessage, count: number) => {
		const whole = new Promise<void>((resolve) => (onHeard = () => heard.length >= count && resolve()));
		link.send(message);
		await whole;
	};
	const ordered = report({ order: { run: 1, count: 7 } });
	await say(first!, ordered, 1);
	await say(first!, ordered, 2);
	await say(first!, report({}), 3);
	second!.send(ordered);
	await say(second!, report({}), 4);
	assert.deepEqual(heard, ['one instances 7', 'one instances 7', 'one instances undefined', 'three instances undefined']);
});

test('depots of other servers hear whether the own one does', async (t) => {
	const authority = openAuthority(t);
	const one = await depot(t, authority, 'one');
	const directory = mkdtempSync(join(tmpdir(), 'jibe-depots-'));
	const server = createServer();
	const own = accepting(server);
	server.listen(join(directory, 'd.sock'));
	await once(server, 'listening');
	const links = dialDepots({
		socket: join(directory, 'd.sock'),
		peers: peersOf(authority, 'two', listOf(1, authority.peer('two'), one.peer)),
		regions: ['fra'],
		credential: () => 'two',
		hello: () => hello,
		onMessage: () => {},
		onUp: () => {},
		log,
		clock,
	});
	t.after(() => {
		links.close();
		own.acceptor.close();
		server.close();
		rmSync(directory, { recursive: true });
	});
	const there = async () => {
		for (;;) {
			const message = await one.next();
			if (message.type === 'ownDepot') return message.there;
		}
	};
	assert.equal(await there(), true);
	(await own.linked).close('');
	assert.equal(await there(), false);
	assert.equal(await there(), true, 'it is back');
});

function peersOf(authority: TestAuthority, server: string, list?: Servers): Peers {
	const peers = new Peers({ directory: authority.server(server).directory, server, log });
	if (list) peers.take(list);
	return peers;
}

/** The server `one` with a listener that answers whatever is said. */
async function echo(t: TestContext, authority: TestAuthority, servers: ReturnType<TestAuthority['peer']>[]) {
	const peers = peersOf(authority, 'one', listOf(1, ...servers));
	const server = createPeerTls(peers, (socket) => void socket.pipe(socket));
	const listener = await listenForPeers(server, { peers, host: '127.0.0.1', port: 0, log, clock });
	t.after(() => listener.close());
	return { peers, port: listener.port };
}

function say(authority: TestAuthority, as: string, port: number, session?: Buffer) {
	const directory = authority.server(as).directory;
	const read = (name: string) => readFileSync(join(directory, name));
	const trusting = { rejectUnauthorized: false };
	return exchange(
		connect({ port, host: '127.0.0.1', key: read('key.pem'), cert: read('cert.pem'), ...trusting, ...(session ? { session } : {}) }),
	);
}

function sayAs(peers: Peers, towards: string, port: number) {
	return exchange(connect({ port, host: '127.0.0.1', ...peers.towards(towards) }));
}

/** What came back; null: the connection was refused. */
function exchange(socket: TLSSocket): Promise<{ answer: string | null; socket: TLSSocket; session: Buffer | undefined }> {
	let session: Buffer | undefined;
	socket.on('session', (given) => (session = given));
	socket.write('echo');
	return new Promise((resolve) => {
		socket.on('error', () => {});
		socket.once('data', (bytes: Buffer) => resolve({ answer: bytes.toString(), socket, session }));
		socket.once('close', () => resolve({ answer: null, socket, session }));
	});
}

/** Only what accepts links of a depot. */
async function depot(t: TestContext, authority: TestAuthority, name: string) {
	const peers = peersOf(authority, name, listOf(1, authority.peer('two')));
	const server = createPeerHttps(peers, (_request, response) => void response.writeHead(404).end());
	const { acceptor, linked, next, closed } = accepting(server);
	const listener = await listenForPeers(server, { peers, host: '127.0.0.1', port: 0, log, clock });
	t.after(async () => {
		acceptor.close();
		await listener.close();
	});
	return { peer: authority.peer(name, { depotPort: listener.port }), link: () => linked, next, closed: () => closed };
}

function accepting(server: Server) {
	const linked = Promise.withResolvers<ServerLink>();
	const closed = Promise.withResolvers<void>();
	const said: UpMessage[] = [];
	let heard = () => {};
	const acceptor = acceptLinks(server, {
		path: '/link',
		authenticate: () => ({ installation: 'here', role: 'edge', server: 'two', regions: ['fra'], expires: 4_000_000_000 }),
		onLink(link) {
			linked.resolve(link);
			return { onMessage: (message) => (said.push(message), heard()), onClosed: () => closed.resolve() };
		},
		log,
		clock,
	});
	const next = async (): Promise<UpMessage> => {
		while (said.length === 0) await new Promise<void>((resolve) => (heard = resolve));
		return said.shift()!;
	};
	return { acceptor, linked: linked.promise, closed: closed.promise, next };
}

function want(version: number): Want {
	const pointer = { primary: 1, candidate: null, hold: null };
	return { region: 'fra', app: 'notes', environment: 'production', epoch: 1, version, deployment: null, pointer, run: [] };
}

import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { createServer, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { openDiskStore, type DiskStore } from '#store/disk.ts';
import { treeOf } from '#store/manifest.ts';
import { acceptLinks, type Acceptor, type ServerLink } from '#wire/accept.ts';
import { readCredential, type Claims } from '#wire/credential.ts';
import type { Joined } from '#wire/joined.ts';
import { createPeerHttps, listenForPeers, type TlsListener } from '#wire/tls-listener.ts';
import { Board } from './board.ts';
import { Cache } from './cache.ts';
import { ControlLinks } from './control-links.ts';
import { keep, recall } from './memory.ts';
import { Relay } from './relay.ts';
import { createHandler } from './serve.ts';
import { createUpstream, type Upstream, type UpstreamOptions } from './upstream.ts';

/** A region's depot: its relay and its cache, on one unix socket, and over TLS for the region's other servers. */

/** Blobs that no placed release names any more leave the cache. */
const SWEEP_EACH_MS = 3_600_000;
const HEADERS_TIMEOUT_MS = 5_000;
const REQUEST_TIMEOUT_MS = 30_000;

export interface DepotOptions {
	/** Its own directory. */
	dir: string;
	socket: string;
	regions: readonly string[];
	/** Addresses of control: `http://127.0.0.1:7070`, or `https://…` from another machine. */
	upstreams: readonly string[];
	/** On a joined server. */
	joined?: Joined | null;
	/** Where the region's other servers reach it; only on a joined server. */
	listen?: { host?: string | undefined; port: number } | undefined;
	credential: () => { credential: string; publicKey: string; installation: string };
	log: Log;
	clock: Clock;
}

export interface Depot {
	/** Of the listener for other servers; null: there is none. */
	port: number | null;
	close(): Promise<void>;
}

export async function openDepot(options: DepotOptions): Promise<Depot> {
	const { clock, log, regions } = options;
	const { credential, publicKey, installation } = options.credential();
	const own = readCredential(credential, publicKey, clock.now());
	if (own?.role !== 'depot') throw new Error('the credential of this depot has expired or is not one of a depot');
	const remembered = await recall(options.dir, installation, log);
	const store = await openDiskStore(join(options.dir, 'blobs'), { durable: false });
	const towardsControl = routeToControl(options, installation);
	const upstream = createUpstream(towardsControl);
	const cache = new Cache({ store, upstream, log, clock });
	const board = new Board(log, remembered);
	const keeper = keep(options.dir, () => ({ ...board.state(), installation, edges: relay.edges() }), log, clock);
	const relay: Relay = new Relay({
		server: own.server,
		installation,
		regions,
		board,
		remembered: remembered.edges,
		peers: options.joined?.peers ?? null,
		up: (message) => control.send(message),
		changed: () => keeper.changed(),
		gift: (gift) => cache.gift(gift),
		log,
		clock,
	});
	const control = new ControlLinks({
		...towardsControl,
		hello: () => relay.hello(),
		onMessage: (message, text, from) => relay.fromControl(message, text, from),
		onUp: (from) => relay.controlUp(from),
		onDown: (from) => relay.controlDown(from),
		log,
		clock,
	});
	const stopLooking = options.joined?.peers.onChange(() => control.look());
	const doors = await openDoors(options, { cache, board, relay, upstream });
	const sweeping = clock.every(SWEEP_EACH_MS, () => {
		sweep(store, cache, board, regions).catch((error: unknown) => log.warn('sweep.failed', { error }));
	});
	return {
		port: doors.port,
		async close() {
			sweeping.cancel();
			stopLooking?.();
			control.close();
			relay.close();
			await doors.close();
			await keeper.close();
			cache.close();
			await store.close();
		},
	};
}

/** Every address that control is said to have, and those this server was told when it joined: one of them may be right again. */
function routeToControl({ upstreams, joined, credential }: DepotOptions, installation: string): UpstreamOptions {
	return {
		addresses: () => [...new Set([...(joined?.peers.newest.control ?? []), ...upstreams])],
		...(joined ? { tls: () => joined.peers.towardsControl(installation) } : {}),
		credential: () => credential().credential,
	};
}

interface Rooms {
	cache: Cache;
	board: Board;
	relay: Relay;
	upstream: Upstream;
}

/** The unix socket, and on a joined server the TLS port: the same is answered on both, once it is known who asks. */
async function openDoors(
	options: DepotOptions,
	{ cache, board, relay, upstream }: Rooms,
): Promise<{ port: number | null; close(): Promise<void> }> {
	const { clock, log, joined, listen } = options;
	const claimsOf = (request: IncomingMessage): Claims | null => {
		const [scheme, text] = (request.headers.authorization ?? '').split(' ');
		const claims = scheme === 'Bearer' && text ? readCredential(text, options.credential().publicKey, clock.now()) : null;
		return claims && (claims.role === 'agent' || claims.role === 'edge') ? claims : null;
	};
	const door = (authenticate: typeof claimsOf) => ({
		handler: createHandler({
			cache,
			authenticate,
			placed: (theirs, server) => [...board.placed(theirs, server), ...relay.tasks.releasesOf(server)],
			secrets: (question) => upstream.secrets(question),
			log,
		}),
		links: { path: '/link', authenticate, onLink: (below: ServerLink) => relay.onLink(below), log, clock },
	});

	const here = door(claimsOf);
	const server = createServer({ headersTimeout: HEADERS_TIMEOUT_MS, requestTimeout: REQUEST_TIMEOUT_MS }, here.handler);
	const acceptor = acceptLinks(server, here.links);
	rmSync(options.socket, { force: true });
	server.listen(options.socket);
	await once(server, 'listening');

	let listener: TlsListener | null = null;
	let others: Acceptor | null = null;
	if (joined && listen) {
		// A program's credential opens nothing from another server than its own.
		const there = door((request) => {
			const claims = claimsOf(request);
			const peer = listener?.peerOf(request.socket);
			return claims?.server === peer?.name && claims && peer?.roles.includes(claims.role) ? claims : null;
		});
		const tls = createPeerHttps(joined.peers, there.handler);
		others = acceptLinks(tls, there.links);
		listener = await listenForPeers(tls, { peers: joined.peers, ...listen, log, clock });
	}
	return {
		port: listener?.port ?? null,
		async close() {
			acceptor.close();
			others?.close();
			await listener?.close();
			server.closeAllConnections();
			server.close();
			await once(server, 'close');
		},
	};
}

async function sweep(store: DiskStore, cache: Cache, board: Board, regions: readonly string[]): Promise<void> {
	const before = [...store.digests()];
	const kept = new Set<string>();
	for (const { artifact, vendor } of board.named(regions)) {
		for (const root of vendor ? [artifact, vendor] : [artifact]) {
			const { manifest, blobs } = await cache.tree(root);
			for (const digest of blobs) kept.add(digest);
			for (const digest of treeOf(manifest).nodes.keys()) kept.add(digest);
		}
	}
	await store.delete(before.filter((digest) => !kept.has(digest)));
}

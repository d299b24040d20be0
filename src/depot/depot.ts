import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { createServer, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { openDiskStore, type DiskStore } from '#store/disk.ts';
import { treeOf } from '#store/manifest.ts';
import { acceptLinks } from '#wire/accept.ts';
import { readCredential, type Claims } from '#wire/credential.ts';
import { dial } from '#wire/link.ts';
import type { UpMessage } from '#wire/region.ts';
import { Board } from './board.ts';
import { Cache } from './cache.ts';
import { keep, recall } from './memory.ts';
import { Relay } from './relay.ts';
import { createHandler } from './serve.ts';
import { createUpstream } from './upstream.ts';

/** A region's depot: its relay and its cache, on one unix socket. */

/** Blobs that no placed release names any more leave the cache. */
const SWEEP_EACH_MS = 3_600_000;
const HEADERS_TIMEOUT_MS = 5_000;
const REQUEST_TIMEOUT_MS = 30_000;

export interface DepotOptions {
	/** Its own directory. */
	dir: string;
	socket: string;
	regions: readonly string[];
	/** `http://127.0.0.1:7070` */
	upstream: string;
	credential: () => { credential: string; publicKey: string; installation: string };
	log: Log;
	clock: Clock;
}

export interface Depot {
	close(): Promise<void>;
}

export async function openDepot(options: DepotOptions): Promise<Depot> {
	const { clock, log, regions } = options;
	const { credential, publicKey, installation } = options.credential();
	const own = readCredential(credential, publicKey, clock.now());
	if (own?.role !== 'depot') throw new Error('the credential of this depot has expired or is not one of a depot');
	const remembered = await recall(options.dir, installation, log);
	const store = await openDiskStore(join(options.dir, 'blobs'), { durable: false });
	const upstream = createUpstream(options.upstream, () => options.credential().credential);
	const cache = new Cache({ store, upstream, log });
	const board = new Board(log, remembered);
	const keeper = keep(options.dir, () => ({ ...board.state(), installation, edges: relay.edges() }), log, clock);
	const relay: Relay = new Relay({
		server: own.server,
		installation,
		regions,
		board,
		remembered: remembered.edges,
		up: (message: UpMessage) => link.send(message),
		changed: () => keeper.changed(),
		gift: (gift) => cache.gift(gift),
		log,
		clock,
	});

	const authenticate = (request: IncomingMessage): Claims | null => {
		const [scheme, text] = (request.headers.authorization ?? '').split(' ');
		return scheme === 'Bearer' && text ? readCredential(text, options.credential().publicKey, clock.now()) : null;
	};
	const server = createServer({ headersTimeout: HEADERS_TIMEOUT_MS, requestTimeout: REQUEST_TIMEOUT_MS });
	server.on('request', createHandler({ cache, authenticate, placed: (theirs) => board.placed(theirs), log }));
	const isBelow = (claims: Claims | null) => (claims && claims.role !== 'depot' ? claims : null);
	const acceptor = acceptLinks(server, {
		path: '/link',
		authenticate: (request) => isBelow(authenticate(request)),
		onLink: (below) => relay.onLink(below),
		log,
		clock,
	});
	rmSync(options.socket, { force: true });
	const link = dial({
		url: `${options.upstream.replace(/^http/, 'ws')}/link`,
		credential: () => options.credential().credential,
		hello: () => relay.hello(),
		onMessage: (message, text) => relay.fromControl(message, text),
		onUp: () => relay.controlUp(),
		onDown: () => relay.controlDown(),
		log,
		clock,
	});
	server.listen(options.socket);
	await once(server, 'listening');
	const sweeping = clock.every(SWEEP_EACH_MS, () => {
		sweep(store, cache, board, regions).catch((error: unknown) => log.warn('sweep.failed', { error }));
	});

	return {
		async close() {
			sweeping.cancel();
			link.close();
			acceptor.close();
			relay.close();
			server.closeAllConnections();
			server.close();
			await once(server, 'close');
			await keeper.close();
			upstream.close();
			await store.close();
		},
	};
}

async function sweep(store: DiskStore, cache: Cache, board: Board, regions: readonly string[]): Promise<void> {
	const before = [...store.digests()];
	const kept = new Set<string>();
	for (const { artifact, vendor } of board.placed(regions)) {
		for (const root of vendor ? [artifact, vendor] : [artifact]) {
			const { manifest, blobs } = await cache.tree(root);
			for (const digest of blobs) kept.add(digest);
			for (const digest of treeOf(manifest).nodes.keys()) kept.add(digest);
		}
	}
	await store.delete(before.filter((digest) => !kept.has(digest)));
}

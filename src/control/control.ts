import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Clock, Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { State } from '#state/state.ts';
import type { BlobStore } from '#store/blob-store.ts';
import { acceptLinks, type Acceptor } from '#wire/accept.ts';
import { readCredential, type Claims } from '#wire/credential.ts';
import { bearer, hostAllowed } from './access.ts';
import { adminRoutes } from './api/admin.ts';
import { appRoutes } from './api/apps.ts';
import { blobRoutes } from './api/blobs.ts';
import { deploymentRoutes } from './api/deployments.ts';
import { pageRoutes } from './api/pages.ts';
import type { DriverSettings } from './driver/settings.ts';
import { FEED_PATH, Feed } from './feed.ts';
import { appUrl, type House } from './house.ts';
import { Hub, namedBy } from './hub.ts';
import { Manifests } from './manifests.ts';
import { Metrics } from './metrics.ts';
import { openApi } from './openapi.ts';
import type { Pages } from './pages.ts';
import type { Driver } from './ports.ts';
import { watchHouse } from './watch.ts';
import type { Route } from './route.ts';
import { createRouter } from './router.ts';

/** Control, but for its process: the API, the feed and the hub on one port of one loopback address. */

const LOOPBACK = ['127.0.0.1', '::1'];
const HEADERS_TIMEOUT_MS = 10_000;
/** To receive a whole request; answers may stream for as long as they like. */
const REQUEST_TIMEOUT_MS = 120_000;
const MAX_HEADER_BYTES = 16 * 1024;
const CLOSE_LIMIT_MS = 2_000;

export interface ControlOptions {
	state: State;
	store: BlobStore;
	regions: readonly { name: string; edgePort: number }[];
	address?: string;
	/** 0: any free one. */
	port: number;
	/** Host names to answer to besides the loopback ones. */
	names?: readonly string[];
	pages: Pages;
	version: string;
	createDriver(settings: DriverSettings): Driver;
	/** Names this process: deployments belong to one of them at a time. */
	owner: string;
	log: Log;
	clock: Clock;
}

export interface Control {
	url: string;
	house: House;
	close(): Promise<void>;
}

export async function openControl(options: ControlOptions): Promise<Control> {
	const { state, store, regions, log, clock, names = [], address = '127.0.0.1' } = options;
	if (!LOOPBACK.includes(address)) {
		throw new Error(`control listens on loopback only, not on ${address}: it has no TLS yet (reach it through a tunnel, such as ssh -L)`);
	}
	const installation = await state.installation();
	await state.regions.set(regions);
	const server = createServer({
		headersTimeout: HEADERS_TIMEOUT_MS,
		requestTimeout: REQUEST_TIMEOUT_MS,
		connectionsCheckingInterval: HEADERS_TIMEOUT_MS / 10,
		maxHeaderSize: MAX_HEADER_BYTES,
	});
	// Requests that come before everything is there wait for it.
	const router = Promise.withResolvers<ReturnType<typeof createRouter>>();
	server.on('request', (request, response) => void router.promise.then((answer) => answer(request, response)));
	const url = await listen(server, address, options.port);
	const hub = new Hub({ installation: installation.id, regions: regions.map(({ name }) => name), wanted: () => wanted(state), log, clock });
	await hub.refresh();
	const urlOf = (app: string, environment: string) => appUrl(regions, app, environment);
	const driver = options.createDriver({ store: state.deployments, hub, urlOf, owner: options.owner, log, clock });
	const manifests = new Manifests({ store, state });
	const house: House = { installation, state, store, hub, driver, manifests, metrics: new Metrics(), regions, url, log, clock };
	const watching = watchHouse(house);

	const readClaims = (request: IncomingMessage) => depotClaims(bearer(request), installation.publicPem, clock);
	const isDepot = (credential: string) => depotClaims(credential, installation.publicPem, clock) !== null;
	const feed = new Feed(house, names);
	const acceptor = acceptLinks(server, {
		path: '/link',
		authenticate: readClaims,
		hostAllowed: (host) => hostAllowed(host, names),
		onLink: (link) => hub.onLink(link),
		otherwise: (request, socket, head) => upgrade(feed, request, socket, head),
		log,
		clock,
	});
	const routes: Route[] = [...deploymentRoutes(house), ...appRoutes(house), ...adminRoutes(house), ...blobRoutes(house)];
	const document = () => openApi(routes, options.version);
	routes.push(...pageRoutes(house, options.pages, document));
	await driver.resume();
	router.resolve(createRouter({ routes, state, names, isDepot, log }));
	return { url, house, close: () => close({ server, acceptor, feed, hub, driver, watching, clock }) };
}

function listen(server: Server, address: string, port: number): Promise<string> {
	return new Promise((resolve, reject) => {
		server.once('error', reject);
		server.listen(port, address, () => {
			server.off('error', reject);
			const bound = server.address();
			const name = address.includes(':') ? `[${address}]` : address;
			resolve(`http://${name}:${typeof bound === 'object' && bound ? bound.port : port}`);
		});
	});
}

function upgrade(feed: Feed, request: IncomingMessage, socket: Duplex, head: Buffer): void {
	if ((request.url ?? '').split('?', 1)[0] === FEED_PATH) return feed.upgrade(request, socket, head);
	socket.end('HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n');
}

function depotClaims(credential: string | null, publicPem: string, clock: Clock): Claims | null {
	const claims = credential === null ? null : readCredential(credential, publicPem, clock.now());
	return claims?.role === 'depot' ? claims : null;
}

async function wanted(state: State) {
	const wants = await state.deployments.wants({});
	const byApp = Map.groupBy(wants, (want) => want.app);
	const releases = await Promise.all(
		[...byApp].map(([app, theirs]) => state.deployments.releases(app, [...new Set(theirs.flatMap(namedBy))])),
	);
	return { wants, releases: releases.flat() };
}

interface Parts {
	server: Server;
	acceptor: Acceptor;
	feed: Feed;
	hub: Hub;
	driver: Driver;
	watching: { close(): void };
	clock: Clock;
}

async function close({ server, acceptor, feed, hub, driver, watching, clock }: Parts): Promise<void> {
	watching.close();
	await driver.close();
	feed.close();
	acceptor.close();
	hub.close();
	await new Promise<void>((resolve) => {
		// Answers under way get a moment; streams of progress never end by themselves.
		const limit: Timer = clock.after(CLOSE_LIMIT_MS, () => server.closeAllConnections());
		server.close(() => {
			limit.cancel();
			resolve();
		});
		server.closeIdleConnections();
	});
}

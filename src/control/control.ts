import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Clock, Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { Fence } from '#state/builds.ts';
import type { State } from '#state/state.ts';
import type { SweptStore } from '#store/blob-store.ts';
import { acceptLinks, type Acceptor } from '#wire/accept.ts';
import { readCredential, type Claims } from '#wire/credential.ts';
import { appAddress, edgeOf } from './app-edge.ts';
import { bearer, hostAllowed } from './access.ts';
import { gatesEnded } from './builds/builds.ts';
import { BuildDesk } from './builds/desk.ts';
import { BuildLogs } from './builds/log.ts';
import type { DriverSettings } from './driver/settings.ts';
import { FEED_PATH, Feed } from './feed.ts';
import { Kept } from './git/kept.ts';
import { Repositories } from './git/repositories.ts';
import type { House } from './house.ts';
import { Hub, namedBy } from './hub.ts';
import { Manifests } from './manifests.ts';
import { Metrics } from './metrics.ts';
import { Outbound } from './outbound/outbound.ts';
import { pushesOf } from './repositories/branches.ts';
import { openForges } from './repositories/forges.ts';
import { Mirrors } from './repositories/mirror.ts';
import { RepositorySecrets } from './repositories/secrets.ts';
import { Others, type OthersOptions } from './others.ts';
import type { MasterKeySource } from './master-key.ts';
import type { Pages } from './pages.ts';
import type { Driver } from './ports.ts';
import type { Reserve } from './reserve.ts';
import { watchHouse } from './watch.ts';
import { Roster } from './roster.ts';
import { createRouter } from './router.ts';
import { routesOf } from './routes.ts';
import { watchRevocations } from './secret-changes.ts';
import { SecretKeeper } from './secrets.ts';
import { listenTls, type TlsSettings } from './tls.ts';

/** Control, but for its process: the API, the feed and the hub on loopback, and over TLS where other machines are to reach it. */

const LOOPBACK = ['127.0.0.1', '::1'];
const HEADERS_TIMEOUT_MS = 10_000;
/** To receive a whole request, which may be a push; all others have less time (`BODY_LIMIT_MS`). Answers may stream for as long as they like. */
const REQUEST_TIMEOUT_MS = 11 * 60_000;
const MAX_HEADER_BYTES = 16 * 1024;
const LIMITS = {
	headersTimeout: HEADERS_TIMEOUT_MS,
	requestTimeout: REQUEST_TIMEOUT_MS,
	connectionsCheckingInterval: HEADERS_TIMEOUT_MS / 10,
	maxHeaderSize: MAX_HEADER_BYTES,
};
const CLOSE_LIMIT_MS = 2_000;
/** An address that no replica has said for a day is forgotten. */
const ANNOUNCE_EACH_MS = 3_600_000;

export interface ControlOptions {
	state: State;
	store: SweptStore;
	/** Its data directory; absent: it keeps no repositories. */
	data?: string;
	regions: readonly { name: string; edgePort: number }[];
	address?: string;
	/** 0: any free one. */
	port: number;
	/** For other machines: the same over TLS. */
	tls?: TlsSettings | undefined;
	/** Host names to answer to besides the loopback ones. */
	names?: readonly string[];
	pages: Pages;
	version: string;
	createDriver(settings: DriverSettings): Driver;
	/** Names this process: deployments belong to one of them at a time. */
	owner: string;
	/** Other controls on this database reach the same blobs. */
	sharedStore?: boolean;
	/** Where it lives, when there may be others on this database; absent: there are none. */
	replica?: Pick<OthersOptions, 'home' | 'times' | 'memory'>;
	/** How long builders have to be heard again after control was away; for tests. */
	builderGraceMs?: number | undefined;
	reserve?: Reserve | null;
	/** Where the master key of secrets is; absent: this control keeps none. */
	masterKey?: MasterKeySource;
	log: Log;
	clock: Clock;
}

export interface Control {
	url: string;
	/** Where other machines reach it: `https://host:port`. */
	addresses: string[];
	house: House;
	close(): Promise<void>;
}

export async function openControl(options: ControlOptions): Promise<Control> {
	const { state, store, log, clock, names = [], address = '127.0.0.1' } = options;
	if (!LOOPBACK.includes(address)) {
		throw new Error(`control listens without TLS on loopback only, not on ${address}: other machines reach it by --listen`);
	}
	const installation = await state.installation();
	await state.regions.set(options.regions, options.replica?.home);
	const server = createServer(LIMITS);
	// Requests that come before everything is there wait for it.
	const router = Promise.withResolvers<ReturnType<typeof createRouter>>();
	const answerBy = (one: Server) =>
		one.on('request', (request, response) => void router.promise.then((answer) => answer(request, response)));
	const url = await listen(answerBy(server), address, options.port);
	const tls = options.tls ? await listenTls({ settings: options.tls, installation, limits: LIMITS, log, clock }, answerBy) : null;
	const roster = new Roster({ state, local: options.regions, addresses: tls?.addresses ?? [], log, clock });
	await roster.refresh();
	const hub = await openHub(installation.id, roster, options);
	const others = openOthers(options, [...(tls?.addresses ?? []), url], () => feed.restart());
	const secrets = new SecretKeeper({ state, masterKey: options.masterKey, log });
	const driver = options.createDriver(driverSettings(options, { hub, roster, secrets, others }));
	const manifests = new Manifests({ store, state });
	const builds = new BuildDesk({
		state,
		onGatesLost: (of) => gatesLost(house, of),
		onEnded: (ended) => house.metrics.add('jibe_builds_total', { state: ended }),
		graceMs: options.builderGraceMs,
		log,
		clock,
	});
	const git = new Repositories(options.data);
	const outbound = openOutbound(state, [...(tls?.addresses ?? []), ...names], clock);
	const house: House = {
		installation,
		state,
		store,
		sharedStore: options.sharedStore ?? false,
		hub,
		driver,
		manifests,
		metrics: new Metrics(),
		secrets,
		builds,
		buildLogs: new BuildLogs(state),
		git,
		kept: new Kept({ git, state, store, clock, log }),
		outbound,
		repositorySecrets: new RepositorySecrets({ state, secrets }),
		mirrors: new Mirrors({ git, outbound, log }),
		roster,
		clocks: new Map(),
		url,
		log,
		clock,
		local: options.regions,
		reserve: options.reserve ?? null,
		get regions() {
			return roster.regions();
		},
	};
	const watching = [watchHouse(house), watchRevocations(house)];

	const claimsOf = (request: IncomingMessage) => programClaims(bearer(request), 'depot', installation.publicPem, clock);
	const feed = new Feed(house, names);
	const accept = (one: Server) =>
		acceptLinks(one, {
			path: '/link',
			authenticate: claimsOf,
			refusal: (request, claims) => roster.refusal(request, claims),
			hostAllowed: (request) => hostAllowed(request, names),
			onLink: (link) => roster.watch(link, hub.onLink(link)),
			otherwise: (request, socket, head) => upgrade(feed, request, socket, head),
			log,
			clock,
		});
	const acceptors = [server, ...(tls ? [tls.server] : [])].map(accept);
	const forges = openForges(house, pushesOf(house), tls?.addresses[0] ?? url);
	const routes = routesOf(house, forges.routes, { version: options.version, certFile: options.tls?.certFile, pages: options.pages });
	await others?.join(house);
	await driver.resume();
	forges.begin();
	const programProblem = (request: IncomingMessage, role: 'depot' | 'builder') =>
		problemOf(programClaims(bearer(request), role, installation.publicPem, clock), role, request, roster);
	router.resolve(createRouter({ routes, state, names, programProblem, log }));
	const announcing = tls ? announce(state, tls.addresses, log, clock) : null;
	const closing = { servers: [server, ...(tls ? [tls.server] : [])], acceptors, feed, hub, driver, clock };
	return {
		url,
		addresses: tls?.addresses ?? [],
		house,
		async close() {
			for (const part of [...watching, builds, roster, ...(tls ? [tls] : [])]) part.close();
			announcing?.cancel();
			await forges.close();
			await close(closing, others);
		},
	};
}

/** What the driver is given of the rest of the house. */
function driverSettings(
	{ state, owner, log, clock }: ControlOptions,
	{ hub, roster, secrets, others }: { hub: Hub; roster: Roster; secrets: SecretKeeper; others: Others | null },
): DriverSettings {
	return {
		revokedSecrets: ({ app, environment, secrets: pins = {} }) => secrets.revoked({ app, environment }, pins),
		...(others ? { others: () => others.ids(), settled: () => others.settled() } : {}),
		onReadOnly: (app, reason) => {
			state.apps.setReadOnly(app, reason, 'jibe').catch((error: unknown) => log.warn('app.read_only_unsaid', { app, error }));
		},
		store: state.deployments,
		hub,
		addressOf: (app, environment, domains) => appAddress(roster, app, environment, domains),
		edgeOf: (region, app, environment) => edgeOf(roster, region, app, environment),
		schemaFloor: (app, environment) => state.deployments.floor(app, environment),
		owner,
		joined: roster,
		log,
		clock,
	};
}

async function openHub(installation: string, roster: Roster, { state, log, clock }: ControlOptions): Promise<Hub> {
	const regions = () => roster.regions().map(({ name }) => name);
	const servers = (names: readonly string[]) => roster.message(names);
	const forgotten = () => state.apps.forgotten();
	const hub = new Hub({ installation, regions: regions(), wanted: () => wanted(state), forgotten, servers, log, clock });
	const tellServers = () => hub.serversChanged(regions(), roster.trusted());
	tellServers();
	roster.subscribe(tellServers);
	await hub.refresh();
	return hub;
}

function openOthers({ state, owner, replica, version }: ControlOptions, addresses: string[], rewound: () => void): Others | null {
	return replica ? new Others(state, { id: owner, addresses, version, ...replica }, rewound) : null;
}

/** Jibe's own addresses are what nobody outside it may make it speak to. */
function openOutbound(state: State, own: readonly string[], clock: Clock): Outbound {
	const hosts = own.map((one) => (URL.canParse(one) ? new URL(one).hostname : one));
	const allowed = async () => (await state.repositories.allowed()).map(({ address }) => address);
	return new Outbound({ allowed, own: () => hosts, clock });
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

function programClaims(credential: string | null, role: 'depot' | 'builder', publicPem: string, clock: Clock): Claims | null {
	const claims = credential === null ? null : readCredential(credential, publicPem, clock.now());
	return claims?.role === role ? claims : null;
}

function gatesLost(house: House, of: Fence): void {
	const summary = `the builder ${of.worker} was lost, as those before it`;
	gatesEnded(house, of, { passed: false, summary }).catch((error: unknown) => house.log.warn('build.gates_unheard', { ...of, error }));
}

async function wanted(state: State) {
	const wants = await state.deployments.wants({});
	const byApp = Map.groupBy(wants, (want) => want.app);
	const releases = await Promise.all(
		[...byApp].map(([app, theirs]) => state.deployments.releases(app, [...new Set(theirs.flatMap(namedBy))])),
	);
	return { wants, releases: releases.flat() };
}

/** Servers and commands are told of every replica's addresses. */
function announce(state: State, addresses: readonly string[], log: Log, clock: Clock): Timer {
	const say = () => state.servers.announce(addresses).catch((error: unknown) => log.warn('addresses.unsaid', { error }));
	void say();
	return clock.every(ANNOUNCE_EACH_MS, () => void say());
}

/** Why the request of a program is refused, or null. */
function problemOf(claims: Claims | null, role: string, request: IncomingMessage, roster: Roster): string | null {
	return claims ? roster.refusal(request, claims) : `the credential is missing, expired, or not of a ${role} of this installation`;
}

interface Parts {
	servers: Server[];
	acceptors: Acceptor[];
	feed: Feed;
	hub: Hub;
	driver: Driver;
	clock: Clock;
}

async function close({ servers, acceptors, feed, hub, driver, clock }: Parts, others: Others | null): Promise<void> {
	await driver.close();
	await others?.close();
	feed.close();
	for (const acceptor of acceptors) acceptor.close();
	hub.close();
	await Promise.all(servers.map((server) => closeServer(server, clock)));
}

function closeServer(server: Server, clock: Clock): Promise<void> {
	return new Promise((resolve) => {
		// Answers under way get a moment; streams of progress never end by themselves.
		const limit: Timer = clock.after(CLOSE_LIMIT_MS, () => server.closeAllConnections());
		server.close(() => {
			limit.cancel();
			resolve();
		});
		server.closeIdleConnections();
	});
}

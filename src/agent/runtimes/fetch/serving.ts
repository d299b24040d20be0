import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { getRequestListener } from '@hono/node-server';
import { systemClock, type Clock } from '#clock/clock.ts';
import type { ExecutionContext, FetchApp } from './app.ts';

/**
 * The HTTP server of an instance. It is made, listens, and answers dummy requests before there is an app; `use` puts
 * the app in. It knows what is in flight, so that a drain ends when that has ended and not before.
 */
export interface Serving {
	server: Server;
	use: (app: FetchApp) => void;
	/** Resolves with how many requests and streams had to be cut, or null when `resume` called it off. */
	drain(limits: { requestsMs: number; streamsMs: number }): Promise<number | null>;
	resume(): void;
}

/** An edge keeps idle connections for less than this, so that it is never we who close one that it is about to use. */
const KEEP_ALIVE_MS = 10 * 60_000;
/** How long a connection without a request on it holds up a drain: its edge may have been about to send one. */
const AT_REST_MS = 1_000;
/** Turns of the event loop without a new connection, after which none is waiting: each turn accepts one at least. */
const QUIET_TURNS = 3;
const MAX_TURNS = 10_000;
/** The edge's limit is 16 KiB; it adds headers of its own. */
const MAX_HEADER_BYTES = 32 * 1024;
/** Close code 1012, "service restart": clients come back, to the new release. */
const WEBSOCKET_RESTART = Buffer.from([0x88, 0x02, 0x03, 0xf4]);
const NO_UPGRADE =
	'HTTP/1.1 426 Upgrade Required\r\nconnection: close\r\ncontent-type: text/plain\r\n\r\nThis app exports no upgrade(request, socket, head).\n';

export function createServing(env: object, clock: Clock = systemClock): Serving {
	let app: FetchApp = { fetch: () => new Response(null, { status: 503 }) };
	const flight = createFlight(clock);
	const context: ExecutionContext = {
		waitUntil: (work) => flight.wait(work),
		passThroughOnException() {},
	};
	const listener = getRequestListener((request, bindings) => app.fetch(request, Object.assign(Object.create(env), bindings), context));
	const server = createServer(
		{ keepAliveTimeout: KEEP_ALIVE_MS, requestTimeout: 0, maxHeaderSize: MAX_HEADER_BYTES },
		(request, response) => {
			flight.request(response);
			if (app.listener) app.listener(request, response);
			else void listener(request, response);
		},
	);
	server.on('connection', (socket: Socket) => flight.connection(socket));
	server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
		socket.on('error', () => socket.destroy()); // the client went away
		if (!app.upgrade) return void socket.end(NO_UPGRADE);
		flight.stream(socket);
		app.upgrade(request, socket, head);
	});
	return {
		server,
		use: (next) => (app = next),
		drain: (limits) => flight.drain(limits).finally(() => server.closeIdleConnections()),
		resume: () => flight.resume(),
	};
}

function createFlight(clock: Clock) {
	const connections = new Set<Socket>();
	const responses = new Set<ServerResponse>();
	const sockets = new Set<Duplex>();
	const work = new Set<Promise<unknown>>();
	let changed: (() => void) | null = null;
	let drains = 0;
	let arrivals = 0;
	const done = () => changed?.();

	/** True when `empty` came true in time; null when the drain was called off. */
	async function settle(mine: number, limitMs: number, empty: () => boolean): Promise<boolean | null> {
		const until = clock.monotonic() + limitMs;
		while (!empty()) {
			const left = until - clock.monotonic();
			if (left <= 0) return false;
			await new Promise<void>((resolve) => {
				const timer = clock.after(left, resolve);
				changed = () => (timer.cancel(), resolve());
			});
			if (mine !== drains) return null;
		}
		return mine === drains ? true : null;
	}

	/** Who was waiting in the socket's queue has been accepted, however little time this process got. */
	async function acceptAll(): Promise<void> {
		let seen = arrivals;
		for (let turn = 0, quiet = 0; turn < MAX_TURNS && quiet < QUIET_TURNS; turn++) {
			await new Promise((resolve) => setImmediate(resolve));
			quiet = arrivals === seen ? quiet + 1 : 0;
			seen = arrivals;
		}
	}

	function anyAtRest(): boolean {
		const busy = new Set<unknown>(sockets);
		for (const response of responses) busy.add(response.req.socket);
		return connections.size > 0 && [...connections].some((socket) => !busy.has(socket));
	}

	return {
		connection(socket: Socket): void {
			arrivals++;
			connections.add(socket);
			socket.once('close', () => (connections.delete(socket), done()));
		},
		request(response: ServerResponse): void {
			responses.add(response);
			done();
			noteType(response);
			response.once('close', () => (responses.delete(response), done()));
		},
		stream(socket: Duplex): void {
			sockets.add(socket);
			done();
			socket.once('close', () => (sockets.delete(socket), done()));
		},
		wait(promise: Promise<unknown>): void {
			work.add(promise);
			const settled = () => (work.delete(promise), done());
			promise.then(settled, (error: unknown) => {
				console.error('a promise given to waitUntil was rejected:', error);
				settled();
			});
		},
		async drain(limits: { requestsMs: number; streamsMs: number }): Promise<number | null> {
			const mine = ++drains;
			// What edges sent just before they obeyed the new pointer may still lie unread in a socket. They have closed
			// their connections at rest: one that is open without a request is one whose request is about to be read.
			await acceptAll();
			if (mine !== drains) return null;
			if ((await settle(mine, AT_REST_MS, () => !anyAtRest())) === null) return null;
			const requests = () => [...responses].filter((response) => !isStream(response));
			if ((await settle(mine, limits.requestsMs, () => work.size === 0 && requests().length === 0)) === null) return null;
			// What has begun to answer goes on as a stream does; what has not by now is cut.
			let cut = work.size;
			for (const response of responses) if (!response.headersSent) cut += Number(Boolean(response.destroy()));
			if ((await settle(mine, limits.streamsMs, () => responses.size === 0 && sockets.size === 0)) === null) return null;
			cut += responses.size + sockets.size;
			for (const response of responses) response.end();
			for (const socket of sockets) socket.end(WEBSOCKET_RESTART);
			return cut;
		},
		resume(): void {
			drains++;
			done();
		},
	};
}

const streams = new WeakSet<ServerResponse>();

/** Headers given to `writeHead`, as by @hono/node-server, can't be asked for afterwards: they are looked at on the way. */
function noteType(response: ServerResponse): void {
	const write = response.writeHead.bind(response) as (...args: unknown[]) => ServerResponse;
	response.writeHead = (...args: unknown[]) => {
		if (typeIn(args.at(-1)).startsWith('text/event-stream')) streams.add(response);
		return write(...args);
	};
}

function typeIn(headers: unknown): string {
	if (typeof headers !== 'object' || headers === null) return '';
	const pairs = Array.isArray(headers) ? pairsOf(headers) : Object.entries(headers);
	for (const [name, value] of pairs) if (String(name).toLowerCase() === 'content-type') return String(value);
	return '';
}

function pairsOf(headers: unknown[]): [unknown, unknown][] {
	if (Array.isArray(headers[0])) return headers as [unknown, unknown][];
	return Array.from({ length: headers.length / 2 }, (_, i) => [headers[i * 2], headers[i * 2 + 1]]);
}

function isStream(response: ServerResponse): boolean {
	if (!response.headersSent) return false;
	return streams.has(response) || String(response.getHeader('content-type') ?? '').startsWith('text/event-stream');
}

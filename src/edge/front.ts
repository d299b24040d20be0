import { randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { FIRST_PARTY_COOKIE, userKeyOf } from '#split/user-key.ts';
import { ACCESS_NAME, readAccess } from '#wire/access.ts';
import { PRODUCTION } from '#wire/names.ts';
import type { Destination, EdgeContext } from './dispatch.ts';
import { Exchange } from './exchange.ts';
import { Inbound } from './inbound.ts';
import { answers, render, type Answer } from './pages.ts';
import type { Route, Routes } from './routes.ts';
import type { Serving } from './serving.ts';
import { Tunnel } from './tunnel.ts';

/** The HTTP server of one region's port: reads a request, finds what it is for, sends it on its way. */
export function createFront(
	region: string,
	routes: Routes,
	edge: EdgeContext,
	publicKey: string,
	headersTimeoutMs = HEADERS_TIMEOUT_MS,
): Server {
	const front: Front = { region, routes, edge, publicKey, admitted: new Map() };
	const server = createServer({
		insecureHTTPParser: false,
		requireHostHeader: false,
		maxHeaderSize: MAX_HEADER_BYTES,
		headersTimeout: headersTimeoutMs,
		// Uploads may take their time as long as something comes: the sweep looks after bodies.
		requestTimeout: 0,
		connectionsCheckingInterval: headersTimeoutMs / 10,
		keepAliveTimeout: KEEP_ALIVE_MS,
		noDelay: true,
		shouldUpgradeCallback: (req) => req.headers.upgrade?.toLowerCase() === 'websocket',
	});
	server.on('request', (req: IncomingMessage, res: ServerResponse) => serve(front, req, res));
	server.on('checkContinue', (req: IncomingMessage, res: ServerResponse) => serve(front, req, res));
	server.on('upgrade', (req: IncomingMessage, socket: Duplex, head: Buffer) => upgrade(front, req, socket, head));
	server.on('clientError', (error: NodeJS.ErrnoException, socket: Duplex) => refuseBytes(error, socket));
	return server;
}

interface Front {
	region: string;
	routes: Routes;
	edge: EdgeContext;
	publicKey: string;
	/** Signed texts that were found good, and until when (wall ms). */
	admitted: Map<string, { deployment: string; until: number }>;
}

const MAX_HEADER_BYTES = 16 * 1024;
const HEADERS_TIMEOUT_MS = 10_000;
/** Longer than proxies and browsers keep theirs, so that they are the ones who close. */
const KEEP_ALIVE_MS = 75_000;
const USER_COOKIE_MAX_AGE_S = 30 * 24 * 3600;
const MAX_ADMITTED = 1_000;

function serve(front: Front, req: IncomingMessage, res: ServerResponse): void {
	res.on('error', (error) => front.edge.log.debug('client.error', { error }));
	const inbound = new Inbound(req);
	inbound.upgrade = null;
	const target = inbound.problem === null ? find(front, inbound) : answers.badRequest(inbound.problem);
	if ('location' in target) return void res.writeHead(302, target.headers).end();
	if ('code' in target) return answer(front.edge, inbound, res, target);
	new Exchange(front.edge, inbound, res, target, inbound.requestId ?? newRequestId(), target.cookie);
}

function upgrade(front: Front, req: IncomingMessage, socket: Duplex, head: Buffer): void {
	const inbound = new Inbound(req);
	const problem = inbound.problem ?? (inbound.hasBody ? 'A request to upgrade has no body.' : null);
	const target = problem === null ? find(front, inbound) : answers.badRequest(problem);
	if ('code' in target || 'location' in target) {
		socket.on('error', () => socket.destroy());
		const refusal = 'code' in target ? target : answers.badRequest('Open the link in a browser first.');
		return refuseText(socket, refusal, inbound.header('accept') ?? '');
	}
	new Tunnel(front.edge, inbound, socket, head, target, inbound.requestId ?? newRequestId());
}

type Target = Answer | { location: string; headers: string[] } | (Destination & { cookie: readonly string[] });

function find(front: Front, inbound: Inbound): Target {
	const route = front.routes.find(front.region, inbound.host);
	switch (route.kind) {
		case 'unknown':
			return answers.unknownApp(inbound.host);
		case 'deployment':
			return findDeployment(front, inbound, route);
		case 'app':
			return findUser(inbound, route.serving, null);
	}
}

const NO_COOKIE: readonly string[] = [];

/** Who asks: whom to trust and which header or cookie tells users apart, the serving release says. */
function findUser(inbound: Inbound, serving: Serving, release: number | null): Destination & { cookie: readonly string[] } {
	const settings = serving.settings;
	if (settings !== null) inbound.trust(settings.trusted);
	const user = userKeyOf(inbound, settings?.keySource ?? null, serving.splitting && release === null ? newRequestId : null);
	const cookie =
		user.from === 'minted'
			? ['set-cookie', `${FIRST_PARTY_COOKIE}=${user.key}; Path=/; Max-Age=${USER_COOKIE_MAX_AGE_S}; HttpOnly; SameSite=Lax`]
			: NO_COOKIE;
	return { serving, release, userKey: user.key, cookie };
}

function findDeployment(front: Front, inbound: Inbound, route: Extract<Route, { kind: 'deployment' }>): Target {
	const { serving, deployment } = route;
	if (serving.environment === PRODUCTION) {
		const link = linkIn(inbound.path);
		if (link !== null && admits(front, link.access, deployment)) {
			const cookie = `${ACCESS_NAME}=${link.access}; Path=/; HttpOnly; SameSite=Lax`;
			return {
				location: link.rest,
				headers: ['location', link.rest, 'set-cookie', cookie, 'cache-control', 'no-store', 'content-length', '0'],
			};
		}
		const access = inbound.cookie(ACCESS_NAME);
		if (access === null || !admits(front, access, deployment)) return answers.accessNeeded(deployment);
	}
	const release = serving.releaseOf(deployment);
	const upstream = release === null ? null : serving.pick(release, []);
	if (release === null || !upstream?.healthy) return answers.releaseNotRunning(deployment);
	return findUser(inbound, serving, release);
}

/** The signed text in `?jibe-access=…`, and the address without it. */
function linkIn(path: string): { access: string; rest: string } | null {
	const query = path.indexOf('?');
	if (query === -1 || !path.includes(`${ACCESS_NAME}=`, query)) return null;
	const parameters = new URLSearchParams(path.slice(query + 1));
	const access = parameters.get(ACCESS_NAME);
	if (access === null) return null;
	parameters.delete(ACCESS_NAME);
	// Never `//host`, which a browser takes for another site.
	const rest = path.slice(0, query).replace(/^\/[/\\]+/, '/') + (parameters.size > 0 ? `?${parameters.toString()}` : '');
	return { access, rest };
}

function admits(front: Front, text: string, deployment: string): boolean {
	const now = front.edge.clock.now();
	let known = front.admitted.get(text);
	if (known === undefined) {
		const access = readAccess(text, front.publicKey, now);
		if (access === null) return false;
		known = { deployment: access.deployment, until: access.expires * 1000 };
		if (front.admitted.size >= MAX_ADMITTED) front.admitted.clear();
		front.admitted.set(text, known);
	}
	return known.deployment === deployment && known.until > now;
}

function answer(edge: EdgeContext, inbound: Inbound, res: ServerResponse, of: Answer): void {
	const { status, headers, body } = render(of, inbound.header('accept') ?? '');
	if (edge.closing || inbound.hasBody || inbound.problem !== null) headers.push('connection', 'close');
	res.writeHead(status, headers).end(inbound.method === 'HEAD' ? undefined : body);
}

/** Bytes that are no request: node's strict parser has refused them. */
function refuseBytes(error: NodeJS.ErrnoException, socket: Duplex): void {
	// In the middle of an answer nothing can be said any more.
	const answering = '_httpMessage' in socket ? (socket._httpMessage as ServerResponse | null) : null;
	if (answering?.headersSent || !socket.writable || error.code === 'ECONNRESET') return void socket.destroy();
	refuseText(socket, refusalOf(error.code), '');
}

function refusalOf(code: string | undefined): Answer {
	if (code === 'HPE_HEADER_OVERFLOW') {
		const message = `The head of the request is larger than ${MAX_HEADER_BYTES} bytes.`;
		return { status: 431, code: 'head_too_large', message, hint: null };
	}
	if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
		return { status: 408, code: 'head_timeout', message: 'The head of the request did not arrive in time.', hint: null };
	}
	return answers.badRequest('This is not a request of HTTP/1.1.');
}

const REASONS: Record<number, string> = { 400: 'Bad Request', 401: 'Unauthorized', 404: 'Not Found', 408: 'Request Timeout', 431: 'Request Header Fields Too Large', 503: 'Service Unavailable' }; // prettier-ignore

function refuseText(socket: Duplex, of: Answer, accept: string): void {
	const { status, headers, body } = render(of, accept);
	let text = `HTTP/1.1 ${status} ${REASONS[status] ?? ''}\r\nconnection: close\r\n`;
	for (let i = 0; i < headers.length; i += 2) text += `${headers[i]}: ${headers[i + 1]}\r\n`;
	socket.write(`${text}\r\n`, 'latin1');
	socket.end(body, () => socket.destroy());
}

/** 16 hex digits of randomness each, drawn 512 at a time: a call to the generator costs more than all the rest of an id. */
let pool = '';
let drawn = 0;
function newRequestId(): string {
	if (drawn >= pool.length) {
		pool = randomBytes(4096).toString('hex');
		drawn = 0;
	}
	drawn += 16;
	return pool.slice(drawn - 16, drawn);
}

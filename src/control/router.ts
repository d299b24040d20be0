import type { IncomingMessage, ServerResponse } from 'node:http';
import { getRequestListener, type HttpBindings } from '@hono/node-server';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { Hono, type Context } from 'hono';
import type { z } from 'zod';
import { systemClock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { State } from '#state/state.ts';
import { authenticate, authorise, checkOrigin, type Caller, type Role } from './access.ts';
import { Refusal } from './ports.ts';
import { INTERNAL, asRefusal, errorJson } from './refusals.ts';
import { ANSWERED, Raw, type Ask, type Route } from './route.ts';

const MAX_JSON_BYTES = 16 * 1024 * 1024;
/** From who has not shown yet who it is. */
const MAX_PUBLIC_JSON_BYTES = 16 * 1024;
/** To receive all of it. */
const BODY_LIMIT_MS = 120_000;
const SECURITY_HEADERS = { 'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer', 'cache-control': 'no-store' };

export interface RouterOptions {
	routes: readonly Route[];
	state: State;
	/** Host names besides the loopback ones. */
	names: readonly string[];
	/** Why this is not the request of such a program of this installation, or null. */
	programProblem: (request: IncomingMessage, role: 'depot' | 'builder') => string | null;
	log: Log;
}

type Env = { Bindings: HttpBindings };

/** Each request: where from → route → who → may they → input by its schema → handler → answer. */
export function createRouter(options: RouterOptions): (request: IncomingMessage, response: ServerResponse) => void {
	const hono = new Hono<Env>();
	for (const row of options.routes) hono.on(row.method, row.path, (context) => serve(row, context, options));
	hono.notFound((context) => {
		const { method } = context.req;
		return refuse(new Refusal('not_found', 404, `there is no ${method} ${context.req.path} here`, 'the paths are listed at /openapi.json'));
	});
	hono.onError((error, context) => refuse(toRefusal(error, context.req.path, options.log)));
	const listener = getRequestListener((request, env) => hono.fetch(request, env), {
		overrideGlobalObjects: false,
		autoCleanupIncoming: true,
	});
	return (request, response) => {
		try {
			checkOrigin(request, options.names);
		} catch (error) {
			// Whoever speaks for another host, or for several, may not mean the same requests as control.
			response.setHeader('connection', 'close');
			return writeRefusal(response, toRefusal(error, request.url ?? '', options.log));
		}
		void listener(request, response);
	};
}

async function serve(row: Route, context: Context<Env>, options: RouterOptions): Promise<Response> {
	const { incoming: request, outgoing: response } = context.env;
	const caller = await admit(row, request, options);
	const params = parse(row.params, context.req.param(), 'path');
	const query = parse(row.query, context.req.query(), 'query');
	const app = (params as { app?: string } | undefined)?.app;
	if (caller && isRole(row.role)) authorise(caller, row.role, { app, environment: environmentOf(query) });
	const upload = row.uploadBytes === undefined ? Buffer.alloc(0) : await readBody(request, row.uploadBytes);
	const body = row.body
		? parse(row.body, await readJson(request, row.role === 'public' ? MAX_PUBLIC_JSON_BYTES : MAX_JSON_BYTES), 'body')
		: undefined;
	if (caller && isRole(row.role)) authorise(caller, row.role, { app, environment: environmentOf(body) });
	const ask: Ask = { params: params as Record<string, string>, query, body, upload, caller: caller!, request, response };
	const answer = await row.handle(ask);
	if (answer === ANSWERED) return RESPONSE_ALREADY_SENT;
	if (answer instanceof Raw) {
		return new Response(answer.bytes, { headers: { ...SECURITY_HEADERS, 'content-type': answer.type, ...answer.headers } });
	}
	if (row.answer === null) return new Response(null, { status: 204, headers: SECURITY_HEADERS });
	return Response.json(answer, { headers: SECURITY_HEADERS });
}

async function admit(row: Route, request: IncomingMessage, { state, programProblem }: RouterOptions): Promise<Caller | null> {
	if (row.role === 'public') return null;
	if (isRole(row.role)) return authenticate(request, state);
	const program = row.role === 'program' ? 'depot' : row.role;
	const problem = programProblem(request, program);
	if (problem === null) return null;
	throw new Refusal('bad_credential', 401, `this is for ${program}s: ${problem}`);
}

function isRole(role: Route['role']): role is Role {
	return role !== 'public' && role !== 'program' && role !== 'builder';
}

function environmentOf(value: unknown): string | undefined {
	return (value as { environment?: string } | undefined)?.environment;
}

function parse(schema: z.ZodType | undefined, value: unknown, where: string): unknown {
	if (!schema) return undefined;
	const parsed = schema.safeParse(value);
	if (parsed.success) return parsed.data;
	const issues = parsed.error.issues.slice(0, 20).map(({ path, message }) => ({ path: path.join('.'), message }));
	const first = issues[0];
	throw new Refusal('bad_request', 400, `the ${where} is not as it must be: ${first?.path || where}: ${first?.message}`, null, { issues });
}

async function readJson(request: IncomingMessage, maxBytes: number): Promise<unknown> {
	const type = (request.headers['content-type'] ?? '').split(';', 1)[0];
	if (type !== 'application/json')
		throw new Refusal('unsupported_type', 415, `the body must be application/json, not ${type || 'of no type'}`);
	const body = await readBody(request, maxBytes);
	try {
		return JSON.parse(body.toString());
	} catch {
		throw new Refusal('bad_request', 400, 'the body is not JSON');
	}
}

/** Stops reading at the limit, so that a body without an end fills nothing. */
async function readBody(request: IncomingMessage, maxBytes: number): Promise<Buffer> {
	const tooLarge = () => new Refusal('too_large', 413, `a body here may have ${maxBytes} bytes`, 'send fewer blobs at a time');
	if (Number(request.headers['content-length'] ?? 0) > maxBytes) throw tooLarge();
	const parts: Buffer[] = [];
	let bytes = 0;
	const tooSlow = () => new Refusal('too_slow', 408, `a body has ${BODY_LIMIT_MS / 1000} s to arrive`, 'send it again, in smaller parts');
	return new Promise((resolve, reject) => {
		const limit = systemClock.after(BODY_LIMIT_MS, () => reject(tooSlow()), { idle: true });
		request.once('close', () => limit.cancel());
		request.once('end', () => limit.cancel());
		request.on('data', (part: Buffer) => {
			bytes += part.length;
			if (bytes > maxBytes) {
				request.pause();
				reject(tooLarge());
			} else parts.push(part);
		});
		request.on('end', () => resolve(Buffer.concat(parts)));
		request.on('error', () => reject(new Refusal('cut_short', 400, 'the body ended before it was whole')));
		request.on('close', () => reject(new Refusal('cut_short', 400, 'the body ended before it was whole')));
	});
}

export function toRefusal(error: unknown, path: string, log: Log): Refusal {
	const refusal = asRefusal(error);
	if (refusal) return refusal;
	log.error('request.failed', { path, error });
	return INTERNAL;
}

function refuse(refusal: Refusal): Response {
	return Response.json(errorJson(refusal), { status: refusal.status, headers: refusalHeaders(refusal) });
}

export function writeRefusal(response: ServerResponse, refusal: Refusal): void {
	response.writeHead(refusal.status, { ...refusalHeaders(refusal), 'content-type': 'application/json' });
	response.end(JSON.stringify(errorJson(refusal)));
}

function refusalHeaders({ status }: Refusal): Record<string, string> {
	return {
		...SECURITY_HEADERS,
		...(status === 401 ? { 'www-authenticate': 'Bearer' } : {}),
		...(status === 503 ? { 'retry-after': '2' } : {}),
		// What is left of a body that is too large is not read.
		...(status === 413 || status === 408 ? { connection: 'close' } : {}),
	};
}

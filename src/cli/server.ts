import { readFileSync } from 'node:fs';
import { request as httpRequest, type ClientRequest, type IncomingMessage, type RequestOptions } from 'node:http';
import { join } from 'node:path';
import { pause, systemClock } from '#clock/clock.ts';
import { EXIT, Failure, usage, type Exit } from './failure.ts';
import { loginFile } from './places.ts';
import type { Trust } from './tls.ts';

/** The control that the verbs talk to: where it is, the token, and requests that wait for one that is restarting. */
export interface Server {
	/** The one that is asked: after it failed, another of `others` takes its place. */
	url: URL;
	/** Other addresses of the same control: its replicas. */
	others?: URL[];
	token: string;
	/** `sha256/…` of Jibe's CA there, from the URL; absent: a public certificate, or `trust`. */
	pin?: string;
	trust?: Trust;
}

export interface Ask {
	method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
	path: string;
	/** Sent as JSON. */
	json?: unknown;
	/** Sent as it is. */
	body?: { bytes: Uint8Array; type: string };
	/** Milliseconds without a byte from the server that end the request; none by default for streams. */
	idleMs?: number;
	/** Ends it before its time. */
	signal?: AbortSignal;
}

/** How long a control that is restarting is waited for. */
const RESTART_WAIT_MS = 10_000;
const RETRY_FIRST_MS = 20;
const RETRY_LONGEST_MS = 500;
const ANSWER_WITHIN_MS = 30_000;
/** To connect, where there is another address to go to: a machine that is off answers nothing. */
const CONNECT_WITHIN_MS = 2_000;
/** Without a byte for this long, where there is another address, it is asked beside whether it lives. */
const SILENT_AFTER_MS = 1_500;
const ALIVE_WITHIN_MS = 2_000;

/** JIBE_SERVER (addresses of all replicas, with commas) and JIBE_TOKEN; else the installation in `data`; else the server of `jibe login`. */
export function findServer(data: string): Server {
	const named = process.env['JIBE_SERVER'];
	if (named) return { ...addresses(named.split(',')), token: process.env['JIBE_TOKEN'] ?? '' };
	const endpoint = readJson(join(data, 'endpoint.json'));
	if (endpoint !== null) return { ...addressesIn(endpoint), token: process.env['JIBE_TOKEN'] ?? readToken(data) };
	const login = readJson(loginFile());
	if (login !== null) return { ...addressesIn(login), token: String(login['token']) };
	throw new Failure('not_running', EXIT.jibe, `Jibe is not running here (no ${join(data, 'endpoint.json')})`, {
		hint: 'start it with: jibe up\nuse one on another machine with: jibe login URL, or JIBE_SERVER and JIBE_TOKEN',
	});
}

/** `url`, and in `urls` all of them where control has replicas. */
function addressesIn(file: Record<string, unknown>): Omit<Server, 'token'> {
	const more = Array.isArray(file['urls']) ? file['urls'].map(String) : [];
	const { ca, name } = file;
	const trust = typeof ca === 'string' && typeof name === 'string' ? { trust: { ca, name } } : {};
	return { ...addresses([String(file['url']), ...more]), ...trust };
}

/** One control at one or several addresses; `#sha256/…` at one of them pins its CA. @throws Failure (usage) */
export function addresses(texts: readonly string[]): Omit<Server, 'token'> {
	const named = new Set(texts.map((text) => text.trim()).filter((text) => text !== ''));
	const wrong = [...named].find((text) => !/^https?:$/.test(URL.parse(text)?.protocol ?? ''));
	if (wrong !== undefined)
		throw usage(`"${wrong}" is not the URL of a control`, 'such as https://control.example.com:7443; several stand with commas between');
	const [url, ...others] = [...named].map((text) => new URL(text));
	if (!url) throw usage('no URL of a control is named');
	// The same control has the same CA at all its addresses.
	const pin = [url, ...others].map(({ hash }) => hash.slice(1)).find((hash) => hash !== '');
	for (const one of [url, ...others]) one.hash = '';
	const open = [url, ...others].find((one) => !isPrivate(one));
	if (open)
		throw usage(`${open.origin} is not on this machine, and http sends the token for everybody to read`, 'use https://, or a tunnel');
	return { url, ...(others.length === 0 ? {} : { others }), ...(pin === undefined ? {} : { pin }) };
}

/** Whether tokens may go there: over TLS, or not beyond this machine. */
export function isPrivate({ protocol, hostname }: URL): boolean {
	return protocol === 'https:' || hostname === 'localhost' || hostname === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(hostname);
}

/** The next address in turn; true when all have had theirs. */
function changeOver(server: Server, tried: number): boolean {
	const { url, others = [] } = server;
	const [next, ...rest] = others;
	if (next === undefined) return true;
	server.url = next;
	server.others = [...rest, url];
	return (tried + 1) % (others.length + 1) === 0;
}

function readToken(data: string): string {
	try {
		return readFileSync(join(data, 'admin.token'), 'utf8').trim();
	} catch (cause) {
		const file = join(data, 'admin.token');
		throw new Failure('no_token', EXIT.notAllowed, `the token in ${file} can't be read`, {
			hint: 'set JIBE_TOKEN to a token of yours',
			cause,
		});
	}
}

function readJson(file: string): Record<string, unknown> | null {
	try {
		const value: unknown = JSON.parse(readFileSync(file, 'utf8'));
		return typeof value === 'object' && value !== null ? { ...value } : null;
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
		throw new Failure('unreadable', EXIT.jibe, `${file} can't be read`, { cause: error });
	}
}

/** The answer's JSON. @throws Failure with the server's own words when it refuses */
export async function ask(server: Server, what: Ask): Promise<unknown> {
	const response = await open(server, { idleMs: ANSWER_WITHIN_MS, ...what });
	const text = await readAll(response);
	if (response.statusCode === 204 || text === '') return null;
	return JSON.parse(text);
}

/** Hands each line of an NDJSON answer to `onLine`. @throws Interrupted when the connection ends before `onLine` said that it has all */
export async function askLines(server: Server, what: Ask, onLine: (line: unknown) => boolean): Promise<void> {
	const response = await open(server, what);
	try {
		for await (const line of linesOf(response)) if (onLine(JSON.parse(line))) return;
	} catch (error) {
		if (error instanceof Interrupted) changeOver(server, 0);
		throw error;
	} finally {
		response.destroy();
	}
	changeOver(server, 0);
	throw new Interrupted(null);
}

async function* linesOf(response: IncomingMessage): AsyncGenerator<string> {
	let rest = '';
	response.setEncoding('utf8');
	try {
		for await (const text of response as AsyncIterable<string>) {
			const lines = (rest + text).split('\n');
			rest = lines.pop() ?? '';
			for (const line of lines) if (line.trim() !== '') yield line;
		}
	} catch (cause) {
		throw new Interrupted(cause);
	}
	if (rest.trim() !== '') yield rest;
}

/** A stream broke off: what it told of goes on, and can be asked for. */
export class Interrupted extends Error {
	/** Its id, when that is known. */
	readonly deployment: string | null;
	constructor(cause: unknown, deployment: string | null = null) {
		super('the connection to control broke off', { cause });
		this.deployment = deployment;
	}
}

/**
 * The response once it is one to read; waits for a control that is restarting, goes to another address of it where
 * there is one, but repeats nothing that it may have heard.
 */
export async function open(server: Server, what: Ask): Promise<IncomingMessage> {
	const deadline = systemClock.monotonic() + RESTART_WAIT_MS;
	let delayMs = RETRY_FIRST_MS;
	for (let tried = 0; ; tried++) {
		const response = await send(server, what).catch((error: NodeJS.ErrnoException) => error);
		if (!(response instanceof Error)) {
			if (response.statusCode !== 503) {
				if ((response.statusCode ?? 500) < 300) return response;
				throw refusal(response.statusCode ?? 500, await readAll(response));
			}
			const refused = refusal(503, await readAll(response));
			if (!PASSING.has(refused.code) || systemClock.monotonic() > deadline) throw refused;
		} else {
			const refused = await notTrusted(response, server);
			if (refused) throw refused;
			if (!mayRepeat(response, what)) {
				changeOver(server, tried);
				throw new Interrupted(response);
			}
			if (systemClock.monotonic() > deadline) throw unreachable(server, response);
		}
		if (!changeOver(server, tried)) continue;
		await pause(delayMs);
		delayMs = Math.min(delayMs * 2, RETRY_LONGEST_MS);
	}
}

/** Reasons of a 503 that end by themselves within seconds; a full disk does not. */
const PASSING = new Set(['http_503', 'starting', 'database_unavailable', 'unavailable']);
const NO_CONNECTION = 'NO_CONNECTION';
const NEVER_ARRIVED = new Set(['ECONNREFUSED', 'ENOENT', 'EHOSTUNREACH', 'ENETUNREACH', 'ENOTFOUND', 'EAI_AGAIN', NO_CONNECTION]);

function mayRepeat(error: NodeJS.ErrnoException, what: Ask): boolean {
	return (what.method ?? 'GET') === 'GET' || NEVER_ARRIVED.has(error.code ?? '');
}

/** A control that is not believed to be the one that was meant: said at once, because waiting does not cure it. */
async function notTrusted(error: Error, server: Server): Promise<Failure | null> {
	if (error instanceof Failure) return error;
	if (server.url.protocol !== 'https:') return null;
	return (await import('./tls.ts')).whyNotTrusted(error, server);
}

function unreachable(server: Server, cause: Error): Failure {
	const all = [server.url, ...(server.others ?? [])].map((url) => url.origin).join(', ');
	return new Failure('unreachable', EXIT.jibe, `control at ${all} does not answer (waited ${RESTART_WAIT_MS / 1000} s)`, {
		hint: 'jibe doctor looks for the reason; jibe up starts what is missing',
		cause,
	});
}

/** Over TLS what that needs is loaded first, which the command on control's own machine can do without. */
async function requester(server: Server): Promise<(path: string, options: RequestOptions) => ClientRequest> {
	const { url } = server;
	if (url.protocol !== 'https:') return (path, options) => httpRequest(new URL(path, url), options);
	const tls = await (await import('./tls.ts')).tlsOptions(server);
	const { request } = process.getBuiltinModule('node:https');
	return (path, options) => request(new URL(path, url), { ...options, ...tls });
}

async function send(server: Server, what: Ask): Promise<IncomingMessage> {
	const request = await requester(server);
	const json = what.json === undefined ? null : Buffer.from(JSON.stringify(what.json));
	const bytes = what.body?.bytes ?? json;
	const headers: Record<string, string | number> = { authorization: `Bearer ${server.token}`, connection: 'close' };
	if (bytes !== null) {
		headers['content-type'] = what.body?.type ?? 'application/json';
		headers['content-length'] = bytes.length;
	}
	return new Promise((resolve, reject) => {
		const options = { method: what.method ?? 'GET', headers, agent: false, ...(what.signal ? { signal: what.signal } : {}) };
		const asked = request(what.path, options);
		asked.on('response', resolve);
		asked.on('error', reject);
		if (server.others !== undefined) breakOffWhenDead(asked, server.url, () => request('/readyz', { agent: false }));
		if (what.idleMs !== undefined) asked.setTimeout(what.idleMs, () => asked.destroy(new Error(`no answer within ${what.idleMs} ms`)));
		if (bytes === null) asked.end();
		else asked.end(bytes);
	});
}

/** A control that is off or frozen says nothing at all: only where there is another one is that worth finding out soon. */
function breakOffWhenDead(request: ClientRequest, url: URL, another: () => ClientRequest): void {
	const noConnection = systemClock.after(
		CONNECT_WITHIN_MS,
		() =>
			request.destroy(Object.assign(new Error(`no connection to ${url.origin} within ${CONNECT_WITHIN_MS} ms`), { code: NO_CONNECTION })),
		{ idle: true },
	);
	let heard = 0;
	const looking = systemClock.every(SILENT_AFTER_MS, () => {
		const { socket } = request;
		if (!socket || socket.connecting) return;
		const silent = socket.bytesRead === heard;
		heard = socket.bytesRead;
		if (!silent) return;
		isAlive(another()).then(
			(alive) => {
				if (!alive) request.destroy(new Error(`${url.origin} does not answer any more`));
			},
			(error: unknown) => request.destroy(error instanceof Error ? error : new Error(String(error))),
		);
	});
	request.once('socket', (socket) => socket.once('connect', () => noConnection.cancel()));
	request.once('close', () => {
		noConnection.cancel();
		looking.cancel();
	});
}

/** Whether it says anything at all, and can reach its database. */
function isAlive(asked: ClientRequest): Promise<boolean> {
	return new Promise((resolve) => {
		asked.once('response', (response) => {
			response.resume();
			resolve(response.statusCode === 200);
		});
		const limit = systemClock.after(ALIVE_WITHIN_MS, () => asked.destroy(new Error('no answer')), { idle: true });
		asked.once('close', () => limit.cancel());
		asked.once('error', () => resolve(false)); // that is the answer
		asked.end();
	});
}

async function readAll(response: IncomingMessage): Promise<string> {
	const chunks: Buffer[] = [];
	for await (const chunk of response) chunks.push(chunk as Buffer);
	return Buffer.concat(chunks).toString();
}

interface ErrorMembers {
	code: string;
	message: string;
	hint: string | null;
	data?: unknown;
}

/** What the API said no to. */
export class ApiFailure extends Failure {
	readonly status: number;
	readonly data: unknown;
	constructor(status: number, error: ErrorMembers) {
		super(error.code, exitOf(status), error.message, { hint: error.hint });
		this.status = status;
		this.data = error.data;
	}
}

function refusal(status: number, text: string): ApiFailure {
	let error: Partial<ErrorMembers> | undefined;
	try {
		error = (JSON.parse(text) as { error?: Partial<ErrorMembers> }).error;
	} catch {
		error = undefined; // not from control, or cut short: the status says enough
	}
	const message = error?.message ?? `the server answered ${status}`;
	return new ApiFailure(status, { code: error?.code ?? `http_${status}`, message, hint: error?.hint ?? null, data: error?.data });
}

function exitOf(status: number): Exit {
	if (status === 401 || status === 403) return EXIT.notAllowed;
	if (status >= 500 || status === 429 || status === 408) return EXIT.jibe;
	return EXIT.usage;
}

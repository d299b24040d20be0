import { lookup } from 'node:dns/promises';
import { request as requestHttp, type ClientRequest, type IncomingMessage } from 'node:http';
import { request as requestHttps } from 'node:https';
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import type { Clock } from '#clock/clock.ts';
import { allowedBy, isPublic } from '#wire/addresses.ts';

/**
 * The one way out to any address that a user may name: forges, and where repositories are cloned from. A name is resolved
 * once, judged, and that address is what is connected to, whatever the name says a moment later; a redirect is judged anew.
 */

const RESOLVE_LIMIT_MS = 10_000;
const DEFAULT_LIMIT_MS = 15_000;
const DEFAULT_MAX_BYTES = 1024 * 1024;
const MAX_REDIRECTS = 3;
const REDIRECTS = new Set([301, 302, 307, 308]);
/** How long what admins listed is known without asking again. */
const ALLOWED_FOR_MS = 5_000;

export interface OutboundOptions {
	/** What admins listed. */
	allowed(): Promise<readonly string[]>;
	/** Jibe's own addresses and host names. */
	own(): readonly string[];
	clock: Clock;
	/** Another resolver, for tests. */
	resolve?: (host: string) => Promise<{ address: string }[]>;
}

/** Where to connect: `address` is what `host` was resolved to. */
export interface Target {
	host: string;
	port: number;
	address: string;
	/** An admin listed it: it may be spoken to without encryption. */
	listed: boolean;
}

export interface Request {
	method: 'GET' | 'POST' | 'PUT';
	url: string;
	headers?: Record<string, string>;
	body?: string;
	limitMs?: number;
	maxBytes?: number;
}

export interface Response {
	status: number;
	headers: IncomingMessage['headers'];
	text: string;
	/** After redirects. */
	url: string;
}

/** `address_refused`, `unresolved`, `unreachable`, `too_slow`, `too_large`, `too_many_redirects`. */
export class OutboundError extends Error {
	readonly code: string;
	/** Trying again is of no use. */
	readonly final: boolean;
	constructor(code: string, message: string, final = false, options?: ErrorOptions) {
		super(message, options);
		this.code = code;
		this.final = final;
	}
}

export class Outbound {
	private readonly of: OutboundOptions;
	private known: { lines: readonly string[]; until: number } | null = null;

	constructor(options: OutboundOptions) {
		this.of = options;
	}

	/** What admins listed has changed. */
	forget(): void {
		this.known = null;
	}

	/** For a builder, which judges by itself what its commands connect to. */
	async reach(): Promise<{ allowed: readonly string[]; own: readonly string[] }> {
		return { allowed: await this.lines(), own: this.of.own() };
	}

	/** Resolves and judges. @throws OutboundError */
	async target(host: string, port: number): Promise<Target> {
		const name = host.replace(/^\[|\]$/g, '');
		const addresses = isIP(name) === 0 ? await this.resolve(name) : [name];
		const allowed = allowedBy(await this.lines());
		const own = this.ownAddresses();
		const refused = addresses.find((address) => !allowed.has(name, port, address) && (!isPublic(address) || own.has(address)));
		// One private address among public ones is a trap, too.
		if (refused !== undefined || addresses.length === 0) {
			const what = refused === undefined || refused === name ? '' : ` (${refused})`;
			throw new OutboundError(
				'address_refused',
				`${name}${what} is not an address of the public internet, or Jibe's own: an admin can list it, "jibe outbound allow ${name}:${port}"`,
				true,
			);
		}
		const address = addresses.find((one) => isIP(one) === 4) ?? addresses[0]!;
		return { host: name, port, address, listed: allowed.has(name, port, address) };
	}

	/** @throws OutboundError; any status is an answer */
	async ask(request: Request): Promise<Response> {
		let { url } = request;
		let headers = { ...request.headers };
		for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects++) {
			const answer = await this.once({ ...request, url, headers });
			const { location } = answer.headers;
			if (!REDIRECTS.has(answer.status) || location === undefined) return answer;
			const next = new URL(location, url);
			if (next.protocol !== 'https:' && !(next.protocol === 'http:' && url.startsWith('http:')))
				throw new OutboundError('address_refused', `${new URL(url).host} redirects to ${next.protocol}//, which is not followed`, true);
			// What is meant for one must not be shown to another.
			if (next.origin !== new URL(url).origin) headers = withoutCredentials(headers);
			// A POST that became another address is sent there as it was: forges answer 307 and 308, and 301 where a project was renamed.
			url = next.href;
		}
		throw new OutboundError('too_many_redirects', `more than ${MAX_REDIRECTS} redirects from ${new URL(request.url).host}`, true);
	}

	private async once(request: Request): Promise<Response> {
		const url = new URL(request.url);
		const target = await this.target(url.hostname, portOf(url));
		const limitMs = request.limitMs ?? DEFAULT_LIMIT_MS;
		const slow = () => new OutboundError('too_slow', `${url.host} did not answer within ${limitMs / 1000} s`);
		const stop = new AbortController();
		const exchanging = exchange(request, url, target, stop.signal);
		try {
			return await this.within(exchanging, limitMs, slow);
		} finally {
			exchanging.catch(() => {}); // told already
			stop.abort();
		}
	}

	private async resolve(host: string): Promise<string[]> {
		const { resolve = (name: string) => lookup(name, { all: true, verbatim: true }) } = this.of;
		try {
			const found = await this.within(resolve(host), RESOLVE_LIMIT_MS, () => new Error('no answer'));
			return found.map(({ address }) => address);
		} catch (error) {
			throw new OutboundError('unresolved', `${host} has no address: ${(error as Error).message}`, false, { cause: error });
		}
	}

	private async within<T>(work: Promise<T>, limitMs: number, late: () => Error): Promise<T> {
		const { promise, reject } = Promise.withResolvers<never>();
		const timer = this.of.clock.after(limitMs, () => reject(late()));
		try {
			return await Promise.race([work, promise]);
		} finally {
			timer.cancel();
		}
	}

	private async lines(): Promise<readonly string[]> {
		const now = this.of.clock.monotonic();
		if (this.known === null || now > this.known.until) this.known = { lines: await this.of.allowed(), until: now + ALLOWED_FOR_MS };
		return this.known.lines;
	}

	private ownAddresses(): Set<string> {
		const interfaces = Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map(({ address }) => address));
		return new Set([...interfaces, ...this.of.own().map((name) => name.replace(/^\[|\]$/g, ''))]);
	}
}

export function portOf(url: URL): number {
	if (url.port !== '') return Number(url.port);
	return url.protocol === 'http:' ? 80 : url.protocol === 'ssh:' ? 22 : 443;
}

function withoutCredentials(headers: Record<string, string>): Record<string, string> {
	const shown = new Set(['accept', 'content-type', 'user-agent']);
	return Object.fromEntries(Object.entries(headers).filter(([name]) => shown.has(name.toLowerCase())));
}

function exchange(request: Request, url: URL, { host, port, address }: Target, signal: AbortSignal): Promise<Response> {
	const { method, headers, body, maxBytes = DEFAULT_MAX_BYTES } = request;
	return new Promise((resolve, reject) => {
		const unreachable = (error: unknown) =>
			reject(
				error instanceof OutboundError
					? error
					: new OutboundError('unreachable', `${url.host} can't be reached: ${(error as Error).message}`, false, { cause: error }),
			);
		const options = {
			method,
			// Connected to as resolved; named as asked for.
			host: address,
			port,
			path: `${url.pathname}${url.search}`,
			agent: false as const,
			signal,
			setHost: false,
			headers: {
				host: url.host,
				'user-agent': 'jibe',
				...headers,
				...(body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) }),
			},
		};
		const asked: ClientRequest =
			url.protocol === 'https:' ? requestHttps({ ...options, ...(isIP(host) === 0 ? { servername: host } : {}) }) : requestHttp(options);
		asked.on('error', unreachable);
		asked.on('response', (response) => {
			const parts: Buffer[] = [];
			let bytes = 0;
			response.on('data', (part: Buffer) => {
				bytes += part.length;
				if (bytes > maxBytes) response.destroy(new OutboundError('too_large', `${url.host} answered more than ${maxBytes} bytes`, true));
				else parts.push(part);
			});
			response.on('error', unreachable);
			response.on('end', () =>
				resolve({ status: response.statusCode ?? 0, headers: response.headers, text: Buffer.concat(parts).toString(), url: url.href }),
			);
		});
		asked.end(body);
	});
}

import type { IncomingMessage } from 'node:http';
import { cookieValue, type UserRequest } from '#split/user-key.ts';
import { plainAddress, type Trusted } from './trusted.ts';

/** A client's request: what routing needs of its head, and the head as the instance gets it. */
export class Inbound implements UserRequest {
	readonly req: IncomingMessage;
	readonly method: string;
	/** Path and query. */
	path: string;
	/** As the client wrote it, port included. */
	host = '';
	hasBody = false;
	expectsContinue = false;
	/** `websocket` and the like. */
	upgrade: string | null = null;
	/** Set when the request can't be passed on in good conscience. */
	problem: string | null = null;
	#cookie = '';
	#forwardedFor = '';
	#requestId = '';
	#trusted = false;
	#peer = '';
	/** Names that the Connection header declares to be of this hop only. */
	#hop: string[] | null = null;

	constructor(req: IncomingMessage) {
		this.req = req;
		this.method = req.method ?? 'GET';
		this.path = req.url ?? '/';
		this.#scan(req.rawHeaders);
		if (!this.path.startsWith('/')) this.#readTarget();
	}

	/** From here on `x-forwarded-*` and the request's id are believed if the peer is a trusted proxy. */
	trust(trusted: Trusted): void {
		this.#trusted = trusted.has(this.#peerAddress());
		if (this.#trusted && this.#forwardedFor) this.#peer = trusted.client(this.#peerAddress(), this.#forwardedFor);
	}

	/** The id that a trusted proxy gave it, or null. */
	get requestId(): string | null {
		return this.#trusted && REQUEST_ID.test(this.#requestId) ? this.#requestId : null;
	}

	get idempotent(): boolean {
		return IDEMPOTENT.has(this.method);
	}

	header(name: string): string | null {
		const raw = this.req.rawHeaders;
		for (let i = 0; i < raw.length; i += 2) if ((raw[i] as string).toLowerCase() === name) return raw[i + 1] as string;
		return null;
	}

	cookie(name: string): string | null {
		return this.#cookie === '' ? null : cookieValue(this.#cookie, name);
	}

	address(): string {
		return this.#peer || this.#peerAddress();
	}

	navigates(): boolean {
		if (this.method !== 'GET') return false;
		return this.header('sec-fetch-mode') === 'navigate' || (this.header('accept') ?? '').includes('text/html');
	}

	/** The request's head for the instance. `sealed`: the cookie of this name is the edge's own business. */
	head(requestId: string, sealed: string): string {
		const raw = this.req.rawHeaders;
		let head = `${this.method} ${this.path} HTTP/1.1\r\nhost: ${this.host}\r\n`;
		for (let i = 0; i < raw.length; i += 2) {
			const name = raw[i] as string;
			switch (policyOf(name)) {
				case KEEP:
					if (this.#hop?.includes(name.toLowerCase())) break;
					head += `${name}: ${raw[i + 1]}\r\n`;
					break;
				case FRAMING:
					head += `${name}: ${raw[i + 1]}\r\n`;
					break;
				case FORWARDED:
				case FORWARDED_PROTO:
					if (this.#trusted) head += `${name}: ${raw[i + 1]}\r\n`;
					break;
				case COOKIE: {
					const value = withoutCookie(raw[i + 1] as string, sealed);
					if (value !== '') head += `${name}: ${value}\r\n`;
					break;
				}
			}
		}
		return `${head}${this.#ownHeaders(requestId)}\r\n`;
	}

	#ownHeaders(requestId: string): string {
		const peer = this.#peerAddress();
		let own = `x-forwarded-for: ${this.#trusted && this.#forwardedFor ? `${this.#forwardedFor}, ${peer}` : peer}\r\n`;
		if (!this.#trusted || this.header('x-forwarded-host') === null) own += `x-forwarded-host: ${this.host}\r\n`;
		if (!this.#trusted || this.header('x-forwarded-proto') === null) own += 'x-forwarded-proto: http\r\n';
		own += `x-request-id: ${requestId}\r\n`;
		if (this.upgrade !== null) own += `connection: upgrade\r\nupgrade: ${this.upgrade}\r\n`;
		else if (this.hasBody && this.header('content-length') === null) own += 'transfer-encoding: chunked\r\n';
		if (this.expectsContinue) own += 'expect: 100-continue\r\n';
		return own;
	}

	#peerAddress(): string {
		return plainAddress(this.req.socket.remoteAddress);
	}

	#scan(raw: readonly string[]): void {
		let hosts = 0;
		for (let i = 0; i < raw.length; i += 2) {
			const value = raw[i + 1] as string;
			switch (policyOf(raw[i] as string)) {
				case HOST:
					hosts++;
					this.host = value;
					break;
				case COOKIE:
					this.#cookie = this.#cookie === '' ? value : `${this.#cookie}; ${value}`;
					break;
				case CONNECTION:
					this.#readConnection(value);
					break;
				case UPGRADE:
					this.upgrade = value;
					break;
				case FRAMING:
				case CODING:
					if (value !== '0') this.hasBody = true;
					break;
				case EXPECT:
					this.expectsContinue = value.toLowerCase() === '100-continue';
					break;
				case FORWARDED_FOR:
					this.#forwardedFor = this.#forwardedFor === '' ? value : `${this.#forwardedFor}, ${value}`;
					break;
				case REQUEST_ID_NAME:
					this.#requestId = value;
					break;
			}
		}
		if (hosts !== 1 || !HOST_VALUE.test(this.host)) this.problem = 'A request names its host in exactly one Host header.';
	}

	#readConnection(value: string): void {
		const names = value.toLowerCase().split(',').map((name) => name.trim()); // prettier-ignore
		for (const name of names) if (name !== 'close' && name !== 'keep-alive' && name !== '') (this.#hop ??= []).push(name);
	}

	/** `GET http://host/path`: the target counts, not the Host header. */
	#readTarget(): void {
		if (this.path === '*' && this.method === 'OPTIONS') return;
		const match = /^https?:\/\/([^/?#@]+)([/?].*)?$/i.exec(this.path);
		if (!match || !HOST_VALUE.test(match[1] ?? '')) this.problem = 'The request target is neither a path nor an http:// address.';
		else {
			this.host = match[1] ?? '';
			const rest = match[2] ?? '/';
			this.path = rest.startsWith('?') ? `/${rest}` : rest;
		}
	}
}

const IDEMPOTENT = new Set(['GET', 'HEAD', 'OPTIONS', 'PUT', 'DELETE', 'TRACE']);
const HOST_VALUE = /^(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?$/;
const REQUEST_ID = /^[A-Za-z0-9._:+/=-]{1,128}$/;

/** `value` of a Cookie header without the cookie `name`. */
function withoutCookie(value: string, name: string): string {
	if (!value.includes(name)) return value;
	return value.split(';').map((part) => part.trim()).filter((part) => !part.startsWith(`${name}=`)).join('; '); // prettier-ignore
}

const KEEP = 0;
const DROP = 1;
const HOST = 2;
const COOKIE = 3;
const CONNECTION = 4;
const UPGRADE = 5;
const FRAMING = 6;
const CODING = 7;
const EXPECT = 8;
const FORWARDED = 9;
const FORWARDED_FOR = 10;
const FORWARDED_PROTO = 11;
const REQUEST_ID_NAME = 12;

const POLICIES: Record<string, number> = {
	host: HOST,
	cookie: COOKIE,
	connection: CONNECTION,
	upgrade: UPGRADE,
	'content-length': FRAMING,
	'transfer-encoding': CODING,
	expect: EXPECT,
	forwarded: FORWARDED,
	'x-forwarded-for': FORWARDED_FOR,
	'x-forwarded-host': FORWARDED_PROTO,
	'x-forwarded-proto': FORWARDED_PROTO,
	'x-request-id': REQUEST_ID_NAME,
	'x-real-ip': FORWARDED,
	'keep-alive': DROP,
	'proxy-connection': DROP,
	'proxy-authenticate': DROP,
	'proxy-authorization': DROP,
	te: DROP,
	trailer: DROP,
};
/** Clients write a name in one or two ways: remembering them saves lower-casing each time. Bounded: names are the client's choice. */
const remembered = new Map<string, number>();
const MAX_REMEMBERED_NAMES = 2_000;

function policyOf(name: string): number {
	const known = remembered.get(name);
	if (known !== undefined) return known;
	const lower = name.toLowerCase();
	const policy = POLICIES[lower] ?? (lower.startsWith('x-jibe-') ? DROP : lower.startsWith('x-forwarded-') ? FORWARDED : KEEP);
	if (remembered.size < MAX_REMEMBERED_NAMES) remembered.set(name, policy);
	return policy;
}

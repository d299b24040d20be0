import { once } from 'node:events';
import { Agent, request as requestPlain, type IncomingMessage } from 'node:http';
import { Agent as TlsAgent, request as requestTls } from 'node:https';
import type { ConnectionOptions } from 'node:tls';
import { pause, systemClock } from '#clock/clock.ts';

/** What a builder asks of control, from whichever of its addresses answers: the last that did is asked first. */
export interface Control {
	/** The answer's JSON, null where it has none. Asked again while control can't be reached. @throws Refused, Unreachable */
	ask(method: 'GET' | 'POST' | 'PUT', path: string, body?: Body, options?: AskOptions): Promise<unknown>;
	/** The answer as it comes. @throws Refused, Unreachable */
	open(path: string, options?: AskOptions): Promise<AsyncIterable<Buffer> & { bytes: number | null }>;
	close(): void;
}

export type Body = { json: unknown } | { bytes: Buffer; type: string };

export interface AskOptions {
	/** Without a byte for this long the connection is given up. */
	silentMs?: number;
	/** How long an unreachable control is asked again; 0: once. */
	insistMs?: number;
	signal?: AbortSignal;
}

export interface ControlOptions {
	addresses: () => readonly string[];
	/** For `https`. */
	tls?: () => ConnectionOptions;
	credential: () => string;
}

/** Control said no. */
export class Refused extends Error {
	readonly status: number;
	readonly code: string;
	readonly data: unknown;
	constructor(status: number, code: string, message: string, data: unknown) {
		super(message);
		this.status = status;
		this.code = code;
		this.data = data;
	}
}

export class Unreachable extends Error {
	readonly code = 'control_unavailable';
}

const SILENT_MS = 30_000;
/** As long as a lease: whoever could not speak for that long has lost its job. */
const INSIST_MS = 30_000;
const AGAIN_FIRST_MS = 50;
const AGAIN_LONGEST_MS = 1_000;
const CONNECTIONS = 8;
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

export function connectControl({ addresses, tls, credential }: ControlOptions): Control {
	const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
	const tlsAgent = new TlsAgent({ keepAlive: true, maxSockets: CONNECTIONS, maxCachedSessions: 0 });
	let answered: string | null = null;

	function order(): string[] {
		const all = addresses();
		return answered !== null && all.includes(answered) ? [answered, ...all.filter((one) => one !== answered)] : [...all];
	}

	async function send(
		address: string,
		method: string,
		path: string,
		body: Body | undefined,
		options: AskOptions,
	): Promise<IncomingMessage> {
		const bytes = body === undefined ? null : 'json' in body ? Buffer.from(JSON.stringify(body.json)) : body.bytes;
		const type = body === undefined ? null : 'json' in body ? 'application/json' : body.type;
		const headers = {
			authorization: `Bearer ${credential()}`,
			...(bytes === null || type === null ? {} : { 'content-type': type, 'content-length': String(bytes.length) }),
		};
		const { silentMs = SILENT_MS, signal } = options;
		const of = { method, headers, timeout: silentMs, ...(signal ? { signal } : {}) };
		const asked = address.startsWith('https:')
			? requestTls(address + path, { ...of, ...tls?.(), agent: tlsAgent })
			: requestPlain(address + path, { ...of, agent });
		asked.on('timeout', () => asked.destroy(new Error(`no byte within ${silentMs} ms`)));
		asked.end(bytes ?? undefined);
		const [answer] = (await once(asked, 'response')) as [IncomingMessage];
		return answer;
	}

	/** The first answer that is one; 5xx of one address may be another's 200. */
	async function request(method: string, path: string, body: Body | undefined, options: AskOptions): Promise<IncomingMessage> {
		const until = systemClock.monotonic() + (options.insistMs ?? INSIST_MS);
		for (let againMs = AGAIN_FIRST_MS; ; againMs = Math.min(againMs * 2, AGAIN_LONGEST_MS)) {
			let failure: unknown = new Error('no address of control is known');
			for (const address of order()) {
				try {
					const answer = await send(address, method, path, body, options);
					const status = answer.statusCode ?? 0;
					if (status < 500) {
						answered = address;
						return answer;
					}
					failure = new Error(`${address} answered ${status}: ${(await readAll(answer)).toString().slice(0, 500)}`);
				} catch (cause) {
					if (options.signal?.aborted) throw cause;
					failure = cause;
				}
			}
			if (systemClock.monotonic() + againMs > until) {
				throw new Unreachable(`control at ${order().join(', ')} could not be asked for ${path}`, { cause: failure });
			}
			await pause(againMs);
		}
	}

	return {
		async ask(method, path, body, options = {}) {
			const answer = await request(method, path, body, options);
			const bytes = await readAll(answer);
			if ((answer.statusCode ?? 0) >= 300) throw refusal(answer.statusCode ?? 0, bytes.toString());
			return bytes.length === 0 ? null : (JSON.parse(bytes.toString()) as unknown);
		},
		async open(path, options = {}) {
			const answer = await request('GET', path, undefined, options);
			if ((answer.statusCode ?? 0) >= 300) throw refusal(answer.statusCode ?? 0, (await readAll(answer)).toString());
			return Object.assign(answer as AsyncIterable<Buffer>, { bytes: Number(answer.headers['content-length'] ?? Number.NaN) || null });
		},
		close() {
			agent.destroy();
			tlsAgent.destroy();
		},
	};
}

async function readAll(answer: IncomingMessage): Promise<Buffer> {
	const parts: Buffer[] = [];
	let bytes = 0;
	for await (const part of answer as AsyncIterable<Buffer>) {
		bytes += part.length;
		if (bytes > MAX_ANSWER_BYTES) throw new Error(`an answer of control has more than ${MAX_ANSWER_BYTES} bytes`);
		parts.push(part);
	}
	return Buffer.concat(parts);
}

function refusal(status: number, text: string): Refused {
	try {
		const { error } = JSON.parse(text) as { error: { code: string; message: string; data?: unknown } };
		return new Refused(status, error.code, error.message, error.data);
	} catch {
		return new Refused(status, `http_${status}`, `control answered ${status}: ${text.slice(0, 500)}`, null);
	}
}

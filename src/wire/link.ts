import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import type { ConnectionOptions } from 'node:tls';
import { WebSocket } from 'ws';
import type { RawData } from 'ws';
import type { Clock, MonotonicMs, Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { LINK_PING_MS, MAX_FRAME_BYTES, REGION_LOST_AFTER_MS, downMessage } from './region.ts';
import type { DownMessage, Hello, UpMessage } from './region.ts';

/** The dialling side of a link: depot → control, agent and edge → depot. `accept.ts` is the other side. */

const BACKOFF_FIRST_MS = 50;
const BACKOFF_MOST_MS = 5_000;
const HANDSHAKE_TIMEOUT_MS = 5_000;
/** What may wait for a peer that does not read before the link is dropped: two of the largest frames. */
export const MAX_UNSENT_BYTES = 2 * MAX_FRAME_BYTES;
/** How much of the body of a refused handshake is shown. */
const MAX_REFUSAL_BYTES = 2_048;

export interface Link {
	/** false: not connected (or the peer stopped reading), and the message is dropped. Both sides are level-triggered. */
	send(message: UpMessage): boolean;
	/** For good: no reconnecting. */
	close(): void;
	readonly connected: boolean;
}

export interface DialOptions {
	/** `ws://host:port/link`, `wss://host:port/link` or `ws+unix:/path.sock:/link`. */
	url: string;
	/** For `wss`: who we are and who the other end must be. Read at each attempt, so that a renewed certificate is used at the next. */
	tls?: () => ConnectionOptions;
	/** Read at each attempt, so that a renewed credential is used at the next. */
	credential: () => string;
	/** First frame of each connection. */
	hello: () => Hello;
	/** true: this frame says nothing new, and is not even read. */
	isKnown?(text: string): boolean;
	/** `text` is the frame as it came, for those that pass it on. */
	onMessage(message: DownMessage, text: string): void;
	onUp?(): void;
	onDown?(reason: string): void;
	log: Log;
	clock: Clock;
}

/** Connects, and keeps connecting for as long as it takes: 50 ms to 5 s between attempts, jittered. */
export function dial(options: DialOptions): Link {
	const { clock, log } = options;
	let socket: WebSocket | null = null;
	let retry: Timer | null = null;
	let attempts = 0;
	let up = false;
	let closed = false;

	function connect(): void {
		retry = null;
		let trying: WebSocket;
		try {
			trying = open(options);
		} catch (error) {
			return again(`no connection could be tried: ${String(error)}`);
		}
		socket = trying;
		const pulse = startPulse(trying, clock);
		let reason = 'closed';
		trying.on('unexpected-response', (_request, response) => {
			void refusalOf(response).then((refusal) => ((reason = refusal), trying.terminate()));
		});
		trying.on('error', (error) => (reason = reason === 'closed' ? error.message : reason));
		trying.on('open', () => {
			up = true;
			attempts = 0;
			trying.send(JSON.stringify(options.hello()));
			options.onUp?.();
		});
		trying.on('message', (data, binary) => {
			const text = binary ? null : frameText(data);
			if (text === null || options.isKnown?.(text)) return;
			const message = readFrame(downMessage, text, log);
			if (message !== null) options.onMessage(message, text);
		});
		trying.on('close', (code, said) => {
			pulse.stop();
			if (socket !== trying) return;
			again(pulse.dead() ? 'the peer is silent' : code === 1006 ? reason : `closed with ${code} ${said.toString()}`.trim());
		});
	}

	function again(reason: string): void {
		socket = null;
		const wasUp = up;
		up = false;
		if (closed) return;
		if (wasUp) options.onDown?.(reason);
		const delayMs = backoffMs(attempts++);
		log[attempts === 1 || attempts % 10 === 0 ? 'warn' : 'debug']('link.down', { url: options.url, reason, attempts, delayMs });
		retry = clock.after(delayMs, connect);
	}

	connect();
	return {
		send: (message) => socket !== null && up && sendBounded(socket, JSON.stringify(message), log),
		close() {
			closed = true;
			retry?.cancel();
			if (up) socket?.close(1000);
			else socket?.terminate();
			socket = null;
			up = false;
		},
		get connected() {
			return up;
		},
	};
}

/** In the peer's own words, as far as they fit. */
async function refusalOf(response: IncomingMessage): Promise<string> {
	let body = '';
	response.on('data', (part: Buffer) => (body += body.length < MAX_REFUSAL_BYTES ? part.toString() : ''));
	await once(response, 'close');
	return `refused with status ${response.statusCode}: ${body.trim()}`;
}

function open(options: DialOptions): WebSocket {
	return new WebSocket(options.url, {
		...options.tls?.(),
		headers: { authorization: `Bearer ${options.credential()}` },
		handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
		maxPayload: MAX_FRAME_BYTES,
		perMessageDeflate: false,
		followRedirects: false,
	});
}

/** Full jitter over the upper half: many programs that lost one peer do not come back in step. */
export function backoffMs(attempt: number): number {
	const most = Math.min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempt, 16));
	return most / 2 + (Math.random() * most) / 2;
}

/** Sends, or drops the link of a peer that has stopped reading: it will say hello again and get what is newer. */
export function sendBounded(socket: WebSocket, text: string, log: Log): boolean {
	if (!maySend(socket, text, log)) return false;
	socket.send(text);
	return true;
}

/** False when the peer is gone or has stopped reading; the latter loses its link. */
export function maySend(socket: WebSocket, text: string, log: Log): boolean {
	if (socket.readyState !== WebSocket.OPEN) return false;
	if (text.length > MAX_FRAME_BYTES) {
		log.error('link.frame_too_large', { bytes: text.length, limit: MAX_FRAME_BYTES, start: text.slice(0, 100) });
		return false;
	}
	if (socket.bufferedAmount + text.length > MAX_UNSENT_BYTES) {
		log.warn('link.peer_does_not_read', { unsentBytes: socket.bufferedAmount, limit: MAX_UNSENT_BYTES });
		socket.terminate();
		return false;
	}
	return true;
}

export interface Pulse {
	stop(): void;
	/** The peer was silent for too long, and the socket was dropped for it. */
	dead(): boolean;
	heardAt(): MonotonicMs;
}

/** Pings each LINK_PING_MS and drops a socket that nothing came from for REGION_LOST_AFTER_MS. */
export function startPulse(socket: WebSocket, clock: Clock): Pulse {
	let heardAt = clock.monotonic();
	let tickedAt = heardAt;
	let dead = false;
	const heard = () => (heardAt = clock.monotonic());
	for (const event of ['open', 'message', 'ping', 'pong']) socket.on(event, heard);
	const timer = clock.every(LINK_PING_MS, () => {
		const now = clock.monotonic();
		// After a pause of this very program the peer's frames still wait in the socket: judge at the next tick.
		const paused = now - tickedAt > 2 * LINK_PING_MS;
		tickedAt = now;
		if (socket.readyState !== WebSocket.OPEN) return;
		if (!paused && now - heardAt > REGION_LOST_AFTER_MS) {
			dead = true;
			socket.terminate();
		} else socket.ping();
	});
	return { stop: () => timer.cancel(), dead: () => dead, heardAt: () => heardAt };
}

export function frameText(data: RawData): string {
	if (Array.isArray(data)) return Buffer.concat(data).toString();
	return data instanceof ArrayBuffer ? Buffer.from(data).toString() : data.toString();
}

interface FrameSchema<T> {
	options: readonly { shape: { type: { value: string } } }[];
	safeParse(value: unknown): { success: true; data: T } | { success: false; error: Error };
}

/** The message, or null for what a newer peer says and for what is malformed (logged). */
export function readFrame<T>(schema: FrameSchema<T>, text: string, log: Log): T | null {
	let value: unknown;
	try {
		value = JSON.parse(text);
	} catch {
		log.warn('link.not_json', { start: text.slice(0, 100) });
		return null;
	}
	const type = typeof value === 'object' && value !== null && 'type' in value ? value.type : null;
	if (!schema.options.some((option) => option.shape.type.value === type)) {
		log.debug('link.unknown_type', { type });
		return null;
	}
	const parsed = schema.safeParse(value);
	if (parsed.success) return parsed.data;
	log.warn('link.malformed', { type, error: parsed.error.message.slice(0, 1_000) });
	return null;
}

import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { WebSocketServer } from 'ws';
import type { WebSocket } from 'ws';
import type { Clock, MonotonicMs } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { Claims } from './credential.ts';
import { MAX_FRAME_BYTES, WIRE_VERSION, upMessage } from './region.ts';
import type { DownMessage, Hello, UpMessage } from './region.ts';
import { frameText, maySend, readFrame, sendBounded, startPulse } from './link.ts';
import type { Pulse } from './link.ts';

/** The accepting side of links: control for depots, a depot for its agents and edges. */

const HELLO_TIMEOUT_MS = 5_000;
const CLOSE_POLICY = 1008;
const FINAL_TEXT_FRAME = 0x81;
const CLOSE_GOING_AWAY = 1001;

export interface ServerLink {
	readonly claims: Claims;
	/** What the peer said first: its role, server and regions are within its claims. */
	readonly hello: Hello;
	heardAt(): MonotonicMs;
	/** false: the link is gone, and the message is dropped. */
	send(message: DownMessage): boolean;
	/** The same for a frame that was built once for many. */
	sendFrame(text: string): boolean;
	close(reason: string): void;
}

export interface LinkHandlers {
	/** `text` is the frame as it came, for those that pass it on. */
	onMessage(message: UpMessage, text: string): void;
	onClosed(reason: string): void;
}

export interface AcceptOptions {
	path: string;
	/** The peer's claims; null: 401. */
	authenticate(request: IncomingMessage): Claims | null;
	/** Why it is refused in spite of its claims, or null. */
	refusal?(request: IncomingMessage, claims: Claims): string | null;
	/** Host header check against DNS rebinding; absent: any (unix sockets). */
	hostAllowed?(request: IncomingMessage): boolean;
	/** Called once the peer has said hello. */
	onLink(link: ServerLink): LinkHandlers;
	/** Upgrades to other paths; absent: 404. */
	otherwise?(request: IncomingMessage, socket: Duplex, head: Buffer): void;
	log: Log;
	clock: Clock;
}

export interface Acceptor {
	/** Ends all links; the server itself is the caller's. */
	close(): void;
}

export function acceptLinks(server: Server, options: AcceptOptions): Acceptor {
	const sockets = new WebSocketServer({ noServer: true, maxPayload: MAX_FRAME_BYTES, perMessageDeflate: false });
	const upgrade = (request: IncomingMessage, socket: Duplex, head: Buffer) => {
		socket.on('error', (error) => options.log.debug('link.socket_error', { error }));
		if ((request.url ?? '/').split('?', 1)[0] !== options.path) {
			if (options.otherwise) return options.otherwise(request, socket, head);
			return refuseUpgrade(socket, 404, 'not_found', `nothing to upgrade to here; links are at ${options.path}`);
		}
		if (options.hostAllowed && !options.hostAllowed(request)) {
			return refuseUpgrade(socket, 421, 'wrong_host', 'this server does not answer to that Host');
		}
		// Programs send no Origin: a browser that tries is a page of another site.
		if (request.headers.origin !== undefined) return refuseUpgrade(socket, 403, 'cross_site', 'links are not for browsers');
		const claims = options.authenticate(request);
		if (!claims) return refuseUpgrade(socket, 401, 'bad_credential', 'the credential is missing, expired, or not of this installation');
		const refusal = options.refusal?.(request, claims) ?? null;
		if (refusal !== null) {
			options.log.warn('link.refused', { reason: refusal, role: claims.role, server: claims.server });
			return refuseUpgrade(socket, 403, 'bad_certificate', refusal);
		}
		sockets.handleUpgrade(request, socket, head, (peer) => greet({ peer, socket }, claims, options));
	};
	server.on('upgrade', upgrade);
	return {
		close() {
			server.off('upgrade', upgrade);
			for (const peer of sockets.clients) peer.close(CLOSE_GOING_AWAY);
			for (const peer of sockets.clients) peer.terminate();
			sockets.close();
		},
	};
}

interface Accepted {
	peer: WebSocket;
	/** What `peer` speaks over. Without compression it writes each frame at once and whole, so ours may stand between its own. */
	socket: Duplex;
}

/** Waits for the hello; everything before it, and a hello beyond the claims, ends the connection. */
function greet({ peer, socket }: Accepted, claims: Claims, options: AcceptOptions): void {
	const pulse = startPulse(peer, options.clock);
	let handlers: LinkHandlers | null = null;
	let reason = '';
	const late = options.clock.after(HELLO_TIMEOUT_MS, () => peer.close(CLOSE_POLICY, 'no hello'), { idle: true });
	peer.on('error', (error) => (reason = error.message));
	peer.on('message', (data, binary) => {
		const text = binary ? null : frameText(data);
		const message = text === null ? null : readFrame(upMessage, text, options.log);
		if (message === null || text === null) return;
		if (handlers) return handlers.onMessage(message, text);
		const wrong = message.type === 'hello' ? helloProblem(message, claims) : 'the first frame must be a hello';
		if (wrong !== null || message.type !== 'hello') {
			options.log.warn('link.refused', { reason: wrong, role: claims.role, server: claims.server });
			return peer.close(CLOSE_POLICY, wrong ?? '');
		}
		late.cancel();
		handlers = options.onLink(serverLink({ peer, socket }, claims, message, pulse, options.log));
	});
	peer.on('close', (code, said) => {
		late.cancel();
		pulse.stop();
		handlers?.onClosed(pulse.dead() ? 'silent' : `${code} ${said.toString() || reason}`.trim());
	});
}

function serverLink({ peer, socket }: Accepted, claims: Claims, hello: Hello, pulse: Pulse, log: Log): ServerLink {
	return {
		claims,
		hello,
		heardAt: () => pulse.heardAt(),
		send: (message) => sendBounded(peer, JSON.stringify(message), log),
		sendFrame: (text) => maySend(peer, text, log) && (socket.write(frameOf(text)), true),
		close: (reason) => peer.close(CLOSE_GOING_AWAY, reason.slice(0, 100)),
	};
}

let lastFrame: { text: string; bytes: Buffer } | null = null;

/**
 * A text frame's bytes, built once for all the links that it is sent to one after the other, and written at once:
 * `WebSocket.send` would encode the text and write two parts for each.
 */
function frameOf(text: string): Buffer {
	if (lastFrame?.text === text) return lastFrame.bytes;
	const size = Buffer.byteLength(text);
	const head = size < 126 ? 2 : size < 65_536 ? 4 : 10;
	const bytes = Buffer.allocUnsafeSlow(head + size);
	bytes[0] = FINAL_TEXT_FRAME;
	if (head === 2) bytes[1] = size;
	else if (head === 4) {
		bytes[1] = 126;
		bytes.writeUInt16BE(size, 2);
	} else {
		bytes[1] = 127;
		bytes.writeBigUInt64BE(BigInt(size), 2);
	}
	bytes.write(text, head);
	lastFrame = { text, bytes };
	queueMicrotask(() => (lastFrame = null));
	return bytes;
}

/** A sentence, or null when the hello is within the claims. */
function helloProblem(hello: Hello, claims: Claims): string | null {
	if (Math.abs(hello.wire - WIRE_VERSION) > 1) return `wire version ${hello.wire} is not spoken here, ${WIRE_VERSION} is`;
	if (hello.role !== claims.role || hello.server !== claims.server) return `the credential is for ${claims.role} of ${claims.server}`;
	const beyond = hello.regions.find((region) => !claims.regions.includes(region));
	return beyond === undefined ? null : `the credential is not for region ${beyond}`;
}

export function refuseUpgrade(socket: Duplex, status: number, code: string, message: string): void {
	const body = JSON.stringify({ error: { code, message, hint: null } });
	socket.end(
		`HTTP/1.1 ${status} Refused\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
	);
}

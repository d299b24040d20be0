import { createServer, type TLSSocket, type Server } from 'node:tls';
import { createServer as createHttps, type Server as HttpsServer } from 'node:https';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import type { RequestListener, ServerOptions } from 'node:http';
import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { Peers } from './peers.ts';
import type { ServerPeer } from './region.ts';

/**
 * A listener for the region's other servers: a depot's or an agent's. Who is not in the newest list of servers is refused
 * at once, and who vanishes from it is cut off, whatever was under way.
 */
export interface TlsListener {
	readonly port: number;
	/** Who a connection that was let in belongs to; null: it is not one of this listener's, or has ended. */
	peerOf(socket: object): ServerPeer | null;
	close(): Promise<void>;
}

/** The certificate is renewed every 16 hours; a new one is presented this long after. */
const LOOK_FOR_CERTIFICATE_MS = 60_000;
const HANDSHAKE_TIMEOUT_MS = 5_000;
const HEADERS_TIMEOUT_MS = 5_000;
const REQUEST_TIMEOUT_MS = 30_000;
const BACKLOG = 2_048;

export interface ListenOptions {
	peers: Peers;
	/** Absent: every address of this machine. */
	host?: string;
	port: number;
	log: Log;
	clock: Clock;
}

/** An HTTPS server, not yet answering on any port. */
export function createPeerHttps(peers: Peers, handler: RequestListener): HttpsServer {
	const limits: ServerOptions = { headersTimeout: HEADERS_TIMEOUT_MS, requestTimeout: REQUEST_TIMEOUT_MS };
	return createHttps({ ...peers.listening(), ...limits, handshakeTimeout: HANDSHAKE_TIMEOUT_MS }, handler);
}

/** A TLS server, not yet answering on any port. `onPeer` gets every connection that was let in. */
export function createPeerTls(peers: Peers, onPeer: (socket: TLSSocket) => void): Server {
	return createServer({ ...peers.listening(), handshakeTimeout: HANDSHAKE_TIMEOUT_MS, noDelay: true }, onPeer);
}

/** Begins to listen. Connections of strangers are ended before the server's own handlers see them. */
export async function listenForPeers(server: Server | HttpsServer, options: ListenOptions): Promise<TlsListener> {
	const { peers, host, port, log, clock } = options;
	const sockets = new Map<object, ServerPeer>();
	/** Those too that are still shaking hands. */
	const raw = new Set<Socket>();
	server.on('connection', (socket: Socket) => {
		raw.add(socket);
		socket.on('close', () => raw.delete(socket));
	});
	server.prependListener('secureConnection', (socket: TLSSocket) => {
		const peer = peers.at(socket);
		socket.on('error', (error) => log.debug('peer.socket_error', { error }));
		if (!peer) {
			log.warn('peer.refused', { from: socket.remoteAddress, certificate: socket.getPeerX509Certificate()?.subject ?? null });
			return void socket.destroy();
		}
		sockets.set(socket, peer);
		socket.on('close', () => sockets.delete(socket));
	});
	server.on('tlsClientError', (error: Error, socket: TLSSocket) => {
		log.debug('peer.no_handshake', { from: socket.remoteAddress, error });
	});
	const renewing = clock.every(LOOK_FOR_CERTIFICATE_MS, () => {
		try {
			server.setSecureContext(peers.listening());
		} catch (error) {
			log.warn('certificate.unreadable', { error });
		}
	});
	const stop = peers.onChange(() => {
		for (const [socket, peer] of sockets) {
			if (peers.named(peer.name)?.spki === peer.spki) continue;
			log.warn('peer.cut_off', { server: peer.name });
			(socket as TLSSocket).destroy();
		}
	});
	server.listen({ port, ...(host === undefined ? {} : { host }), backlog: BACKLOG });
	await once(server, 'listening');
	const address = server.address();
	return {
		port: typeof address === 'object' && address !== null ? address.port : port,
		peerOf: (socket) => sockets.get(socket) ?? null,
		async close() {
			stop();
			renewing.cancel();
			const closed = once(server, 'close');
			server.close();
			for (const socket of raw) socket.destroy();
			await closed;
		},
	};
}

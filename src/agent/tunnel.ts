import { connect, type Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { Peers } from '#wire/peers.ts';
import { wantKey, type UpMessage } from '#wire/region.ts';
import { createPeerTls, listenForPeers, type TlsListener } from '#wire/tls-listener.ts';
import { MAX_LINE_BYTES, PULSE_LINE, TUNNEL_LINE, YES } from '#wire/tunnel.ts';

/**
 * Where edges of the region's other servers reach the instances of this one: they name an instance in a line, and bytes
 * pass between them and its socket. Which instances there are, and where, is what the agent says in its reports.
 */
export interface Tunnels {
	readonly port: number;
	/** What the agent says: from now on these instances can be asked for. */
	note(message: UpMessage): void;
	close(): Promise<void>;
}

const KEEP_ALIVE_AFTER_MS = 15_000;
/** Connections that edges of other servers have open here; beyond it they are refused. */
const MAX_CONNECTIONS = 20_000;

export interface TunnelOptions {
	peers: Peers;
	/** Absent: every address of this machine. */
	host?: string | undefined;
	port: number;
	log: Log;
	clock: Clock;
}

export async function openTunnels(options: TunnelOptions): Promise<Tunnels> {
	const { peers, log } = options;
	/** Region/app/environment → instance → its socket's path. */
	const paths = new Map<string, Map<string, string>>();
	const pathOf = (instance: string): string | null => {
		for (const theirs of paths.values()) {
			const path = theirs.get(instance);
			if (path !== undefined) return path;
		}
		return null;
	};
	const server = createPeerTls(peers, (socket) => {
		const peer = listener.peerOf(socket);
		if (peer?.roles.includes('edge')) return greet(socket, pathOf, log);
		if (peer) log.warn('tunnel.no_edge', { server: peer.name });
		socket.destroy();
	});
	server.maxConnections = MAX_CONNECTIONS;
	const listener: TlsListener = await listenForPeers(server, options);
	return {
		port: listener.port,
		note(message) {
			if (message.type !== 'instances') return;
			for (const group of message.groups) {
				const theirs = group.instances.flatMap(({ id, address }): [string, string][] =>
					address?.startsWith('unix:') ? [[id, address.slice('unix:'.length)]] : [],
				);
				if (theirs.length === 0) paths.delete(wantKey(group));
				else paths.set(wantKey(group), new Map(theirs));
			}
		},
		close: () => listener.close(),
	};
}

/** Reads the line. A connection may wait for it as long as it likes: edges make some in advance. */
function greet(edge: TLSSocket, pathOf: (instance: string) => string | null, log: Log): void {
	let said = '';
	edge.setKeepAlive(true, KEEP_ALIVE_AFTER_MS);
	const read = (chunk: Buffer) => {
		said += chunk.toString('latin1');
		const end = said.indexOf('\n');
		if (end === -1 && said.length <= MAX_LINE_BYTES) return;
		edge.off('data', read);
		const [word, instance = ''] = said.slice(0, Math.max(end, 0)).split(' ');
		const rest = Buffer.from(said.slice(end + 1), 'latin1');
		if (word === PULSE_LINE) return echo(edge, rest);
		const path = word === TUNNEL_LINE ? pathOf(instance) : null;
		if (path === null) return void edge.end(word === TUNNEL_LINE ? `no instance ${instance}\n` : 'no such line is known\n');
		join(edge, path, rest, log);
	};
	edge.on('data', read);
	edge.on('error', () => edge.destroy());
}

function echo(edge: TLSSocket, rest: Buffer): void {
	edge.write(YES);
	if (rest.length > 0) edge.write(rest);
	edge.on('data', (bytes: Buffer) => void edge.write(bytes));
}

/** `rest`: what came with the line. */
function join(edge: TLSSocket, path: string, rest: Buffer, log: Log): void {
	const instance = connect({ path });
	let joined = false;
	edge.pause();
	if (rest.length > 0) instance.write(rest);
	instance.once('connect', () => {
		joined = true;
		edge.write(YES);
		pass(edge, instance);
		pass(instance, edge);
		edge.resume();
	});
	instance.on('error', (error) => {
		log.debug('tunnel.instance_error', { error });
		if (joined) edge.destroy();
		else edge.end(`no connection to the instance: ${error.message}\n`);
	});
	instance.on('close', () => edge.end());
	edge.on('close', () => instance.destroy());
}

/** Bytes as they come, no faster than they are taken. */
function pass(from: Socket, to: Socket): void {
	from.on('data', (bytes: Buffer) => {
		if (to.write(bytes)) return;
		from.pause();
		to.once('drain', () => from.resume());
	});
	from.on('end', () => to.end());
}

import { Socket } from 'node:net';
import { connect, createSecureContext, type ConnectionOptions, type TLSSocket } from 'node:tls';
import type { Clock, MonotonicMs, Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { Peers } from '#wire/peers.ts';
import type { ServerPeer } from '#wire/region.ts';
import { PULSE_EACH_MS, PULSE_LINE, PULSE_LOST_AFTER_MS, YES, tunnelLine } from '#wire/tunnel.ts';
import { BadResponse } from './response-reader.ts';
import type { Opened, Way } from './way.ts';

/** The region's other servers as an edge reaches them: through their agents, over mutual TLS. */
export class Remotes {
	readonly #of: RemotesOptions;
	readonly #remotes = new Map<string, Remote>();
	readonly #stop: () => void;

	constructor(options: RemotesOptions) {
		this.#of = options;
		this.#stop = options.peers.onChange(() => this.#look());
	}

	wayTo(server: string, instance: string): Way {
		const remote = () => this.#remote(server);
		return {
			far: true,
			get reachable() {
				return remote()?.reachable ?? false;
			},
			open: () => remote()?.open(instance) ?? { socket: nowhere(server), greets: true },
		};
	}

	close(): void {
		this.#stop();
		for (const remote of this.#remotes.values()) remote.close();
		this.#remotes.clear();
	}

	/** Null: there is no such server in the region, or it has no agent. */
	#remote(server: string): Remote | null {
		const known = this.#remotes.get(server);
		if (known) return known;
		const peer = this.#of.peers.named(server);
		if (!peer || peer.agentPort === null) return null;
		const remote = new Remote({ ...peer, agentPort: peer.agentPort }, this.#of);
		this.#remotes.set(server, remote);
		return remote;
	}

	/** A server that is in the list no more, or is elsewhere or another one now, is cut off. */
	#look(): void {
		for (const [server, remote] of this.#remotes) {
			const peer = this.#of.peers.named(server);
			if (peer && whereOf(peer) === remote.where) continue;
			this.#remotes.delete(server);
			remote.close();
		}
		this.#of.onChange();
	}
}

export interface RemotesOptions {
	peers: Peers;
	/** A server can be reached again, or not any more, or another list of servers came. */
	onChange: () => void;
	log: Log;
	clock: Clock;
}

/**
 * Connections that wait for a request: with one of them it costs no round trip more. As many as are in use, so that a swing
 * to another release finds them made; shaking hands for all of them at once would hold up the requests (1.4 ms each).
 */
const SPARES_LEAST = 4;
const SPARES_MOST = 32;
const COMING_MOST = 4;
/** From the first packet to the agent's `ok`. */
const CONNECT_LIMIT_MS = 1_000;
const RETRY_MS = 250;
/** A renewed certificate is used this long after. */
const CONTEXT_KEPT_MS = 60_000;
const KEEP_ALIVE_AFTER_MS = 15_000;

type Peer = ServerPeer & { agentPort: number };

/** One other server: a pulse that tells whether it is there, and connections that were made in advance. */
class Remote {
	readonly where: string;
	#reachable = true;
	readonly #peer: Peer;
	readonly #of: RemotesOptions;
	#spares: TLSSocket[] = [];
	/** Being made, to become spares. */
	#coming = 0;
	readonly #all = new Set<TLSSocket>();
	#options: { tls: ConnectionOptions; until: MonotonicMs } | null = null;
	#pulse: TLSSocket | null = null;
	#heardAt: MonotonicMs = 0;
	#beatenAt: MonotonicMs = 0;
	readonly #beating: Timer;
	#retry: Timer | null = null;
	#closed = false;

	constructor(peer: Peer, options: RemotesOptions) {
		this.#peer = peer;
		this.#of = options;
		this.where = whereOf(peer);
		this.#beating = options.clock.every(PULSE_EACH_MS, () => this.#beat());
		this.#startPulse();
		this.#refill();
	}

	get reachable(): boolean {
		return this.#reachable;
	}

	/** A connection on which an instance of that server is asked for. */
	open(instance: string): Opened {
		const spare = this.#spares.pop();
		const socket = spare ?? this.#connect();
		// Together with the request that is written next.
		socket.cork();
		process.nextTick(() => socket.uncork());
		socket.write(tunnelLine(instance), 'latin1');
		this.#limit(socket, 'data');
		this.#refill();
		return { socket, greets: true };
	}

	/** Everything ends that goes there. */
	close(): void {
		this.#closed = true;
		this.#beating.cancel();
		this.#retry?.cancel();
		this.#cut(`${this.#peer.name} was removed, or is elsewhere now`);
	}

	#connect(): TLSSocket {
		const socket = connect({ host: this.#peer.host, port: this.#peer.agentPort, ...this.#tls() });
		socket.setNoDelay(true);
		socket.setKeepAlive(true, KEEP_ALIVE_AFTER_MS);
		this.#all.add(socket);
		// Who has taken it hears of it too.
		socket.on('error', (error) => this.#of.log.debug('remote.error', { server: this.#peer.name, error }));
		socket.on('close', () => {
			this.#all.delete(socket);
			this.#spares = this.#spares.filter((spare) => spare !== socket);
		});
		return socket;
	}

	#tls(): ConnectionOptions {
		const now = this.#of.clock.monotonic();
		if (this.#options === null || this.#options.until < now) {
			const { key, cert, ca, minVersion, ...rest } = this.#of.peers.towards(this.#peer.name);
			const secureContext = createSecureContext({ key, cert, ca, minVersion });
			this.#options = { tls: { ...rest, secureContext }, until: now + CONTEXT_KEPT_MS };
		}
		return this.#options.tls;
	}

	/** Unless `event` comes in time the connection is given up. */
	#limit(socket: TLSSocket, event: string): void {
		const limit = this.#of.clock.after(CONNECT_LIMIT_MS, () => socket.destroy(this.#silent()), { idle: true });
		socket.once(event, () => limit.cancel());
		socket.once('close', () => limit.cancel());
	}

	#refill(): void {
		if (!this.#reachable || this.#closed) return;
		while (this.#coming < COMING_MOST && this.#spares.length + this.#coming < this.#sparesWanted()) {
			this.#coming++;
			const socket = this.#connect();
			let waits = true;
			const arrived = () => {
				if (waits) this.#coming--;
				waits = false;
			};
			this.#limit(socket, 'secureConnect');
			socket.once('close', arrived);
			socket.once('secureConnect', () => {
				arrived();
				this.#spares.push(socket);
				this.#refill();
			});
		}
	}

	#sparesWanted(): number {
		const inUse = this.#all.size - this.#spares.length - this.#coming - 1;
		return Math.min(SPARES_MOST, Math.max(SPARES_LEAST, inUse));
	}

	#startPulse(): void {
		this.#retry = null;
		if (this.#closed) return;
		const socket = this.#connect();
		this.#pulse = socket;
		this.#heardAt = this.#of.clock.monotonic();
		let begun = false;
		this.#limit(socket, 'data');
		socket.write(`${PULSE_LINE}\n`, 'latin1');
		socket.on('data', (bytes: Buffer) => {
			this.#heardAt = this.#of.clock.monotonic();
			if (begun || !bytes.toString('latin1').startsWith(YES)) return;
			begun = true;
			this.#is(true);
			this.#refill();
		});
		socket.on('close', () => {
			if (this.#pulse !== socket) return;
			this.#pulse = null;
			if (this.#closed) return;
			// A pulse that had begun is tried again at once: an agent that restarts is back in a moment.
			if (begun) return this.#startPulse();
			this.#is(false);
			this.#retry = this.#of.clock.after(RETRY_MS, () => this.#startPulse(), { idle: true });
		});
	}

	#beat(): void {
		const now = this.#of.clock.monotonic();
		// After a pause of this very process the echoes still wait in the socket: judged at the next beat.
		const paused = now - this.#beatenAt > 2 * PULSE_EACH_MS;
		this.#beatenAt = now;
		const pulse = this.#pulse;
		if (!pulse || pulse.connecting) return;
		if (!paused && now - this.#heardAt > PULSE_LOST_AFTER_MS) {
			this.#is(false);
			return this.#cut(`${this.#peer.name} has not been heard for ${PULSE_LOST_AFTER_MS} ms`);
		}
		pulse.write('.');
		if (this.#spares.length > 2 * this.#sparesWanted()) this.#spares.shift()?.destroy();
	}

	#is(reachable: boolean): void {
		if (this.#reachable === reachable) return;
		this.#reachable = reachable;
		this.#of.log.warn(reachable ? 'server.reachable' : 'server.unreachable', { server: this.#peer.name });
		this.#of.onChange();
	}

	#cut(why: string): void {
		for (const socket of this.#all) socket.destroy(new BadResponse('server_lost', why));
	}

	#silent(): Error {
		return new BadResponse('server_silent', `the agent of ${this.#peer.name} did not answer within ${CONNECT_LIMIT_MS} ms`);
	}
}

function whereOf({ host, agentPort, spki }: ServerPeer): string {
	return `${host} ${agentPort} ${spki}`;
}

/** A connection that failed before it began. */
function nowhere(server: string): Socket {
	const socket = new Socket();
	socket.destroy(new BadResponse('server_unknown', `${server} is not in the list of servers, or has no agent`));
	return socket;
}

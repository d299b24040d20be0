import type { Clock, Timer } from '#clock/clock.ts';
import { compareVersions, type Instance, type Version } from '#wire/region.ts';
import { BadResponse } from './response-reader.ts';
import { Connection, type ConnectionOwner } from './connection.ts';
import type { Way } from './way.ts';

/** An instance as the edge sees it: what its agent says of it, its connections, and how they fare. */
export class Upstream implements ConnectionOwner {
	readonly id: string;
	readonly server: string;
	readonly release: number;
	/** As its agent names it: a path on its own server. */
	readonly address: string;
	readonly way: Way;
	/** As its agent last reported it. */
	state: Instance['state'];
	healthy: boolean;
	/** The version that its agent obeyed when it said so. */
	saidAt: Version | undefined;
	/** Named by the pointer: its connections are worth keeping. */
	inUse = false;
	/** More than its server is to have of its release: about to go, and asked only where there is no other. */
	spare = false;
	/** Requests in flight. */
	inFlight = 0;
	/** Too many connections in a row failed: no requests until one succeeds again. */
	ejected = false;
	readonly #idle: Connection[] = [];
	/** With an exchange on them. */
	readonly #busy = new Set<Connection>();
	readonly #clock: Clock;
	readonly #onReturn: () => void;
	#failuresInRow = 0;
	#recheck: Timer | null = null;
	#gone = false;

	constructor(server: string, instance: Instance & { address: string }, way: Way, clock: Clock, onReturn: () => void) {
		this.id = instance.id;
		this.server = server;
		this.release = instance.release;
		this.address = instance.address;
		this.way = way;
		this.state = instance.state;
		this.healthy = instance.healthy;
		this.#clock = clock;
		this.#onReturn = onReturn;
	}

	/** May be sent requests at all. A warm instance is frozen unless its release says that it keeps running. */
	routable(warmRuns: boolean): boolean {
		if (this.ejected || this.#gone || !this.way.reachable) return false;
		return this.state === 'serving' || this.state === 'prepared' || (warmRuns && this.state === 'warm');
	}

	/** What is known of it is not older than `since`. */
	wasSaidSince(since: Version | undefined): boolean {
		return since === undefined || this.saidAt === undefined || compareVersions(this.saidAt, since) >= 0;
	}

	/** A connection at rest, or a new one. */
	take(): Connection {
		const oldest = this.#clock.monotonic() - IDLE_CONNECTION_MS;
		for (let connection = this.#idle.pop(); connection; connection = this.#idle.pop()) {
			if (connection.idleSince > oldest) return this.#use(connection);
			connection.close();
		}
		return this.#use(new Connection(this.way, this));
	}

	/**
	 * Its agent says that it stands still. It was drained before, so nothing should be on its way to it; but whatever an
	 * edge that was cut off, or had no processor time, has sent there meanwhile would wait until somebody thaws it.
	 */
	standsStill(): void {
		this.closeIdle();
		for (const connection of Array.from(this.#busy)) connection.giveUp(new BadResponse('frozen', 'the instance was put to rest'));
	}

	/** Called when the pointer starts or stops naming it: an instance about to be frozen must have no connection at rest. */
	use(inUse: boolean): void {
		const was = this.inUse;
		this.inUse = inUse;
		if (was && !inUse) this.#clock.after(CLOSE_UNUSED_AFTER_MS, () => this.inUse || this.closeIdle(), { idle: true });
	}

	/** The pointer may name it at any moment: its first request is to find a connection that is there. Others' agents keep some. */
	ready(): void {
		if (this.#idle.length > 0 || this.#gone || this.way.far) return;
		const connection = new Connection(this.way, this);
		connection.idleSince = NEVER_ASKED;
		this.#idle.push(connection);
	}

	closeIdle(): void {
		for (const connection of this.#idle.splice(0)) connection.close();
	}

	/** Connections that were at rest for so long that the instance may close them at any moment. */
	closeStale(): void {
		const now = this.#clock.monotonic();
		while (this.#idle.length > 0) {
			const oldest = this.#idle[0] as Connection;
			if (now - oldest.idleSince < Math.min(IDLE_CONNECTION_MS, (oldest.idleMs ?? Number.POSITIVE_INFINITY) - IDLE_MARGIN_MS)) return;
			this.#idle.shift();
			oldest.close();
		}
	}

	/** It was thawed: what was held against it while it stood still counts no more. */
	moves(): void {
		this.#recheck?.cancel();
		this.#failuresInRow = 0;
		this.ejected = false;
	}

	/** The agent no longer has it. What is in flight goes on. */
	leave(): void {
		this.#gone = true;
		this.closeIdle();
		this.#recheck?.cancel();
	}

	onConnected(): void {
		this.#failuresInRow = 0;
	}

	onConnectFailed(error: Error): void {
		if (OWN_LIMITS.has((error as NodeJS.ErrnoException).code ?? '')) return;
		if (++this.#failuresInRow >= EJECT_AFTER_FAILURES && !this.ejected) this.#eject();
	}

	onIdle(connection: Connection): void {
		this.#busy.delete(connection);
		if (
			!this.inUse ||
			this.#gone ||
			this.#idle.length >= MAX_IDLE_CONNECTIONS ||
			(connection.idleMs ?? IDLE_CONNECTION_MS) <= IDLE_MARGIN_MS
		) {
			connection.close();
			return;
		}
		connection.idleSince = this.#clock.monotonic();
		this.#idle.push(connection);
	}

	onClosed(connection: Connection): void {
		this.#busy.delete(connection);
		const at = this.#idle.indexOf(connection);
		if (at !== -1) this.#idle.splice(at, 1);
	}

	#use(connection: Connection): Connection {
		this.#busy.add(connection);
		return connection;
	}

	#eject(): void {
		this.ejected = true;
		this.closeIdle();
		this.#scheduleRecheck();
	}

	#scheduleRecheck(): void {
		this.#recheck = this.#clock.after(RECHECK_MS, () => this.#check(), { idle: true });
	}

	#check(): void {
		const connection = new Connection(this.way, {
			onConnected: () => {
				connection.close();
				this.#failuresInRow = 0;
				this.ejected = false;
				this.#onReturn();
			},
			onConnectFailed: () => {
				if (!this.#gone) this.#scheduleRecheck();
			},
			onIdle: () => {},
			onClosed: () => {},
		});
	}
}

export const EJECT_AFTER_FAILURES = 5;
const RECHECK_MS = 250;
/** The first requests to what the pointer names now go before; an agent begins to drain later than this. */
const CLOSE_UNUSED_AFTER_MS = 50;
const MAX_IDLE_CONNECTIONS = 256;
/** Below the 5 s after which node's servers close a connection at rest, so that we are the ones who close it. */
const IDLE_CONNECTION_MS = 4_000;
const IDLE_MARGIN_MS = 1_000;
/** Servers count from the answer before: on this one nothing was asked. */
const NEVER_ASKED = Number.POSITIVE_INFINITY;
/** Our own shortage, or a full accept queue: says nothing about whether the instance lives. */
const OWN_LIMITS = new Set(['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM', 'EAGAIN', 'EADDRNOTAVAIL']);

import type pg from 'pg';
import type { Clock, MonotonicMs, Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { RETRY_FOR_MS, toJson, unavailable, type Database } from './database.ts';
import type { EventFeed } from './events.ts';
import type { Membership, NewReplica, ReplicaRow, Replicas } from './state.ts';

/**
 * Control processes on one database. Each holds an advisory lock in a session of its own; the others wait for it, and get
 * it in the moment in which that process dies. One that hangs keeps its lock: its session is cut once its lease is over.
 */

export const BEAT_MS = 10_000;
export const LEASE_MS = 30_000;
const LOOK_MS = 2_000;
const RECONNECT_AFTER_MS = 250;
/** After the database itself was away all locks are free for a moment: whoever lives is back by then. */
const GRACE_MS = 2_000;
const RETRY_MS = 1_000;
const ANSWER_LIMIT_MS = 5_000;
/** First key of the advisory locks; see `jibe.replica`. */
const LOCK_CLASS = 7104303;
/** A peer that is cut off without a word is noticed by the server within 11 s. Without effect on a unix socket. */
const KEEPALIVE = `set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; set tcp_keepalives_count = 3;
	select set_config(name, '2s', false) from pg_settings where name = 'client_connection_check_interval'`;

type Row = ReplicaRow & { lock: number; beat: number };

interface Parts {
	db: Database;
	events: EventFeed;
	log: Log;
	clock: Clock;
}

export class ReplicaTable implements Replicas {
	readonly #parts: Parts;
	#member: Member | null = null;

	constructor(parts: Parts) {
		this.#parts = parts;
	}

	async list(): Promise<ReplicaRow[]> {
		const rows = await lookAt(this.#parts.db);
		return rows.map(({ id, addresses, home, version, startedAt, silentMs }) => ({ id, addresses, home, version, startedAt, silentMs }));
	}

	async join(of: NewReplica): Promise<Membership> {
		const member = new Member(this.#parts, of);
		this.#member = member;
		await member.begin();
		return member;
	}

	/** The database is about to be closed. */
	async close(): Promise<void> {
		await this.#member?.stop();
	}
}

function lookAt(db: Database, beat: { id: string; known: number } | null = null): Promise<Row[]> {
	return db.call('jibe_replicas', 'select jibe.look_at_replicas($1, $2)', [beat?.id ?? null, beat?.known ?? null]);
}

class Member implements Membership {
	readonly #parts: Parts;
	readonly #of: NewReplica;
	readonly #times: { beatMs: number; leaseMs: number; lookMs: number };
	readonly #waits = new Map<string, Wait>();
	/** Found dead, while their rows are still there. */
	readonly #dead = new Set<string>();
	/** What they drove is being taken over. */
	readonly #going = new Map<string, Promise<void>>();
	#rows: Row[] = [];
	#lock = 0;
	#session: pg.Client | null = null;
	#beatAt: MonotonicMs = -Infinity;
	#lookedAt: MonotonicMs;
	/** Since when the database has answered without a gap: before that nobody's silence says anything. */
	#steadySince: MonotonicMs;
	#looking: Promise<void> | null = null;
	#timer: Timer | null = null;
	#unsubscribe = () => {};
	#stopped = false;
	/** Resolves when it is back, after its session was lost. */
	#away: PromiseWithResolvers<void> | null = null;

	constructor(parts: Parts, of: NewReplica) {
		this.#parts = parts;
		this.#of = of;
		this.#times = of.times ?? { beatMs: BEAT_MS, leaseMs: LEASE_MS, lookMs: LOOK_MS };
		this.#lookedAt = this.#steadySince = parts.clock.monotonic();
	}

	/** It is one of them; who was dead before is known. */
	async begin(): Promise<void> {
		const { clock, events } = this.#parts;
		await this.#hold();
		this.#rows = await lookAt(this.#parts.db);
		await Promise.all(this.#rivals().map((row) => this.#tryAtOnce(row)));
		this.#unsubscribe = events.subscribe(({ type }) => {
			if (type === 'replica.up' || type === 'replica.gone') this.#look(true);
		});
		this.#timer = clock.every(this.#times.lookMs, () => this.#look());
		this.#look();
	}

	async settled(): Promise<void> {
		if (!this.#away) return;
		const { promise, reject } = Promise.withResolvers<never>();
		const limit = this.#parts.clock.after(RETRY_FOR_MS, () => reject(unavailable(null)), { idle: true });
		await Promise.race([this.#away.promise, promise]).finally(() => limit.cancel());
	}

	others(): ReadonlySet<string> {
		return new Set(this.peers().map(({ id }) => id));
	}

	peers(): ReplicaRow[] {
		return this.#rivals().filter(({ id }) => !this.#dead.has(id));
	}

	async leave(): Promise<void> {
		const { db, clock, log } = this.#parts;
		await this.#close();
		try {
			await db.call('jibe_leave', 'select jibe.leave_replica($1, $1, $2)', [this.#of.id, clock.now()]);
		} catch (error) {
			// The others find out by the lock.
			log.warn('replica.left_silently', { error });
		}
		await this.stop();
	}

	async stop(): Promise<void> {
		await this.#close();
		const session = this.#session;
		this.#session = null;
		await session?.end();
	}

	async #close(): Promise<void> {
		if (this.#stopped) return;
		this.#stopped = true;
		this.#timer?.cancel();
		this.#unsubscribe();
		for (const wait of this.#waits.values()) wait.close();
		this.#waits.clear();
		await this.#looking;
		await Promise.allSettled(this.#going.values());
	}

	#rivals(): Row[] {
		return this.#rows.filter(({ id }) => id !== this.#of.id);
	}

	/** Takes the lock that says that it lives, and only then registers: who sees it waits for the lock. */
	async #hold(): Promise<void> {
		const { db, clock, log } = this.#parts;
		const { id, addresses, home, version } = this.#of;
		if (this.#lock === 0) this.#lock = await db.call<number>('jibe_lock', `select nextval('jibe.replica_lock')`, []);
		const session = await openSession(db, log, (client) => this.#lostSession(client));
		// Whoever took over from it meanwhile has it for a moment.
		await session.query('select pg_advisory_lock($1, $2)', [LOCK_CLASS, this.#lock]);
		const entry = toJson({ id, lock: this.#lock, addresses, home, version, at: clock.now() });
		await db.call('jibe_join', 'select jibe.join_replica($1)', [entry]);
		this.#session = session;
		this.#beatAt = clock.monotonic();
	}

	#lostSession(session: pg.Client): void {
		if (this.#stopped || this.#session !== session) return;
		this.#session = null;
		this.#away ??= Promise.withResolvers();
		this.#steadySince = this.#parts.clock.monotonic();
		this.#parts.log.warn('replica.session_lost', { id: this.#of.id });
		this.#later(RECONNECT_AFTER_MS, () => this.#return());
	}

	/** Others may have taken it for dead. */
	async #return(): Promise<void> {
		if (this.#stopped) return;
		try {
			await this.#session?.end();
			this.#session = null;
			await this.#hold();
			await this.#of.onReturned();
			this.#away?.resolve();
			this.#away = null;
		} catch (error) {
			this.#parts.log.warn('replica.return_failed', { error });
			this.#later(RETRY_MS, () => this.#return());
		}
	}

	#later(delayMs: number, work: () => Promise<void>): void {
		this.#parts.clock.after(delayMs, () => void work(), { idle: true });
	}

	/** Alone it only says that it lives, unless there is news. */
	#look(news = false): void {
		if (this.#stopped) return;
		const beat = this.#parts.clock.monotonic() - this.#beatAt >= this.#times.beatMs;
		if (!beat && !news && this.#rivals().length === 0) return;
		this.#looking ??= this.#lookNow(beat).finally(() => (this.#looking = null));
	}

	async #lookNow(beat: boolean): Promise<void> {
		const { db, clock, log } = this.#parts;
		try {
			const own = this.#rows.find(({ id }) => id === this.#of.id);
			const rows = await lookAt(db, beat ? { id: this.#of.id, known: own?.beat ?? 0 } : null);
			const now = clock.monotonic();
			if (beat) {
				this.#beatAt = now;
				void this.#exercise();
			}
			// This very process was frozen, or the database away: the others could not be heard either.
			if (now - this.#lookedAt > this.#times.beatMs + 2 * this.#times.lookMs) this.#steadySince = now;
			this.#lookedAt = now;
			this.#rows = rows;
			if (this.#session && !rows.some(({ id }) => id === this.#of.id)) {
				log.warn('replica.was_taken_for_dead', { id: this.#of.id });
				this.#away ??= Promise.withResolvers();
				await this.#return();
			}
			this.#waitForAll();
			if (now - this.#steadySince > this.#times.beatMs + this.#times.lookMs) await this.#judge();
		} catch (error) {
			this.#steadySince = clock.monotonic();
			log.warn('replica.look_failed', { error });
		}
	}

	/** A session whose server is gone without a word would never be heard of again. */
	async #exercise(): Promise<void> {
		const session = this.#session;
		if (!session) return;
		const limit = this.#parts.clock.after(ANSWER_LIMIT_MS, () => void session.end(), { idle: true });
		try {
			await session.query('select 1');
		} catch (error) {
			this.#parts.log.debug('replica.session_silent', { error });
		} finally {
			limit.cancel();
		}
	}

	#waitForAll(): void {
		const rivals = new Map(this.#rivals().map((row) => [row.id, row]));
		for (const [id, wait] of this.#waits) {
			if (rivals.has(id)) continue;
			wait.close();
			this.#waits.delete(id);
			// It stopped, or another one was quicker: what nobody drives is taken over all the same.
			this.#takeAfter(wait.row);
		}
		for (const row of rivals.values()) {
			if (!this.#waits.has(row.id)) this.#waits.set(row.id, new Wait(this.#parts, row, () => this.#gone(row)));
		}
	}

	#takeAfter(row: Row): void {
		this.#gone(row).catch((error: unknown) => {
			this.#parts.log.warn('replica.not_taken_over', { id: row.id, error });
			this.#later(RETRY_MS, async () => (this.#stopped ? undefined : this.#takeAfter(row)));
		});
	}

	/** Those whose lease is over hang: their sessions end, and with them their locks. */
	async #judge(): Promise<void> {
		for (const row of this.#rivals()) {
			if (row.silentMs <= this.#times.leaseMs || this.#going.has(row.id)) continue;
			const cut = await this.#parts.db.call<boolean>('jibe_cut', 'select jibe.cut_replica($1)', [row.lock]);
			this.#parts.log.warn('replica.lease_over', { id: row.id, silentMs: row.silentMs, cut });
			// Its lock is ours now, or it had none, or it can't be had: what it drove is fenced all the same.
			await this.#gone(row);
		}
	}

	/** At the start nobody's lock is free for another reason than that its process is dead. */
	async #tryAtOnce(row: Row): Promise<void> {
		const { db, log } = this.#parts;
		const client = await openSession(db, log, () => {});
		try {
			const { rows } = await client.query<{ free: boolean }>('select pg_try_advisory_lock($1, $2) as free', [LOCK_CLASS, row.lock]);
			if (rows[0]?.free) this.#dead.add(row.id);
		} finally {
			await client.end();
		}
	}

	/** Once for each, however it was found out. @throws when it has to be tried again */
	#gone(row: Row): Promise<void> {
		const going = this.#going.get(row.id);
		if (going) return going;
		const { db, clock, log } = this.#parts;
		const work = async () => {
			log.warn('replica.gone', { id: row.id, silentMs: row.silentMs });
			this.#dead.add(row.id);
			await this.#of.onGone(row.id);
			await db.call('jibe_leave', 'select jibe.leave_replica($1, $2, $3)', [row.id, this.#of.id, clock.now()]);
			this.#rows = this.#rows.filter(({ id }) => id !== row.id);
			// Should it come back, it joins anew.
			this.#dead.delete(row.id);
		};
		const begun = work().finally(() => this.#going.delete(row.id));
		this.#going.set(row.id, begun);
		return begun;
	}
}

/** Waits, on a connection of its own, for the lock that another replica holds while it lives. */
class Wait {
	readonly row: Row;
	readonly #parts: Parts;
	readonly #granted: () => Promise<void>;
	#client: pg.Client | null = null;
	#closed = false;

	constructor(parts: Parts, row: Row, granted: () => Promise<void>) {
		this.#parts = parts;
		this.row = row;
		this.#granted = granted;
		this.#begin(0);
	}

	close(): void {
		this.#closed = true;
		const client = this.#client;
		this.#client = null;
		void client?.end().catch(() => {}); // it has ended already, or never began
	}

	#begin(delayMs: number): void {
		if (!this.#closed) this.#parts.clock.after(delayMs, () => void this.#wait(), { idle: true });
	}

	async #wait(): Promise<void> {
		const { db, log } = this.#parts;
		try {
			const client = await openSession(db, log, () => {});
			if (this.#closed) return await client.end();
			this.#client = client;
			await client.query('select pg_advisory_lock($1, $2)', [LOCK_CLASS, this.row.lock]);
			await this.#granted();
			this.#client = null;
			await client.end();
		} catch (error) {
			if (this.#closed) return;
			this.#client = null;
			log.debug('replica.wait_broke_off', { id: this.row.id, error });
			this.#begin(GRACE_MS);
		}
	}
}

async function openSession(db: Database, log: Log, lost: (client: pg.Client) => void): Promise<pg.Client> {
	const client = db.client();
	client.on('error', (error) => log.debug('database.connection_lost', { error }));
	client.on('end', () => lost(client));
	await client.connect();
	await client.query(KEEPALIVE);
	return client;
}

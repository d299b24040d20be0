import type { Clock, MonotonicMs, Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { BuildFinish, Builds, ClaimedBuild, Fence, QueueNumbers, Stop, Swept } from '#state/builds.ts';
import type { State } from '#state/state.ts';
import type { Event } from '#wire/api.ts';
import { BUILD_LIMIT_MS, CLAIM_WAIT_MS, HOLD_MS, LEASE_MS, MAX_ATTEMPTS, type NewBuild } from '#wire/builds.ts';
import type { Metrics } from '../metrics.ts';

/**
 * What waits at this control for something to happen to builds: builders for a job, beats for the word to stop, readers for
 * news. The queue itself is in the database; everything here is a hint to read it again.
 */

const SWEEP_MS = 1_000;
/** So that whoever is silent is found within a lease, however the sweep falls. */
export const GRANTED_MS = LEASE_MS - 2 * SWEEP_MS;
/** A builder whose connection ended is heard of on another one by then, or it is gone. */
const DOUBT_MS = 5_000;
/** Hints are lost with their connection. */
const POLL_MS = 1_000;
/** After a time without control or database nobody could say that it lives: they get as long as it takes to be heard again. */
const GRACE_MS = 12_000;
const STEADY_GAP_MS = 3 * SWEEP_MS;
/** Longer than a build may take, in which its builder asks for nothing. */
const SEEN_FOR_MS = BUILD_LIMIT_MS + CLAIM_WAIT_MS;
const MAX_WAITING_BUILDERS = 1_000;
const CLAIMS_AT_ONCE = 8;
const MAX_REMEMBERED = 1_000;

interface Waiter {
	worker: string;
	platform: string;
	done(job: ClaimedBuild | null): void;
}

type Watcher = (ended: boolean) => void;

export interface DeskOptions {
	state: State;
	/** The last attempt of a build was lost while its gates held back a deployment. */
	onGatesLost(of: Fence): void;
	/** An attempt was its last, or took too long. */
	onEnded(state: string): void;
	log: Log;
	clock: Clock;
	/** Others than the usual ones, for tests. */
	graceMs?: number | undefined;
}

export class BuildDesk {
	readonly #of: DeskOptions;
	#waiters: Waiter[] = [];
	readonly #seen = new Map<string, MonotonicMs>();
	readonly #watchers = new Map<string, Set<Watcher>>();
	readonly #demand = new Set<() => void>();
	readonly #stops: (() => void)[];
	/** Workers for which there was nothing at that count of hints: they need not ask again before the next one. */
	readonly #without = new Map<string, number>();
	/** Builds whose next event says nothing new here: whoever waits asked together with the change itself. */
	readonly #own = new Set<string>();
	/** Counts hints: whoever asked the database before one has to ask again. */
	#hints = 0;
	#serving = false;
	#sweeping = false;
	#sweptAt: MonotonicMs | null = null;
	#steadySince: MonotonicMs;
	#closed = false;

	constructor(options: DeskOptions) {
		this.#of = options;
		const { clock, state } = options;
		this.#steadySince = clock.monotonic();
		const timers = [clock.every(POLL_MS, () => this.#waiters.length > 0 && this.hint()), clock.every(SWEEP_MS, () => void this.#sweep())];
		this.#stops = [...timers.map((timer) => () => timer.cancel()), state.events.subscribe((event) => this.#heard(event))];
	}

	/** Builders that wait for a job here. */
	get idle(): number {
		return this.#waiters.length;
	}

	/** Of builders that asked here for a job a moment ago. */
	platforms(): ReadonlySet<string> {
		const since = this.#of.clock.monotonic() - SEEN_FOR_MS;
		return new Set([...this.#seen].flatMap(([platform, at]) => (at > since ? [platform] : [])));
	}

	/** A job for this worker, as soon as there is one; null when it has waited for long enough or left. */
	async claim(of: { worker: string; platform: string }, left: AbortSignal): Promise<ClaimedBuild | null> {
		for (;;) {
			const asked = this.#hints;
			const known = this.#without.get(of.worker) === asked;
			const job = known ? null : await this.next(of, left);
			if (job || left.aborted || this.#closed || this.#waiters.length >= MAX_WAITING_BUILDERS) return job;
			if (asked === this.#hints) return this.#wait(of, left);
		}
	}

	/** Queues it; whoever waits here asks for it in the same transaction. @throws StateError queue_full */
	async enqueue(build: NewBuild): Promise<{ id: string; already: boolean }> {
		const asked = this.#of.state.builds.enqueue(build);
		this.hint();
		const queued = await asked;
		if (!queued.already) keepLast(this.#own.add(queued.id));
		return queued;
	}

	/** It has ended. Whoever waits here asks for what that lets go of in the same transaction. @throws StateError fenced */
	async end(fence: Fence, end: BuildFinish): ReturnType<Builds['finish']> {
		const asked = this.#of.state.builds.finish(fence, end);
		this.hint();
		const ended = await asked;
		if (ended.was === 'running') keepLast(this.#own.add(fence.id));
		this.told(fence.id, true);
		return ended;
	}

	/** A job for this worker if there is one now. */
	async next(of: { worker: string; platform: string }, left: AbortSignal): Promise<ClaimedBuild | null> {
		const asked = this.#hints;
		const job = await this.#ask(of);
		if (job && left.aborted) await this.#of.state.builds.doubt(fenceOf(job, of.worker), DOUBT_MS);
		this.#without.delete(of.worker);
		if (!job) keepLast(this.#without.set(of.worker, asked));
		return job;
	}

	/** It lives. Held, the answer comes when there is a reason to stop, or after a while. @throws StateError fenced */
	async beat(fence: Fence, hold: boolean, left: AbortSignal): Promise<Stop> {
		const { state } = this.#of;
		const answer = await state.builds.beat(fence, GRANTED_MS);
		if (!hold || answer.stop !== null || this.#closed) return answer;
		const until = this.#of.clock.monotonic() + HOLD_MS;
		while (!left.aborted && !this.#closed) {
			const leftMs = until - this.#of.clock.monotonic();
			if (leftMs <= 0) return answer;
			await this.#changed(fence.id, leftMs, left);
			const phase = await state.builds.phase(fence);
			if (phase !== 'running' && phase !== 'gating') return state.builds.beat(fence, GRANTED_MS);
		}
		if (!this.#closed) await state.builds.doubt(fence, DOUBT_MS);
		return answer;
	}

	/** Calls back whenever something of this build may have changed; `ended`: not only a step or a line of its log. */
	watch(id: string, changed: Watcher): () => void {
		const watchers = this.#watchers.get(id) ?? new Set();
		this.#watchers.set(id, watchers.add(changed));
		return () => {
			watchers.delete(changed);
			if (watchers.size === 0 && this.#watchers.get(id) === watchers) this.#watchers.delete(id);
		};
	}

	/** Something of this build changed here: the database's own word of it comes later, and only of what is an event. */
	told(id: string, ended = false): void {
		for (const changed of this.#watchers.get(id) ?? []) changed(ended);
	}

	/** There may be something to claim. */
	hint(): void {
		this.#hints++;
		for (const look of this.#demand) look();
		if (!this.#serving) void this.#serve();
	}

	/** The queue's numbers; with `waitMs` once it has more than the builders that wait here can take, or after so long. */
	async numbers(waitMs: number, left: AbortSignal): Promise<QueueNumbers & { idle: number }> {
		const until = this.#of.clock.monotonic() + waitMs;
		for (;;) {
			const asked = this.#hints;
			const numbers = { ...(await this.#of.state.builds.queue()), idle: this.idle };
			const leftMs = until - this.#of.clock.monotonic();
			if (numbers.claimable > numbers.idle || leftMs <= 0 || left.aborted || this.#closed) return numbers;
			if (asked !== this.#hints) continue;
			await this.#until(leftMs, left, (done) => {
				this.#demand.add(done);
				return () => this.#demand.delete(done);
			});
		}
	}

	/** For Prometheus. Without a database the other numbers are still told. */
	async measure(metrics: Metrics): Promise<void> {
		metrics.set('jibe_builders_idle', {}, this.idle);
		try {
			const { waiting, claimable, running, dead, oldestMs } = await this.#of.state.builds.queue();
			metrics.set('jibe_builds_waiting', {}, waiting);
			metrics.set('jibe_builds_claimable', {}, claimable);
			metrics.set('jibe_builds_running', {}, running);
			metrics.set('jibe_builds_dead', {}, dead);
			metrics.set('jibe_builds_oldest_seconds', {}, (oldestMs ?? 0) / 1000);
		} catch (error) {
			this.#of.log.warn('builds.unmeasured', { error });
		}
	}

	close(): void {
		this.#closed = true;
		for (const stop of this.#stops) stop();
		for (const waiter of this.#waiters.splice(0)) waiter.done(null);
		for (const look of this.#demand) look();
		for (const id of this.#watchers.keys()) this.told(id, true);
	}

	#ask({ worker, platform }: { worker: string; platform: string }): Promise<ClaimedBuild | null> {
		this.#seen.set(platform, this.#of.clock.monotonic());
		return this.#of.state.builds.claim({ worker, platform, leaseMs: GRANTED_MS, limitMs: BUILD_LIMIT_MS });
	}

	async #wait(of: { worker: string; platform: string }, left: AbortSignal): Promise<ClaimedBuild | null> {
		let job: ClaimedBuild | null = null;
		await this.#until(CLAIM_WAIT_MS, left, (done) => {
			const waiter: Waiter = {
				...of,
				done: (found) => {
					job = found;
					done();
				},
			};
			this.#waiters.push(waiter);
			return () => {
				this.#waiters = this.#waiters.filter((one) => one !== waiter);
			};
		});
		return job;
	}

	/** Claims for those that wait, some at a time, until there is no more for any of them. */
	async #serve(): Promise<void> {
		this.#serving = true;
		try {
			const dry = new Set<string>();
			for (let asked = this.#hints - 1, many = 1; !this.#closed;) {
				if (asked !== this.#hints) dry.clear();
				// One more than there may be: so it learns in the same turn that there is no more.
				many = Math.min(CLAIMS_AT_ONCE, Math.max(many * 2, this.#hints - asked + 1));
				asked = this.#hints;
				const waiters = this.#waiters.filter(({ platform }) => !dry.has(platform)).slice(0, many);
				if (waiters.length === 0) return;
				await Promise.all(
					waiters.map(async (waiter) => {
						if (!(await this.#serveOne(waiter))) dry.add(waiter.platform);
					}),
				);
			}
		} catch (error) {
			this.#of.log.warn('builds.unclaimed', { error });
		} finally {
			this.#serving = false;
		}
	}

	async #serveOne(waiter: Waiter): Promise<boolean> {
		const job = await this.#ask(waiter);
		if (!job) return false;
		if (this.#waiters.includes(waiter)) waiter.done(job);
		else await this.#of.state.builds.doubt(fenceOf(job, waiter.worker), DOUBT_MS);
		return true;
	}

	#heard({ type, deployment, data }: Event): void {
		// One that runs says nothing of the queue; one that waits, ended or was let go of does.
		const goesOn = type === 'build.step' || (type === 'build.state' && RUNNING.has(String(data['state'])));
		if (deployment !== null) this.told(deployment, !goesOn);
		if (type.startsWith('build.') && !goesOn && !this.#own.delete(deployment ?? '')) this.hint();
	}

	async #sweep(): Promise<void> {
		if (this.#sweeping || this.#closed) return;
		const { state, clock, log, graceMs = GRACE_MS } = this.#of;
		this.#sweeping = true;
		try {
			const before = this.#sweptAt;
			const now = clock.monotonic();
			if (before !== null && now - before > STEADY_GAP_MS) this.#steadySince = now;
			if (now - this.#steadySince >= graceMs) {
				for (const swept of await state.builds.sweep(MAX_ATTEMPTS)) this.#swept(swept);
			} else await state.builds.queue();
			this.#sweptAt = clock.monotonic();
			if (this.#sweptAt - now > STEADY_GAP_MS) this.#steadySince = this.#sweptAt;
		} catch (error) {
			if (!this.#closed) log.warn('builds.unswept', { error });
		} finally {
			this.#sweeping = false;
		}
	}

	#swept(swept: Swept): void {
		this.#of.log.warn(`build.${swept.outcome}`, { ...swept });
		if (swept.outcome === 'dead' && swept.deployed) this.#of.onGatesLost(swept);
		if (swept.outcome === 'dead' || swept.outcome === 'timed-out') this.#of.onEnded('TimedOut');
		this.told(swept.id, true);
		this.hint();
	}

	#changed(id: string, limitMs: number, left: AbortSignal): Promise<void> {
		return this.#until(limitMs, left, (done) => this.watch(id, (ended) => ended && done()));
	}

	/** Until `begin`'s callback is called, the time is over, or whoever asked has left. */
	#until(limitMs: number, left: AbortSignal, begin: (done: () => void) => () => void): Promise<void> {
		return new Promise((resolve) => {
			let stop = () => {};
			const done = () => {
				limit.cancel();
				left.removeEventListener('abort', done);
				stop();
				resolve();
			};
			const limit: Timer = this.#of.clock.after(limitMs, done, { idle: true });
			left.addEventListener('abort', done);
			stop = begin(done);
			if (left.aborted) done();
		});
	}
}

const RUNNING: ReadonlySet<string> = new Set(['Building', 'Testing', 'Packaging', 'Uploading']);

function keepLast(all: Set<string> | Map<string, number>): void {
	const [oldest] = all.keys();
	if (all.size > MAX_REMEMBERED && oldest !== undefined) all.delete(oldest);
}

function fenceOf({ id, attempt }: ClaimedBuild, worker: string): Fence {
	return { id, attempt, worker };
}

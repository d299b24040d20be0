import type { MonotonicMs, Timer } from '#clock/clock.ts';
import { randomId } from '#digest/digest.ts';
import { CHECK_PERIOD_MS, record as recordOutcome, resumeCheck, type Check } from '#health/check.ts';
import type { Log } from '#log/log.ts';
import type { Instance, ReleaseSpec, RunAs } from '#wire/region.ts';
import { askHealth } from './ask-health.ts';
import type { Ending, InstanceProcess } from './instance-process.ts';
import type { Bound, Records } from './records.ts';
import { start, type Started, type StartParts } from './start.ts';

/**
 * One wanted copy of a release in a region: whatever process sits in it, it is moved from what it is to what is wanted,
 * step by step, and started again when it ends by itself. Its goal may change at any time; a step looks only at now.
 */
export type Goal = RunAs | 'gone';

export interface SeatParts extends StartParts {
	log: Log;
	records: Records;
	/** Something that others are told has changed. `pressing`: an edge or a rollout may wait to hear of it. */
	changed(seat: Seat, pressing: boolean): void;
	/** True once for each release: one instance's compiled code is as good as another's. */
	firstToRest(spec: ReleaseSpec): boolean;
	gone(seat: Seat): void;
	/** No edge sends requests to what the pointer does not name any more. */
	settled(seat: Seat): boolean;
	/** What an app said of itself, without its secrets. */
	scrub(spec: ReleaseSpec, text: string): string;
	/** Runs it when nothing is being deployed, one such task at a time. */
	later(task: () => Promise<void>): void;
}

const RESTART_FIRST_MS = 100;
const RESTART_MOST_MS = 30_000;
const RESTART_WINDOW_MS = 60_000;
/** One that answers nothing for so long is started anew. */
const UNHEALTHY_RESTART_MS = 60_000;
/** Where no edge says that it obeys, an instance is told all the same that it serves. */
const ACTIVATE_WITHIN_MS = 1_000;
const MAX_DETAIL_CHARACTERS = 4_000;
/** Beyond the limits that were given to the instance itself. */
const DRAIN_SLACK_MS = 5_000;

export class Seat {
	readonly region: string;
	readonly spec: ReleaseSpec;
	goal: Goal;
	/** The pointer has named its release, so requests may be on their way to it. */
	named = false;
	/** Not to be used again, whatever is wanted: its release left, and came back. */
	parted = false;
	private state: Instance['state'] = 'starting';
	private process: InstanceProcess | null = null;
	private files: { release(): void } | null = null;
	private id = randomId(8);
	private check: Check | null = null;
	private failure: { reason: string; detail: string } | null = null;
	/** Why we ended it, which is more than how it ended. */
	private overruled: { reason: string; detail: string } | null = null;
	private restarts: number[] = [];
	private failedStarts = 0;
	private cold = false;
	private timings: Instance['timings'] = null;
	private moving = false;
	private again = false;
	private retry: Timer | null = null;
	private checking: Timer | null = null;
	/** When an instance that runs anyway is told that it serves, even if no edge obeys. */
	private tellAt: MonotonicMs | null = null;
	private telling: Timer | null = null;
	/** Of the drain begun last: what one says that was called off counts no more. */
	private drainId: string | null = null;
	/** Its last drain has ended, and nothing was sent to it since. */
	private drained = false;
	private unhealthySince: number | null = null;
	/** `queued` for a lull to be sent to rest in. */
	private rest: 'awake' | 'queued' = 'awake';
	private closed = false;
	private readonly parts: SeatParts;

	constructor(parts: SeatParts, of: { region: string; spec: ReleaseSpec; goal: Goal }) {
		this.parts = parts;
		this.region = of.region;
		this.spec = of.spec;
		this.goal = of.goal;
	}

	/** A seat whose process an earlier agent started. */
	adopt(process: InstanceProcess, bound: Bound, release: () => void): void {
		this.cold = bound.cold;
		this.sit(process, { release });
		// A drain that was under way is called off, and begun again if it is still wanted.
		if (bound.state === 'draining') process.tell({ type: 'state', state: 'serving' });
		this.state = bound.state === 'draining' ? 'serving' : bound.state;
		this.check = resumeCheck(this.spec.health, this.state !== 'warm', this.parts.clock.monotonic());
		this.scheduleCheck(0);
	}

	view(): Instance {
		const failed = this.state === 'failed' || (this.process === null && this.failure !== null);
		const problem = this.failure ?? (this.check?.problem ? { reason: 'unhealthy', detail: this.check.problem } : null);
		const since = this.parts.clock.monotonic() - RESTART_WINDOW_MS;
		return {
			id: this.id,
			release: this.spec.release,
			state: failed ? 'failed' : this.state,
			healthy: this.process !== null && (this.state === 'warm' || (this.check?.healthy ?? false)),
			address: this.check === null ? null : (this.process?.address ?? null),
			pid: this.process?.record.identity.pid ?? null,
			reason: problem?.reason ?? null,
			detail: problem?.detail.slice(0, MAX_DETAIL_CHARACTERS) ?? null,
			restarts: this.restarts.filter((at) => at > since).length,
			cold: this.cold,
			timings: this.timings,
		};
	}

	/** On its way out, and past the point of coming back. */
	get leaving(): boolean {
		return this.closed;
	}

	get instance(): InstanceProcess | null {
		return this.process;
	}

	/** Call when the goal or what `settled` says has changed. */
	wake(): void {
		this.again = true;
		if (!this.moving) void this.move();
	}

	/** Ends the process for a reason of ours; it is started again as one that ended by itself. */
	async stopFor(reason: string, detail: string): Promise<void> {
		if (!this.process || this.goal === 'gone') return;
		this.overruled = { reason, detail };
		await this.process.stop(0);
	}

	/** Leaves because its room is needed; resolves once it has. */
	async giveUp(): Promise<void> {
		const { process } = this;
		this.goal = 'gone';
		this.wake();
		await process?.ended;
	}

	/** The agent ends; the instance does not. */
	close(): void {
		this.closed = true;
		for (const timer of [this.retry, this.checking, this.telling]) timer?.cancel();
	}

	private async move(): Promise<void> {
		this.moving = true;
		try {
			while (this.again && !this.closed) {
				this.again = false;
				await this.step();
			}
		} catch (error) {
			this.stepFailed(error);
		} finally {
			this.moving = false;
		}
	}

	/** A process may end under our hands; what follows from that comes by its own way. */
	private stepFailed(error: unknown): void {
		this.parts.log.error('seat.step_failed', { region: this.region, app: this.spec.app, release: this.spec.release, error });
	}

	private async step(): Promise<void> {
		const { goal, process } = this;
		if (goal === 'gone') return this.leave();
		if (!process) return this.retry ? undefined : this.sitDown();
		if (goal === this.state) return;
		if (goal === 'warm') return this.coolDown(process);
		if (goal === 'serving' && this.mayWait()) return;
		this.tellAt = null;
		if (this.state === 'warm' && this.spec.warm === 'frozen') await this.wakeUp(process);
		else if (this.state === 'serving' && goal === 'prepared') return this.drain(process);
		if (this.process !== process) return;
		this.drained = false;
		process.tell({ type: 'state', state: goal });
		this.enter(goal);
	}

	/** It runs, so edges may send requests already: to tell it so takes the processors from those who wait for the pointer. */
	private mayWait(): boolean {
		const runs = this.state === 'prepared' || (this.state === 'warm' && this.spec.warm !== 'frozen');
		const now = this.parts.clock.monotonic();
		this.tellAt ??= now + ACTIVATE_WITHIN_MS;
		this.telling?.cancel();
		if (!runs || now >= this.tellAt || this.parts.settled(this)) return false;
		this.telling = this.parts.clock.after(this.tellAt - now, () => this.wake(), { idle: true });
		return true;
	}

	private async sitDown(): Promise<void> {
		this.state = 'starting';
		this.changed(false);
		try {
			const started = await start({ region: this.region, spec: this.spec }, this.parts);
			if (this.closed) return;
			this.arrive(started);
		} catch (error) {
			this.failedStarts++;
			this.fail(codeOf(error), wordsFor(error));
			this.scheduleRestart();
		}
	}

	private arrive(started: Started): void {
		this.cold = started.cold;
		this.timings = started.timings;
		this.failure = null;
		this.failedStarts = 0;
		this.check = started.check;
		this.sit(started.process, started.files);
		this.enter('prepared');
		this.changed(true);
		this.scheduleCheck(firstCheckMs());
		this.again = true;
	}

	private sit(process: InstanceProcess, files: { release(): void }): void {
		this.process = process;
		this.drained = false;
		this.files = files;
		this.id = process.record.id;
		void process.ended.then((ending) => this.process === process && this.ended(ending));
	}

	/** It ended, and nobody asked it to. */
	private ended(ending: Ending): void {
		if (this.closed) return;
		this.empty();
		if (this.goal === 'gone') return this.wake();
		this.restarts.push(this.parts.clock.monotonic());
		const { reason, detail } = this.overruled ?? ending;
		this.overruled = null;
		this.fail(reason, detail);
		this.scheduleRestart();
	}

	private fail(reason: string, words: string): void {
		const detail = this.parts.scrub(this.spec, words);
		this.failure = { reason, detail };
		this.parts.log.warn('instance.failed', { region: this.region, app: this.spec.app, release: this.spec.release, reason, detail });
		this.state = 'failed';
		this.changed();
	}

	private scheduleRestart(): void {
		const since = this.parts.clock.monotonic() - RESTART_WINDOW_MS;
		this.restarts = this.restarts.filter((at) => at > since);
		const times = Math.max(this.restarts.length, this.failedStarts) - 1;
		const delay = Math.min(RESTART_MOST_MS, RESTART_FIRST_MS * 2 ** Math.max(0, times));
		this.retry?.cancel();
		this.retry = this.parts.clock.after(delay, () => {
			this.retry = null;
			this.wake();
		}, { idle: true }); // prettier-ignore
	}

	/** From serving or prepared to warm: once no edge sends requests here, finish what is in flight, then rest. */
	private coolDown(process: InstanceProcess): void {
		if (this.state === 'draining' && this.drained) this.enter('prepared');
		if (this.state === 'draining' || !this.parts.settled(this)) return;
		// One that the pointer named has requests though it was never told to serve: its agent may have been away.
		if (this.state === 'serving' || this.needsDrain) return this.drain(process);
		if (this.rest === 'queued') return;
		this.rest = 'queued';
		this.parts.later(() => this.sendToRest(process));
	}

	/** Collecting its garbage costs more than a whole rollback: done when nobody waits for the processors. */
	private async sendToRest(process: InstanceProcess): Promise<void> {
		this.rest = 'awake';
		if (this.goal !== 'warm' || this.process !== process || this.moving || this.state !== 'prepared' || this.needsDrain) {
			return this.wake();
		}
		this.moving = true;
		try {
			const rests = this.spec.warm === 'frozen';
			process.tell({ type: 'state', state: 'warm', rests, keepCompiled: this.parts.firstToRest(this.spec) });
			if (rests) {
				await process.hear(['rested'], REST_LIMIT_MS).catch(() => {});
				if (this.goal !== 'warm' || this.process !== process) return;
				process.freeze();
				this.checking?.cancel();
			}
			this.enter('warm');
		} catch (error) {
			this.stepFailed(error);
		} finally {
			this.moving = false;
			if (this.again || this.goal !== 'warm') this.wake();
		}
	}

	private drain(process: InstanceProcess): void {
		if (this.state === 'draining' || !this.parts.settled(this)) return;
		const { requestsMs, streamsMs } = this.spec.drain;
		const id = randomId(8);
		this.drainId = id;
		process.tell({ type: 'drain', id, requestsMs, streamsMs });
		this.enter('draining');
		const over = () => {
			if (this.closed || this.process !== process || this.state !== 'draining' || this.drainId !== id) return;
			this.drained = true;
			// One that leaves is never again said to take requests.
			if (this.goal !== 'gone') this.enter('prepared');
			this.wake();
		};
		process.hear(['drained'], requestsMs + streamsMs + DRAIN_SLACK_MS, (report) => report.id === id).then(over, over);
	}

	/** Requests may be in it. */
	private get needsDrain(): boolean {
		return this.state === 'prepared' && this.named && !this.drained;
	}

	/** One that runs while it is warm has gone on being checked. */
	private async wakeUp(process: InstanceProcess): Promise<void> {
		process.thaw();
		const { clock } = this.parts;
		const outcome = await askHealth(process.address, this.spec.health.path, this.spec.health.timeoutMs, clock);
		this.check = recordOutcome(resumeCheck(this.spec.health, false, clock.monotonic()), outcome, clock.monotonic());
		this.scheduleCheck(firstCheckMs());
	}

	/** Nobody wants it: finish what is in flight, unless nothing was ever sent to it, and stop. */
	private async leave(): Promise<void> {
		const { process } = this;
		if (process && this.named && !this.parts.settled(this)) return;
		this.retry?.cancel();
		if (process) {
			if (this.state === 'draining' && !this.drained) return;
			if (this.state === 'serving' || this.needsDrain) return this.drain(process);
			this.process = null;
			this.closed = true;
			await process.stop();
		}
		this.closed = true;
		this.empty();
		this.parts.gone(this);
	}

	private enter(state: Bound['state']): void {
		this.state = state;
		this.changed(state === 'serving');
		const record = this.process?.record;
		if (!record?.bound) return;
		record.bound.state = state;
		this.parts.records.updateSoon(record);
	}

	private empty(): void {
		this.checking?.cancel();
		this.files?.release();
		this.process = null;
		this.files = null;
		this.check = null;
	}

	private scheduleCheck(delayMs: number): void {
		this.checking?.cancel();
		this.checking = this.parts.clock.after(delayMs, () => void this.checkNow(), { idle: true });
	}

	private async checkNow(): Promise<void> {
		const { process, check } = this;
		if (!process || !check || this.closed || (this.state === 'warm' && this.spec.warm === 'frozen')) return;
		const { clock } = this.parts;
		const outcome = await askHealth(process.address, check.rule.path, check.rule.timeoutMs, clock);
		if (this.process !== process || this.check !== check) return;
		const next = recordOutcome(check, outcome, clock.monotonic());
		this.check = next;
		if (next.healthy !== check.healthy || (next.problem === null) !== (check.problem === null)) this.changed();
		this.unhealthySince = next.healthy ? null : (this.unhealthySince ?? clock.monotonic());
		if (this.unhealthySince !== null && clock.monotonic() - this.unhealthySince > UNHEALTHY_RESTART_MS) {
			this.unhealthySince = null;
			return process.stop(0);
		}
		this.scheduleCheck(CHECK_PERIOD_MS);
	}

	private changed(pressing = true): void {
		this.parts.changed(this, pressing);
	}
}

const REST_LIMIT_MS = 2_000;

/** Instances that start together are not checked together ever after. */
function firstCheckMs(): number {
	return CHECK_PERIOD_MS * (0.5 + Math.random() / 2);
}

/** A system's error does not say what was being done, and what to do. */
function wordsFor(error: unknown): string {
	const { code, message } = error as NodeJS.ErrnoException;
	if (code === 'ENOSPC' || code === 'EDQUOT') {
		return `the disk of this server is full, so the release's files could not be written (${message}). Free some space there, then deploy again.`;
	}
	return error instanceof Error ? message : String(error);
}

function codeOf(error: unknown): string {
	const code = (error as { code?: unknown }).code;
	return typeof code === 'string' && /^[a-z_]+$/.test(code) ? code : 'platform';
}

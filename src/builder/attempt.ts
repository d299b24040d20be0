import { pause, systemClock, type Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { scrubber, type Scrub } from '#log/scrub.ts';
import type { DeploymentState } from '#wire/api.ts';
import {
	BEAT_MS,
	BUILD_LIMIT_MS,
	HOLD_MS,
	LEASE_MS,
	beatAnswer,
	endAnswer,
	type BuildJob,
	type BuildLogLine,
	type StepReport,
	type endRequest,
} from '#wire/builds.ts';
import { StringDecoder } from 'node:string_decoder';
import type { z } from 'zod';
import { Refused, type AskOptions, type Body, type Control } from './control.ts';

/**
 * One attempt at a job, as control hears of it: beats, stages, steps and log lines, all under the attempt's number. Once another
 * has the job, or a person or the clock ended it, `stopped` is aborted, and nothing more is said.
 */
export type EndState = z.infer<typeof endRequest>['state'];

export class Stopped extends Error {
	readonly why: 'cancelled' | 'superseded' | 'timed-out' | 'fenced' | 'leaving';
	constructor(why: Stopped['why'], options?: { cause?: unknown }) {
		super(`the build was stopped: ${why}`, options);
		this.why = why;
	}
}

const LOG_EACH_MS = 100;
const BEAT_AGAIN_MS = 200;
const MAX_LINES = 1_000;
const MAX_LINE_CHARS = 65_536;
/** What a step prints faster than control takes it waits here; beyond, the middle is left out. */
const MAX_WAITING_LINES = 20_000;
const MAX_DETAIL_CHARS = 20_000;
const MAX_SUMMARY_CHARS = 8_000;

export class Attempt {
	readonly job: BuildJob;
	readonly worker: string;
	readonly #control: Control;
	readonly #log: Log;
	readonly #scrub: Scrub;
	readonly #wantsNext: () => string | undefined;
	readonly #stop = new AbortController();
	readonly #ended = new AbortController();
	readonly #timers: Timer[] = [];
	#closed = false;
	/** Monotonic time of the last beat that control answered. */
	#heardAt = systemClock.monotonic();
	#lines: BuildLogLine[] = [];
	/** Number of the first of `#lines`. */
	#from = 0;
	#dropped = 0;
	#sendingLines: Promise<void> | null = null;
	#steps = new Map<string, StepReport>();
	#stepsWait = false;
	#saying: Promise<void> = Promise.resolve();

	/** What control had to do next when it heard of the end. */
	next: BuildJob | null = null;

	/** `next`: of which platform the job may be that is taken at once after this one; undefined: none is. */
	constructor(job: BuildJob, of: { worker: string; control: Control; log: Log; next?: () => string | undefined }) {
		this.job = job;
		this.worker = of.worker;
		this.#control = of.control;
		this.#log = of.log;
		this.#wantsNext = of.next ?? (() => undefined);
		this.#scrub = scrubber(Object.entries(job.secrets).map(([name, value]) => ({ name, value })));
		// Control says when its time is over; the deadline is of its clock, which may differ from this machine's.
		this.#timers.push(
			systemClock.every(LOG_EACH_MS, () => this.#sendSoon()),
			systemClock.after(BUILD_LIMIT_MS, () => this.stop(new Stopped('timed-out')), { idle: true }),
		);
		void this.#beat();
	}

	get stopped(): AbortSignal {
		return this.#stop.signal;
	}

	/** @throws Stopped */
	check(): void {
		if (this.#stop.signal.aborted) throw this.#stop.signal.reason;
	}

	stop(why: Stopped): void {
		if (!this.#stop.signal.aborted) this.#stop.abort(why);
	}

	/** It enters a state, which is told with what is known of its steps by now. */
	async enter(state: DeploymentState): Promise<void> {
		this.check();
		const at = systemClock.now();
		await this.#inOrder(() => this.#say('stages', { state, at, steps: [...this.#steps.values()] }));
	}

	/** A step began, goes on or ended: told soon, in order. */
	step(report: StepReport): void {
		const summary = report.summary === null ? null : this.#scrub(report.summary).slice(0, MAX_SUMMARY_CHARS);
		this.#steps.set(report.name, { ...report, summary });
		// What waits to be told tells of this one, too: a build of many short steps would wait for its own words.
		if (this.#stepsWait) return;
		this.#stepsWait = true;
		void this.#inOrder(() => {
			this.#stepsWait = false;
			return this.#say('stages', { state: null, at: systemClock.now(), steps: [...this.#steps.values()] });
		}).catch((error: unknown) => this.#log.warn('step.untold', { step: report.name, error }));
	}

	line(step: string, stream: BuildLogLine['stream'], text: string): void {
		if (this.#lines.length >= MAX_WAITING_LINES) {
			this.#dropped++;
			return;
		}
		if (this.#dropped > 0) {
			const missing = `… ${this.#dropped} lines were printed faster than they could be kept, and are left out`;
			this.#dropped = 0;
			this.line(step, 'jibe', missing);
		}
		this.#lines.push({ at: systemClock.now(), step, stream, text: this.#scrub(text).slice(0, MAX_LINE_CHARS) });
		if (this.#lines.length >= MAX_LINES) this.#sendSoon();
	}

	/** For what a command writes: whole lines of it become lines of the log. */
	printer(step: string): { write: (stream: 'out' | 'err', bytes: Buffer) => void; end: () => void } {
		const streams = { out: new Lines((text) => this.line(step, 'out', text)), err: new Lines((text) => this.line(step, 'err', text)) };
		return {
			write: (stream, bytes) => streams[stream].add(bytes),
			end: () => {
				streams.out.end();
				streams.err.end();
			},
		};
	}

	/** Asks control about this very attempt. @throws Stopped when it is no longer ours, Refused, Unreachable */
	async ask(method: 'POST' | 'PUT', path: string, body: Body, options: AskOptions = {}): Promise<unknown> {
		return this.#guarded(() => this.#control.ask(method, this.path(path), body, { signal: this.stopped, ...options }));
	}

	async read(path: string): Promise<unknown> {
		return this.#guarded(() => this.#control.ask('GET', this.path(this.query(path)), undefined, { signal: this.stopped }));
	}

	async open(path: string): Promise<AsyncIterable<Buffer>> {
		return this.#guarded(() => this.#control.open(this.path(path), { signal: this.stopped }));
	}

	/** With worker and attempt in the query, for what has no JSON to carry them. */
	query(path: string): string {
		return `${path}?worker=${encodeURIComponent(this.worker)}&attempt=${this.job.attempt}`;
	}

	path(path: string): string {
		return `/api/v1/builds/${this.job.id}/${path}`;
	}

	/** Everything that was said has arrived. */
	async flush(): Promise<void> {
		while (this.#lines.length > 0 || this.#sendingLines) {
			this.#sendSoon();
			await this.#sendingLines;
			if (this.#stop.signal.aborted && this.#stop.signal.reason instanceof Stopped && this.#stop.signal.reason.why === 'fenced') return;
		}
		await this.#saying.catch(() => {}); // each says by itself what became of it
	}

	/** The last that is said of it, even when it was stopped. */
	async end(state: EndState, reason: string | null, detail: string | null): Promise<void> {
		await this.flush();
		const json = {
			...this.#who(),
			state,
			reason,
			detail: detail === null ? null : this.#scrub(detail).slice(0, MAX_DETAIL_CHARS),
			at: systemClock.now(),
			next: this.#wantsNext(),
		};
		this.next = endAnswer.parse(await this.#control.ask('POST', this.path('end'), { json })).job ?? null;
	}

	close(): void {
		this.#closed = true;
		this.#ended.abort();
		for (const timer of this.#timers) timer.cancel();
	}

	#who(): { worker: string; attempt: number } {
		return { worker: this.worker, attempt: this.job.attempt };
	}

	#inOrder(say: () => Promise<void>): Promise<void> {
		this.#saying = this.#saying.catch(() => {}).then(say); // an earlier one's failure is told to who said it
		return this.#saying;
	}

	async #say(path: string, json: object): Promise<void> {
		this.#heed(
			await this.#guarded(() =>
				this.#control.ask('POST', this.path(path), { json: { ...this.#who(), ...json } }, { signal: this.#ended.signal }),
			),
		);
	}

	async #guarded<T>(ask: () => Promise<T>): Promise<T> {
		try {
			return await ask();
		} catch (error) {
			if (error instanceof Refused && error.code === 'fenced') this.stop(new Stopped('fenced', { cause: error }));
			this.check();
			throw error;
		}
	}

	/** One after the other for as long as it lasts: each is held by control until there is something to say. */
	async #beat(): Promise<void> {
		while (!this.#closed && !this.#stop.signal.aborted) {
			try {
				const options = { insistMs: 0, silentMs: HOLD_MS + BEAT_MS, signal: this.#ended.signal };
				this.#heed(await this.#control.ask('POST', this.path('beat'), { json: { ...this.#who(), hold: true } }, options));
				this.#heardAt = systemClock.monotonic();
			} catch (error) {
				if (this.#closed) return;
				if (error instanceof Refused && error.code === 'fenced') this.stop(new Stopped('fenced', { cause: error }));
				// Cut off for as long as a lease: by now another builder has it.
				else if (systemClock.monotonic() - this.#heardAt > LEASE_MS) this.stop(new Stopped('fenced', { cause: error }));
				else {
					this.#log.warn('beat.unheard', { error });
					await pause(BEAT_AGAIN_MS);
				}
			}
		}
	}

	#heed(answer: unknown): void {
		const { stop } = beatAnswer.parse(answer);
		if (stop !== null) this.stop(new Stopped(stop));
	}

	#sendSoon(): void {
		if (this.#sendingLines || this.#lines.length === 0) return;
		const lines = this.#lines.slice(0, MAX_LINES);
		this.#sendingLines = this.#say('log', { from: this.#from, lines })
			.catch((error: unknown) => this.#log.warn('log.untold', { lines: lines.length, error }))
			.finally(() => {
				// Given up or stored: they are numbered either way.
				this.#lines.splice(0, lines.length);
				this.#from += lines.length;
				this.#sendingLines = null;
			});
	}
}

class Lines {
	readonly #decoder = new StringDecoder('utf8');
	readonly #tell: (line: string) => void;
	#rest = '';

	constructor(tell: (line: string) => void) {
		this.#tell = tell;
	}

	add(bytes: Buffer): void {
		const lines = (this.#rest + this.#decoder.write(bytes)).split('\n');
		this.#rest = lines.pop() ?? '';
		for (const line of lines) this.#tell(line.replace(/\r$/, ''));
		if (this.#rest.length < MAX_LINE_CHARS) return;
		this.#tell(this.#rest);
		this.#rest = '';
	}

	end(): void {
		const last = this.#rest + this.#decoder.end();
		this.#rest = '';
		if (last !== '') this.#tell(last);
	}
}

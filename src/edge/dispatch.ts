import type { Clock, MonotonicMs } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { slotOf } from '#split/split.ts';
import type { Connection, FailedAt, UpstreamExchange } from './connection.ts';
import type { Inbound } from './inbound.ts';
import { answers, type Answer } from './pages.ts';
import type { ResponseHead } from './response-reader.ts';
import type { Serving } from './serving.ts';
import type { Recorder } from './stats.ts';
import type { Upstream } from './upstream.ts';

/**
 * A request on its way to an instance: which release, which instance, and what when it can't be reached. How the
 * answer gets back to the client is the affair of `Exchange` and `Tunnel`.
 */
export abstract class Dispatch implements UpstreamExchange {
	protected readonly edge: EdgeContext;
	protected readonly inbound: Inbound;
	protected readonly route: Destination;
	protected upstream: Upstream | null = null;
	protected connection: Connection | null = null;
	protected requestHead = '';
	/** Nothing more is to be done for this request. */
	protected over = false;
	protected headSeen = false;
	protected askedAt: MonotonicMs = 0;
	/** It is one of `upstream.inFlight`. */
	#counted = false;
	readonly #slot: number;
	readonly #tried: Upstream[] = [];
	#holdUntil: MonotonicMs = 0;
	#retries = 0;
	#cancelWait: (() => void) | null = null;

	constructor(edge: EdgeContext, inbound: Inbound, route: Destination) {
		this.edge = edge;
		this.inbound = inbound;
		this.route = route;
		this.#slot = slotOf(route.userKey);
	}

	abstract onWritable(): void;
	abstract onInformation(status: number): void;
	abstract onHead(head: ResponseHead): void;
	abstract onBody(chunk: Buffer): void;
	abstract onEnd(): void;
	abstract onRead(): void;
	abstract requestSent(): boolean;
	abstract onConnected(): void;
	/** Answers instead of an instance. */
	protected abstract refuse(answer: Answer): void;
	/** The answer broke off after its head had been passed on. */
	protected abstract cutOff(): void;
	/** The request could be sent again: none of it is gone but its head. */
	protected abstract canRepeat(): boolean;

	/** Chooses by what the pointer says now, and asks; or waits until there is somebody to ask. */
	dispatch(): void {
		this.#cancelWait = null;
		if (this.over) return;
		const { serving, release: only, userKey } = this.route;
		const release = only ?? serving.releaseFor(userKey);
		if (release === null) return this.refuse(answers.nothingServes(serving.app, serving.environment));
		const upstream = serving.pick(release, this.#tried);
		if (upstream !== null) this.#ask(upstream);
		else this.#hold();
	}

	onFailed(error: Error, at: FailedAt): void {
		this.connection = null;
		this.leaveUpstream();
		if (this.over) return;
		if (at === 'response' || this.headSeen) {
			this.edge.log.info('instance.broke_off', this.#said(error));
			if (this.upstream) this.edge.stats.brokeOff(this.route.serving, this.upstream, this.#slot);
			return this.cutOff();
		}
		if (at === 'connect' && this.upstream) {
			this.#tried.push(this.upstream);
			return this.dispatch();
		}
		if (this.repeatable() && this.#retries++ < MAX_RETRIES) return this.dispatch();
		this.edge.log.info('instance.no_answer', this.#said(error));
		this.recordFailure();
		this.refuse(answers.brokenAnswer(this.route.serving.app));
	}

	repeatable(): boolean {
		return this.inbound.idempotent && this.canRepeat();
	}

	/** The label of the release that answers. */
	protected get releaseLabel(): string {
		return `v${this.upstream?.release ?? 0}`;
	}

	protected recordHead(status: number): void {
		this.headSeen = true;
		if (!this.upstream) return;
		const ms = this.edge.clock.monotonic() - this.askedAt;
		this.edge.stats.answered(this.route.serving, this.upstream, this.#slot, ms, status >= 500);
	}

	protected recordFailure(): void {
		if (this.headSeen || !this.upstream) return;
		const ms = this.edge.clock.monotonic() - this.askedAt;
		this.edge.stats.answered(this.route.serving, this.upstream, this.#slot, ms, true);
	}

	protected leaveUpstream(): void {
		if (this.upstream && this.#counted) this.upstream.inFlight--;
		this.#counted = false;
	}

	/** The client has gone, or has been answered by us. */
	protected drop(): void {
		this.over = true;
		this.#cancelWait?.();
		this.#cancelWait = null;
		const connection = this.connection;
		this.connection = null;
		this.leaveUpstream();
		connection?.abandon();
	}

	#ask(upstream: Upstream): void {
		this.upstream = upstream;
		upstream.inFlight++;
		this.#counted = true;
		this.askedAt = this.edge.clock.monotonic();
		this.connection = upstream.take();
		this.connection.ask(this, this.requestHead, this.inbound.method === 'HEAD');
	}

	#hold(): void {
		const now = this.edge.clock.monotonic();
		if (this.#holdUntil === 0) this.#holdUntil = now + HOLD_MS;
		const leftMs = this.#holdUntil - now;
		if (leftMs <= 0) return this.#lastResort();
		this.#tried.length = 0;
		this.#cancelWait = this.route.serving.wait(() => this.dispatch(), Math.min(leftMs, HOLD_STEP_MS));
		if (this.#cancelWait === null) this.#lastResort();
	}

	#lastResort(): void {
		const { serving, release } = this.route;
		const upstream = release === null ? serving.lastResort() : null;
		if (upstream !== null && this.#retries++ <= MAX_RETRIES) {
			this.edge.log.warn('edge.last_resort', {
				app: serving.app,
				environment: serving.environment,
				region: serving.region,
				release: upstream.release,
			});
			return this.#ask(upstream);
		}
		this.recordFailure();
		this.refuse(answers.unavailable(serving.app));
	}

	#said(error: Error): Record<string, unknown> {
		const { serving } = this.route;
		const { message } = error;
		return { app: serving.app, region: serving.region, release: this.upstream?.release, instance: this.upstream?.id, message };
	}
}

/** Where a request goes: to what the pointer says, or to one release that was named by its deployment. */
export interface Destination {
	serving: Serving;
	release: number | null;
	userKey: string;
}

export interface EdgeContext {
	clock: Clock;
	log: Log;
	stats: Recorder;
	/** Under way, for the sweep that ends what takes too long. */
	active: Set<{ sweep(now: MonotonicMs): void; end(): void }>;
	closing: boolean;
}

/** How long a request waits for an instance when none can be reached. */
const HOLD_MS = 2_000;
const HOLD_STEP_MS = 100;
/** Repetitions of a request whose connection was closed before any byte of the answer. */
const MAX_RETRIES = 2;
/** From the request to the head of its answer. */
export const ANSWER_TIMEOUT_MS = 120_000;

import { Sketch } from '#histogram/sketch.ts';
import type { Clock } from '#clock/clock.ts';
import type { Stats } from '#wire/region.ts';
import type { Serving } from './serving.ts';
import type { Upstream } from './upstream.ts';

/** What was answered in the current second, per instance. Handed over when the second is over, if there was anything. */
export class Recorder {
	readonly #edge: string;
	readonly #clock: Clock;
	readonly #send: (stats: Stats) => void;
	#rows = new Map<Upstream, Row>();
	#second: number;
	#stopped = false;

	constructor(edge: string, clock: Clock, send: (stats: Stats) => void) {
		this.#edge = edge;
		this.#clock = clock;
		this.#send = send;
		this.#second = Math.floor(clock.now() / 1000);
		this.#schedule();
	}

	/** An answer's head came, or failed to: `ms` is the time the instance took for it. */
	answered(serving: Serving, upstream: Upstream, slot: number, ms: number, error: boolean): void {
		const row = this.#row(serving, upstream);
		if (row === null) return;
		row.requests++;
		row.latency.add(ms);
		const counts = slotOf(row, slot);
		counts[0]++;
		if (error) {
			row.errors++;
			counts[1]++;
		}
	}

	/** An answer that had begun well broke off: its request has been counted before. */
	brokeOff(serving: Serving, upstream: Upstream, slot: number): void {
		const row = this.#row(serving, upstream);
		if (row === null) return;
		row.errors++;
		slotOf(row, slot)[1]++;
	}

	stop(): void {
		this.#stopped = true;
		this.#flush();
	}

	#row(serving: Serving, upstream: Upstream): Row | null {
		let row = this.#rows.get(upstream);
		if (row === undefined) {
			if (this.#rows.size >= MAX_ROWS) return null;
			row = { serving, requests: 0, errors: 0, slots: new Map(), latency: new Sketch() };
			this.#rows.set(upstream, row);
		}
		return row;
	}

	#schedule(): void {
		this.#clock.after(
			1000 - (this.#clock.now() % 1000) + 1,
			() => {
				if (this.#stopped) return;
				this.#flush();
				this.#schedule();
			},
			{ idle: true },
		);
	}

	#flush(): void {
		const second = this.#second;
		this.#second = Math.floor(this.#clock.now() / 1000);
		if (this.#rows.size === 0) return;
		const rows = [...this.#rows].map(([upstream, row]) => ({
			region: row.serving.region,
			app: row.serving.app,
			environment: row.serving.environment,
			release: upstream.release,
			instance: upstream.id,
			slots: Object.fromEntries(row.slots),
			requests: row.requests,
			errors: row.errors,
			latency: row.latency.toRecord(),
		}));
		this.#rows = new Map();
		this.#send({ type: 'stats', edge: this.#edge, second, rows });
	}
}

interface Row {
	serving: Serving;
	requests: number;
	errors: number;
	slots: Map<number, [number, number]>;
	latency: Sketch;
}

/** Instances that had traffic within one second; beyond it they go uncounted. */
const MAX_ROWS = 10_000;

function slotOf(row: Row, slot: number): [number, number] {
	let counts = row.slots.get(slot);
	if (counts === undefined) row.slots.set(slot, (counts = [0, 0]));
	return counts;
}

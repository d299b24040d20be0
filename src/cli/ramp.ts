import { systemClock, type Timer } from '#clock/clock.ts';
import type { RampProgress } from '#wire/api.ts';
import { count, seconds, type Output } from './output.ts';

const REDRAW_EACH_MS = 1_000;

/** A canary's weights as they are held: a line that stays for each, and below it, on a terminal, how it goes. */
export class RampLine {
	readonly #out: Output;
	#weight = '';
	#latest: { progress: RampProgress; until: number } | null = null;
	#redrawing: Timer | null = null;

	constructor(out: Output) {
		this.#out = out;
	}

	hear(progress: RampProgress): void {
		const { weightBp, regions, leftMs } = progress;
		const where = regions.length > 3 ? count(regions.length, 'region') : regions.join(', ');
		const weight = `${weightBp / 100} % of the traffic in ${where}`;
		if (weight !== this.#weight) this.#out.say(`  ${weight} for ${inWords(leftMs)}`);
		this.#weight = weight;
		this.#latest = { progress, until: systemClock.monotonic() + leftMs };
		this.#redrawing ??= systemClock.every(REDRAW_EACH_MS, () => this.#draw());
		this.#draw();
	}

	end(): void {
		this.#redrawing?.cancel();
		this.#redrawing = null;
	}

	#draw(): void {
		if (this.#latest === null) return;
		const { progress, until } = this.#latest;
		const left = inWords(Math.max(0, until - systemClock.monotonic()));
		this.#out.now(`  ${left} left: ${count(progress.requests, 'request')}, ${count(progress.errors, 'error')}`);
	}
}

function inWords(ms: number): string {
	return ms < 60_000 ? seconds(Math.max(100, ms)) : `${(ms / 60_000).toFixed(1)} min`;
}

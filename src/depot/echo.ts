import type { Clock, Timer } from '#clock/clock.ts';

/** Longer than most deploys take: who shares a processor with those that wait does not take it from them. */
const ECHO_AFTER_MS = 500;

/**
 * What the depot of another server says now to its programs, and for them: said again for the case that it could not, and
 * of what has changed in between only the newest.
 */
export class Echo {
	readonly #due = new Map<string, () => void>();
	readonly #clock: Clock;
	#timer: Timer | null = null;

	constructor(clock: Clock) {
		this.#clock = clock;
	}

	/** `key`: what it takes the place of. */
	later(key: string, say: () => void): void {
		this.#due.delete(key);
		this.#due.set(key, say);
		this.#timer ??= this.#clock.after(ECHO_AFTER_MS, () => this.now(), { idle: true });
	}

	now(): void {
		this.close();
		const due = [...this.#due.values()];
		this.#due.clear();
		for (const say of due) say();
	}

	close(): void {
		this.#timer?.cancel();
		this.#timer = null;
	}
}

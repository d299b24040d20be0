import type { Clock, Timer } from '#clock/clock.ts';
import type { Pool } from './pool.ts';

/** Between a want and its settling something is being deployed; but no longer than this. */
const BUSY_LIMIT_MS = 10_000;
/** After a deploy others still have work of their own: what nobody waits for begins this much later. */
const LULL_MS = 300;

/** What nobody waits for (filling the pool, sending instances to rest) leaves the processors to a deploy while there is one. */
export interface Quiet {
	busy(): void;
	over(): void;
	/** Something is being deployed. */
	readonly isBusy: boolean;
	/** Runs `task` in a lull, after those that came before it: one at a time. It deals with its own errors. */
	later(task: () => Promise<void>): void;
	close(): void;
}

export function createQuiet(clock: Clock, pool: Pool): Quiet {
	let letGo: (() => void) | null = null;
	let limit: Timer | null = null;
	let lull: Timer | null = null;
	let working = false;
	const tasks: (() => Promise<void>)[] = [];

	const work = async () => {
		if (working) return;
		working = true;
		while (letGo === null && tasks.length > 0) await tasks.shift()?.();
		working = false;
	};
	const lullBegins = () => {
		lull?.cancel();
		lull = clock.after(LULL_MS, () => void work(), { idle: true });
	};
	const over = () => {
		limit?.cancel();
		letGo?.();
		letGo = null;
		lullBegins();
	};
	return {
		busy() {
			lull?.cancel();
			letGo ??= pool.hold();
			limit?.cancel();
			limit = clock.after(BUSY_LIMIT_MS, over, { idle: true });
		},
		over,
		get isBusy() {
			return letGo !== null;
		},
		later(task) {
			tasks.push(task);
			if (letGo === null && !working && tasks.length === 1) lullBegins();
		},
		close() {
			limit?.cancel();
			lull?.cancel();
			tasks.length = 0;
		},
	};
}

import type { Clock, Timer } from '#clock/clock.ts';
import type { Pool } from './pool.ts';

/** Between a want and its settling something is being deployed, and idle processes are not made; but no longer than this. */
const BUSY_LIMIT_MS = 10_000;

export interface Quiet {
	busy(): void;
	over(): void;
	close(): void;
}

export function createQuiet(clock: Clock, pool: Pool): Quiet {
	let letGo: (() => void) | null = null;
	let limit: Timer | null = null;
	const over = () => {
		limit?.cancel();
		letGo?.();
		letGo = null;
	};
	return {
		busy() {
			letGo ??= pool.hold();
			limit?.cancel();
			limit = clock.after(BUSY_LIMIT_MS, over, { idle: true });
		},
		over,
		close: () => limit?.cancel(),
	};
}

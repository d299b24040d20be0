/** Milliseconds since 1970, UTC. */
export type WallMs = number;
/** Milliseconds on a clock that never jumps; only differences mean anything. */
export type MonotonicMs = number;

export interface Timer {
	cancel(): void;
}

/** Time as the rest of the house sees it. Tests and the simulation bring their own. */
export interface Clock {
	/** Wall time, for records that people read. */
	now(): WallMs;
	/** Monotonic time, for durations and deadlines. */
	monotonic(): MonotonicMs;
	/** Runs `task` once after `delayMs`; the timer never keeps a program alive by itself when `idle` is set. */
	after(delayMs: number, task: () => void, options?: { idle?: boolean }): Timer;
	/** Runs `task` each `periodMs` until cancelled; never keeps a program alive by itself. */
	every(periodMs: number, task: () => void): Timer;
}

export const systemClock: Clock = {
	now: () => Date.now(),
	monotonic: () => performance.now(),
	after(delayMs, task, options) {
		const timer = setTimeout(task, delayMs);
		if (options?.idle) timer.unref();
		return { cancel: () => clearTimeout(timer) };
	},
	every(periodMs, task) {
		const timer = setInterval(task, periodMs);
		timer.unref();
		return { cancel: () => clearInterval(timer) };
	},
};

/** Resolves after `delayMs`. For back-off in loops; nothing on the deploy path waits on it. */
export function pause(delayMs: number, clock: Clock = systemClock): Promise<void> {
	return new Promise((resolve) => clock.after(delayMs, resolve));
}

/** RFC 3339, UTC, milliseconds: `2026-11-20T21:36:40.123Z`. */
export function isoTime(at: WallMs): string {
	return new Date(at).toISOString();
}

/** As HTTP writes it, to the second: `Sat, 21 Nov 2026 01:06:30 GMT`. */
export function httpTime(at: WallMs): string {
	return new Date(at).toUTCString();
}

/** A time as HTTP or ISO write it; null when it is none. */
export function readTime(text: string): WallMs | null {
	const at = Date.parse(text);
	return Number.isFinite(at) ? at : null;
}

import type { ServerView } from '../ports.ts';

/**
 * Which servers are away, lost, or back too short a time to be relied on. A server that comes and goes is left alone for
 * twice as long each time, so that it can't make instances move back and forth.
 */

/** Away for so long, and what ran there is started elsewhere. */
export const SERVER_LOST_AFTER_MS = 60_000;
/** Away for so long, and what was only to be prepared there begins elsewhere: a deploy waits for it, and nobody loses by it. */
export const SERVER_MISSING_AFTER_MS = 5_000;
/** One that was lost and is back gets nothing moved to it for so long; doubled with each loss. */
export const STEADY_AFTER_MS = 60_000;
const MAX_DOUBLINGS = 6;
/** Losses further back are forgiven. */
const LOSSES_REMEMBERED_MS = 60 * 60_000;

export class Steadiness {
	/** What was never heard of counts as away since then. */
	readonly startedMs: number;
	/** Region and server → since when it has been away. */
	readonly #away = new Map<string, number>();
	/** When it came back after it was lost. */
	readonly #returns = new Map<string, number[]>();

	constructor(nowMs: number) {
		this.startedMs = nowMs;
	}

	look(views: readonly ServerView[], now: number): void {
		for (const view of views) {
			const key = keyOf(view);
			const since = this.#away.get(key);
			if (!view.connected) {
				if (since === undefined) this.#away.set(key, view.lostSinceMs ?? now);
				continue;
			}
			this.#away.delete(key);
			if (since === undefined || now - since < SERVER_LOST_AFTER_MS) continue;
			const returns = (this.#returns.get(key) ?? []).filter((at) => now - at < LOSSES_REMEMBERED_MS);
			this.#returns.set(key, [...returns, now]);
		}
	}

	away(view: ServerView, now: number): 'away' | 'lost' | null {
		if (view.connected) return null;
		return now - (view.lostSinceMs ?? now) >= SERVER_LOST_AFTER_MS ? 'lost' : 'away';
	}

	isMissing({ connected, lostSinceMs }: ServerView, now: number): boolean {
		return !connected && now - (lostSinceMs ?? now) >= SERVER_MISSING_AFTER_MS;
	}

	isUnsteady(view: ServerView, now: number): boolean {
		const from = this.#steadyFrom(view);
		return from !== null && now < from;
	}

	/** In how many milliseconds one of them will be taken for missing, for lost, or for steady again; null: none will. */
	nextMs(views: readonly ServerView[], now: number): number | null {
		const times = views.flatMap((view) => {
			if (view.connected) return [this.#steadyFrom(view)];
			const { lostSinceMs } = view;
			return lostSinceMs === null ? [] : [lostSinceMs + SERVER_MISSING_AFTER_MS, lostSinceMs + SERVER_LOST_AFTER_MS];
		});
		const ahead = times.flatMap((time) => (time !== null && time > now ? [time - now] : []));
		return ahead.length === 0 ? null : Math.min(...ahead);
	}

	#steadyFrom(view: ServerView): number | null {
		const returns = this.#returns.get(keyOf(view));
		const last = returns?.at(-1);
		if (!returns || last === undefined) return null;
		return last + STEADY_AFTER_MS * 2 ** Math.min(MAX_DOUBLINGS, returns.length - 1);
	}
}

function keyOf({ region, server }: ServerView): string {
	return `${region}/${server}`;
}

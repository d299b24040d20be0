import type { Clock, Timer } from '#clock/clock.ts';

/** 24 instances that drain and come to rest change their states some 70 times; nobody waits for these, and a deploy is over by then. */
const TELL_WITHIN_MS = 250;

/** Gathers what has changed, so that a wave is told in a few messages and not in one an instance. */
export interface Teller {
	/** What is pressing goes out at the end of this turn, with all else that changed in it; the rest within TELL_WITHIN_MS. */
	tell(key: string, pressing: boolean): void;
	/** Says now what has not been said. */
	now(): void;
}

export function createTeller(clock: Clock, say: (keys: ReadonlySet<string>) => void): Teller {
	let changed = new Set<string>();
	let soon: NodeJS.Immediate | null = null;
	let later: Timer | null = null;
	const now = () => {
		if (soon) clearImmediate(soon);
		later?.cancel();
		soon = null;
		later = null;
		const keys = changed;
		changed = new Set();
		say(keys);
	};
	return {
		now,
		tell(key, pressing) {
			changed.add(key);
			if (pressing) soon ??= setImmediate(now);
			else later ??= clock.after(TELL_WITHIN_MS, now, { idle: true });
		},
	};
}

import type { Placed } from '#placement/place.ts';

/** Without room for so long, and an instance had better start elsewhere: what drains makes room soon. */
const REFUSED_AFTER_MS = 30_000;
/** A server that had no room is given none of that run for so long, whatever its budget says. */
const REFUSED_FOR_MS = 10 * 60_000;

/** Instances that their servers said they have no room for: budgets are counted here, and the servers' own word is the last. */
export class Refusals {
	/** Run → server → since when, until when, and how many. */
	readonly #known = new Map<string, Map<string, { since: number; until: number | null }>>();

	/** `seen`: what is said now. Answers what counts as refused, with 0 where nothing of it is left that could be moved. */
	of(run: string, seen: Placed, now: number): Placed {
		const known = this.#known.get(run) ?? new Map<string, { since: number; until: number | null }>();
		for (const server of Object.keys(seen)) if (!known.has(server)) known.set(server, { since: now, until: null });
		const refusing: Record<string, number> = {};
		for (const [server, one] of known) {
			const held = seen[server] ?? 0;
			if (held > 0 && now - one.since >= REFUSED_AFTER_MS) one.until = now + REFUSED_FOR_MS;
			if (one.until !== null && now < one.until) refusing[server] = held;
			else if (held === 0) known.delete(server);
		}
		if (known.size === 0) this.#known.delete(run);
		else this.#known.set(run, known);
		return refusing;
	}

	/** Something is refused, or was a short while ago. */
	any(run: string): boolean {
		return this.#known.has(run);
	}
}

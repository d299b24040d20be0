import type { Clock, Timer } from '#clock/clock.ts';
import type { ServerLink } from '#wire/accept.ts';
import type { UpMessage } from '#wire/region.ts';

/**
 * One region as control is linked with it: by every depot that it has. It is lost when none of them is left, at once
 * when the last was silent, and after a grace when its link ended: a depot that restarts is back in a moment.
 */

/** A depot that restarts is back within this; a silent one (15 s, by the link) is lost at once. */
export const GONE_GRACE_MS = 2_000;
/** After control's own start: depots wait up to 5 s between attempts. */
const START_GRACE_MS = 6_000;

/** Who is connected to a depot. */
export interface Present {
	agents: string[];
	edges: { server: string; name: string }[];
}

const NOBODY: Present = { agents: [], edges: [] };

export class RegionLinks {
	lost = false;
	readonly #depots = new Map<ServerLink, Present>();
	/** `server/name` → its link. */
	readonly #byName = new Map<string, ServerLink>();
	/** Who was there when the last link ended; they count until the region is lost, or a depot says who is there. */
	#before: Present = NOBODY;
	#lastSeenAt: number | null = null;
	#grace: Timer | null;
	readonly #clock: Clock;
	readonly #onLost: () => void;

	constructor(clock: Clock, onLost: () => void) {
		this.#clock = clock;
		this.#onLost = onLost;
		this.#grace = this.#after(START_GRACE_MS);
	}

	links(): ServerLink[] {
		return [...this.#depots.keys()];
	}

	get count(): number {
		return this.#depots.size;
	}

	has(link: ServerLink): boolean {
		return this.#depots.has(link);
	}

	/** One that can have an edge asked, if there is one. */
	asking(): ServerLink | null {
		const all = [...this.#depots];
		return (all.find(([, { edges }]) => edges.length > 0) ?? all[0])?.[0] ?? null;
	}

	/** One that hears the most agents. */
	listening(): ServerLink | null {
		let best: [ServerLink, Present] | null = null;
		for (const one of this.#depots) if (!best || one[1].agents.length > best[1].agents.length) best = one;
		return best?.[0] ?? null;
	}

	/** Servers whose agents have a link to a depot that is heard. */
	agents(): string[] {
		return [...new Set(this.#there().flatMap(({ agents }) => agents))];
	}

	/** `server/name` of the edges that have one. */
	edges(): string[] {
		return [...new Set(this.#there().flatMap(({ edges }) => edges.map(({ server, name }) => `${server}/${name}`)))];
	}

	/** A depot said hello. The link it had before, if control has not heard of its end yet, is returned: nobody listens there. */
	joined(link: ServerLink): ServerLink | null {
		const former = this.#byName.get(nameOf(link)) ?? null;
		const present = (former && this.#depots.get(former)) ?? (this.#depots.size === 0 ? this.#before : NOBODY);
		if (former) this.#depots.delete(former);
		this.#depots.set(link, present);
		this.#byName.set(nameOf(link), link);
		this.#grace?.cancel();
		this.#grace = null;
		this.lost = false;
		return former;
	}

	said(link: ServerLink, present: Present): void {
		if (this.#depots.has(link)) this.#depots.set(link, present);
	}

	/** true: others are left, and who was heard by this one alone is not there any more. */
	left(link: ServerLink, silent: boolean): boolean {
		const present = this.#depots.get(link);
		if (!present) return false;
		this.#lastSeenAt = this.seenAt();
		this.#depots.delete(link);
		if (this.#byName.get(nameOf(link)) === link) this.#byName.delete(nameOf(link));
		if (this.#depots.size > 0) return true;
		this.#before = present;
		if (silent) this.#lose();
		else this.#grace = this.#after(GONE_GRACE_MS);
		return false;
	}

	/** Wall time. */
	seenAt(): number | null {
		if (this.#depots.size === 0) return this.#lastSeenAt;
		const heardAt = Math.max(...this.links().map((link) => link.heardAt()));
		return Math.round(this.#clock.now() - (this.#clock.monotonic() - heardAt));
	}

	close(): void {
		this.#grace?.cancel();
	}

	#there(): Present[] {
		return this.#depots.size > 0 ? [...this.#depots.values()] : [this.#before];
	}

	#after(graceMs: number): Timer {
		return this.#clock.after(graceMs, () => this.#lose(), { idle: true });
	}

	#lose(): void {
		this.#grace = null;
		this.#before = NOBODY;
		this.lost = true;
		this.#onLost();
	}
}

function nameOf({ hello: { server, name } }: ServerLink): string {
	return `${server}/${name}`;
}

/** What a depot says of this region. */
export function presentIn(said: Extract<UpMessage, { type: 'presence' }>['regions'][number]): Present {
	return { agents: said.agents.map(({ server }) => server), edges: said.edges };
}

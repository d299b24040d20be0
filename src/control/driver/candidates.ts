import type { Clock, Timer } from '#clock/clock.ts';
import type { Server } from '#placement/place.ts';
import type { RegionHub, ServerView } from '../ports.ts';
import { Steadiness } from './steadiness.ts';

/** What is heard within this is looked at together: after a cut thousands of servers come back at once. */
const LOOK_WITHIN_MS = 50;
/** So long a server that was not heard of yet counts as there: control has only just begun. */
const START_GRACE_MS = 6_000;
/** A server with less free disk gets nothing new. */
export const MIN_DISK_FREE_MIB = 256;

/** A server that joined, as the database has it. */
export interface Joined {
	name: string;
	region: string;
	roles: readonly string[];
	labels: readonly string[];
	draining: boolean;
}

/** A server that instances may be placed on, or why they may not. */
export interface Candidate {
	name: string;
	labels: readonly string[];
	connected: boolean;
	/** Away for so long that what is only to be prepared there begins elsewhere. */
	missing: boolean;
	takes: Server['takes'];
	why: 'draining' | 'removed' | 'lost' | 'away' | 'disk' | null;
	/** It was lost and came back a short while ago: nothing moves there without need. */
	unsteady: boolean;
	/** Infinite until its agent has said. */
	budgetMiB: number;
	/** Apps whose own files are there. */
	keeps: readonly string[];
}

/** The servers of the regions: what the hub hears of them, what the database says of them, and what time makes of that. */
export class Candidates {
	readonly #hub: RegionHub;
	readonly #clock: Clock;
	readonly #joined: () => readonly Joined[];
	readonly #changed: () => void;
	readonly #steadiness: Steadiness;
	/** Every name that ever joined: one that is no longer among them was removed. */
	readonly #everJoined = new Set<string>();
	/** By region, until something of it changes. */
	readonly #known = new Map<string, Candidate[]>();
	readonly #seen = new Map<string, string>();
	readonly #generations = new Map<string, number>();
	/** When time alone will change something in a region. */
	readonly #nextAt = new Map<string, number>();
	readonly #dirty = new Set<string>();
	#soon: Timer | null = null;
	#later: Timer | null = null;

	/** `changed`: where instances should be may be another place now. */
	constructor(of: { hub: RegionHub; clock: Clock; joined: () => readonly Joined[]; changed: () => void }) {
		this.#hub = of.hub;
		this.#clock = of.clock;
		this.#joined = of.joined;
		this.#changed = of.changed;
		this.#steadiness = new Steadiness(of.clock.monotonic());
		for (const region of this.#regions()) this.#look(region);
		this.#setTimer();
	}

	/** Counts up whenever something about a server of the region changes that placement goes by. */
	generation(region: string): number {
		return this.#generations.get(region) ?? 0;
	}

	/** Somebody came, went, or said something; in every region, if none is named. */
	heard(region: string | null): void {
		for (const one of region === null ? this.#regions() : [region]) {
			this.#known.delete(one);
			this.#dirty.add(one);
		}
		this.#soon ??= this.#clock.after(LOOK_WITHIN_MS, () => this.#lookAtDirty());
	}

	in(region: string): readonly Candidate[] {
		const known = this.#known.get(region);
		if (known) return known;
		const now = this.#clock.monotonic();
		const joined = new Map(this.#servers(region).map((one) => [one.name, one]));
		const found = this.#views(region).map((view) => this.#candidate(view, joined.get(view.server) ?? null, now));
		this.#known.set(region, found);
		return found;
	}

	/** Whether instances of the region are given to servers by name. Where this machine's own is the only one, it runs all. */
	arePlaced(region: string): boolean {
		return this.in(region).length > 1 || this.#servers(region).length > 0;
	}

	close(): void {
		this.#soon?.cancel();
		this.#later?.cancel();
	}

	#lookAtDirty(): void {
		this.#soon = null;
		const dirty = [...this.#dirty];
		this.#dirty.clear();
		const changed = dirty.filter((region) => this.#look(region));
		this.#setTimer();
		if (changed.length > 0) this.#changed();
	}

	/** true: something is another way than when it was last looked at. */
	#look(region: string): boolean {
		const now = this.#clock.monotonic();
		const views = this.#views(region);
		for (const { name } of this.#servers(region)) this.#everJoined.add(name);
		this.#steadiness.look(views, now);
		this.#known.delete(region);
		const next = this.#steadiness.nextMs(views, now);
		if (next === null) this.#nextAt.delete(region);
		else this.#nextAt.set(region, now + next);
		const seen = JSON.stringify(this.in(region));
		if (seen === this.#seen.get(region)) return false;
		this.#seen.set(region, seen);
		this.#generations.set(region, this.generation(region) + 1);
		return true;
	}

	#setTimer(): void {
		this.#later?.cancel();
		this.#later = null;
		if (this.#nextAt.size === 0) return;
		const delayMs = Math.max(1, Math.min(...this.#nextAt.values()) - this.#clock.monotonic());
		this.#later = this.#clock.after(delayMs, () => this.#timePassed(), { idle: true });
	}

	#timePassed(): void {
		const now = this.#clock.monotonic();
		for (const [region, at] of this.#nextAt) if (at <= now) this.#dirty.add(region);
		this.#soon?.cancel();
		this.#lookAtDirty();
	}

	#candidate(view: ServerView, joined: Joined | null, now: number): Candidate {
		const { state, server, connected } = view;
		const why = this.#why(view, joined, now);
		return {
			name: server,
			labels: joined?.labels ?? [],
			connected,
			// Where it may be given something new nothing is taken from it.
			missing: why !== null && this.#steadiness.isMissing(view, now),
			takes: why === null ? 'any' : why === 'away' || why === 'disk' ? 'kept' : 'none',
			why,
			unsteady: this.#steadiness.isUnsteady(view, now),
			budgetMiB: state?.budgetMiB ?? Number.POSITIVE_INFINITY,
			keeps: state?.keeps ?? [],
		};
	}

	#why(view: ServerView, joined: Joined | null, now: number): Candidate['why'] {
		const { server, lostSinceMs, state } = view;
		if (!joined && this.#everJoined.has(server)) return 'removed';
		const { startedMs } = this.#steadiness;
		const unheard = state === null && lostSinceMs === startedMs && now - startedMs < START_GRACE_MS;
		const away = unheard ? null : this.#steadiness.away(view, now);
		if (away === 'lost') return 'lost';
		if (joined?.draining) return 'draining';
		return away ?? (state && state.diskFreeMiB < MIN_DISK_FREE_MIB ? 'disk' : null);
	}

	#regions(): Set<string> {
		return new Set([...this.#hub.servers(), ...this.#joined()].map(({ region }) => region).concat([...this.#seen.keys()]));
	}

	/** Those that joined and that instances can run on. */
	#servers(region: string): Joined[] {
		return this.#joined().filter((one) => one.region === region && one.roles.includes('agent'));
	}

	/** What the hub has heard of, and those that joined and were not heard of since this process began. */
	#views(region: string): ServerView[] {
		const known = this.#hub.servers(region);
		const heard = new Set(known.map(({ server }) => server));
		const lostSinceMs = this.#steadiness.startedMs;
		const unheard = this.#servers(region).filter(({ name }) => !heard.has(name));
		return [...known, ...unheard.map(({ name }) => ({ server: name, region, connected: false, lostSinceMs, state: null }))];
	}
}

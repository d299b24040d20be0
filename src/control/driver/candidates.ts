import type { Clock, Timer } from '#clock/clock.ts';
import type { Server } from '#placement/place.ts';
import type { RegionHub, ServerView } from '../ports.ts';
import { Steadiness } from './steadiness.ts';

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
	appsMiB: Readonly<Record<string, number>>;
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
	#timer: Timer | null = null;
	#seen = '';
	#generation = 0;
	readonly #cache = new Map<string, Candidate[]>();

	/** `changed`: where instances should be may be another place now. */
	constructor(of: { hub: RegionHub; clock: Clock; joined: () => readonly Joined[]; changed: () => void }) {
		this.#hub = of.hub;
		this.#clock = of.clock;
		this.#joined = of.joined;
		this.#changed = of.changed;
		this.#steadiness = new Steadiness(of.clock.monotonic());
		this.look();
	}

	/** Counts up whenever something about a server changes that placement goes by. */
	get generation(): number {
		return this.#generation;
	}

	/** Notes who came and went. Called at every event of the hub or the database that may change it. true: something did. */
	look(): boolean {
		const now = this.#clock.monotonic();
		const views = this.#views();
		for (const { name } of this.#servers()) this.#everJoined.add(name);
		this.#steadiness.look(views, now);
		this.#cache.clear();
		const next = this.#steadiness.nextMs(views, now);
		this.#timer?.cancel();
		this.#timer = next === null ? null : this.#clock.after(next, () => this.look() && this.#changed(), { idle: true });
		const regions = new Set(views.map((view) => view.region));
		const seen = JSON.stringify([...regions].map((region) => [region, this.in(region)]));
		if (seen === this.#seen) return false;
		this.#seen = seen;
		this.#generation++;
		return true;
	}

	in(region: string): Candidate[] {
		const known = this.#cache.get(region);
		if (known) return known;
		const now = this.#clock.monotonic();
		const joined = this.#servers();
		const found = this.#views()
			.filter((view) => view.region === region)
			.map((view) => this.#candidate(view, joined.find((one) => one.name === view.server) ?? null, now));
		this.#cache.set(region, found);
		return found;
	}

	/** Whether instances of the region are given to servers by name. Where this machine's own is the only one, it runs all. */
	arePlaced(region: string): boolean {
		return this.#servers().some((one) => one.region === region) || this.in(region).length > 1;
	}

	close(): void {
		this.#timer?.cancel();
	}

	#candidate(view: ServerView, joined: Joined | null, now: number): Candidate {
		const { state, server, connected } = view;
		const why = this.#why(view, joined, now);
		return {
			name: server,
			labels: joined?.labels ?? [],
			connected,
			missing: this.#steadiness.isMissing(view, now),
			takes: why === null ? 'any' : why === 'away' || why === 'disk' ? 'kept' : 'none',
			why,
			unsteady: this.#steadiness.isUnsteady(view, now),
			budgetMiB: state?.budgetMiB ?? Number.POSITIVE_INFINITY,
			appsMiB: state?.appsMiB ?? {},
		};
	}

	#why({ server, connected, lostSinceMs, state, region }: ServerView, joined: Joined | null, now: number): Candidate['why'] {
		if (!joined && this.#everJoined.has(server)) return 'removed';
		const away = this.#steadiness.away({ server, connected, lostSinceMs, state, region }, now);
		if (away === 'lost') return 'lost';
		if (joined?.draining) return 'draining';
		return away ?? (state && state.diskFreeMiB < MIN_DISK_FREE_MIB ? 'disk' : null);
	}

	/** Those that instances can run on. */
	#servers(): readonly Joined[] {
		return this.#joined().filter(({ roles }) => roles.includes('agent'));
	}

	/** What the hub has heard of, and those that joined and were not heard of since this process began. */
	#views(): ServerView[] {
		const known = this.#hub.servers();
		const heard = new Set(known.map(({ server, region }) => `${region}/${server}`));
		const lostSinceMs = this.#steadiness.startedMs;
		const unheard = this.#servers().filter(({ name, region }) => !heard.has(`${region}/${name}`));
		return [...known, ...unheard.map(({ name, region }) => ({ server: name, region, connected: false, lostSinceMs, state: null }))];
	}
}

import type { Clock } from '#clock/clock.ts';
import { wantKey, type Run } from '#wire/region.ts';
import type { RegionHub } from '../ports.ts';

/** What an instance of an app is reserved before one was measured. */
export const FIRST_RESERVATION_MIB = 64;
/** For so long a decision counts though the hub has not heard of its write: by then it was never written. */
const NOTED_MS = 10_000;

export interface Key {
	region: string;
	app: string;
	environment: string;
}

/**
 * Memory that is reserved on each server by what is wanted of it. What is warm gives way, so it does not count. Apps
 * that are decided on at the same moment see each other's decisions before they are written.
 */
export class Reserved {
	readonly #hub: RegionHub;
	readonly #clock: Clock;
	readonly #noted = new Map<string, { key: Key; run: readonly Run[]; version: number; at: number }>();
	/** Good for as long as nothing else can happen. */
	#sum: Sum | null = null;

	constructor(hub: RegionHub, clock: Clock) {
		this.#hub = hub;
		this.#clock = clock;
	}

	/** By all, or by all but this key. */
	on(server: string, but: Key | null = null): number {
		const { used, wanted } = this.#summed();
		const own = but && wanted.get(wantKey(but));
		return (used.get(server) ?? 0) - (own ? this.#needOf(server, own.key, own.run) : 0);
	}

	/** What one instance of an app takes there: as measured there, else the most that it was measured to take elsewhere. */
	need(server: string, app: string): number {
		const { needs, most } = this.#summed();
		return needs.get(server)?.[app] ?? most.get(app) ?? FIRST_RESERVATION_MIB;
	}

	/** Decided, and perhaps not written yet. */
	note(key: Key, run: readonly Run[], version: number): void {
		const name = wantKey(key);
		const old = this.#sum?.wanted.get(name);
		if (old) this.#count(old, -1);
		this.#noted.set(name, { key, run, version, at: this.#clock.monotonic() });
		this.#sum?.wanted.set(name, { key, run });
		if (this.#sum) this.#count({ key, run }, 1);
	}

	#summed(): Sum {
		if (this.#sum) return this.#sum;
		queueMicrotask(() => (this.#sum = null));
		const servers = this.#hub.servers();
		const regions = Map.groupBy(servers, (view) => view.region);
		const needs = new Map(servers.map(({ server, state }) => [server, state?.appsMiB ?? {}]));
		const sum: Sum = { regions, needs, most: mostOf(needs.values()), wanted: this.#wanted(), used: new Map() };
		this.#sum = sum;
		for (const one of sum.wanted.values()) this.#count(one, 1);
		return sum;
	}

	/** What the hub knows, with what was decided since. */
	#wanted(): Sum['wanted'] {
		const wanted: Sum['wanted'] = new Map();
		for (const want of this.#hub.wanted()) {
			const name = wantKey(want);
			const noted = this.#noted.get(name);
			if (noted && want.version >= noted.version) this.#noted.delete(name);
			wanted.set(name, { key: want, run: want.run });
		}
		const now = this.#clock.monotonic();
		for (const [name, noted] of this.#noted) {
			if (now - noted.at > NOTED_MS) this.#noted.delete(name);
			else wanted.set(name, noted);
		}
		return wanted;
	}

	#count({ key, run }: { key: Key; run: readonly Run[] }, sign: 1 | -1): void {
		const { used } = this.#sum!;
		for (const server of serversOf(this.#sum!, key, run)) {
			used.set(server, (used.get(server) ?? 0) + sign * this.#needOf(server, key, run));
		}
	}

	#needOf(server: string, { region, app }: Key, run: readonly Run[]): number {
		const { regions } = this.#sum!;
		const each = this.need(server, app);
		const alone = regions.get(region)?.length === 1 && regions.get(region)![0]!.server === server;
		let instances = 0;
		for (const { as, placed, instances: all } of run) if (as !== 'warm') instances += placed ? (placed[server] ?? 0) : alone ? all : 0;
		return instances * each;
	}
}

interface Sum {
	regions: Map<string, { server: string }[]>;
	needs: Map<string, Readonly<Record<string, number>>>;
	/** By app, of all servers. */
	most: Map<string, number>;
	wanted: Map<string, { key: Key; run: readonly Run[] }>;
	used: Map<string, number>;
}

function mostOf(needs: Iterable<Readonly<Record<string, number>>>): Map<string, number> {
	const most = new Map<string, number>();
	for (const apps of needs) for (const [app, mib] of Object.entries(apps)) most.set(app, Math.max(mib, most.get(app) ?? 0));
	return most;
}

function serversOf({ regions }: Sum, { region }: Key, run: readonly Run[]): Set<string> {
	const servers = new Set(run.flatMap(({ placed }) => (placed ? Object.keys(placed) : [])));
	const there = regions.get(region);
	if (there?.length === 1) servers.add(there[0]!.server);
	return servers;
}

import { compareVersions, wantKey } from '#wire/region.ts';
import type { Known } from '#wire/region.ts';
import type { Clock, Timer } from '#clock/clock.ts';

/**
 * When agents may drain what a version does not serve: once every edge of the region obeys that version. An edge whose
 * link broke may still be serving with what it knew, so it counts until it was gone for EDGE_GONE_AFTER_MS.
 */
export const EDGE_GONE_AFTER_MS = 5_000;

interface Edge {
	regions: readonly string[];
	applied: Map<string, Known>;
	gone: Timer | null;
}

export interface SettlingOptions {
	clock: Clock;
	onSettled: (items: Known[]) => void;
	/** There is an edge more, or one less. */
	onCount?: () => void;
	/** The edges that there were before this program started; they are about to come back. */
	remembered: { id: string; regions: string[] }[];
}

export class Settling {
	private readonly edges = new Map<string, Edge>();
	private readonly settled = new Map<string, Known>();
	private readonly onSettled: (items: Known[]) => void;
	private readonly onCount: () => void;
	private readonly clock: Clock;

	constructor(options: SettlingOptions) {
		this.clock = options.clock;
		this.onSettled = options.onSettled;
		this.onCount = options.onCount ?? (() => {});
		for (const { id, regions } of options.remembered) {
			this.edges.set(id, { regions, applied: new Map(), gone: null });
			this.left(id);
		}
	}

	/** A new connection: the edge says again what it obeys. */
	joined(id: string, regions: readonly string[]): void {
		this.edges.get(id)?.gone?.cancel();
		const known = this.edges.has(id);
		this.edges.set(id, { regions, applied: new Map(), gone: null });
		if (!known) this.onCount();
	}

	left(id: string): void {
		const edge = this.edges.get(id);
		if (!edge) return;
		edge.gone?.cancel();
		edge.gone = this.clock.after(EDGE_GONE_AFTER_MS, () => this.forget(id, edge), { idle: true });
	}

	applied(id: string, items: readonly Known[]): void {
		const edge = this.edges.get(id);
		if (!edge) return;
		for (const item of items) {
			const before = edge.applied.get(wantKey(item));
			if (!before || compareVersions(item, before) > 0) edge.applied.set(wantKey(item), item);
		}
		this.announce(items);
	}

	/** All that is settled in these regions: for an agent that connects. */
	of(regions: readonly string[]): Known[] {
		return [...this.settled.values()].filter((item) => regions.includes(item.region));
	}

	/** How many edges of these regions it counts on. */
	count(regions: readonly string[]): number {
		return [...this.edges.values()].filter((edge) => edge.regions.some((region) => regions.includes(region))).length;
	}

	list(): { id: string; regions: string[] }[] {
		return [...this.edges].map(([id, { regions }]) => ({ id, regions: [...regions] }));
	}

	/** What each connected edge obeys: for control, when its link is back. */
	said(): { id: string; items: Known[] }[] {
		return [...this.edges].filter(([, edge]) => edge.gone === null).map(([id, edge]) => ({ id, items: [...edge.applied.values()] }));
	}

	close(): void {
		for (const edge of this.edges.values()) edge.gone?.cancel();
	}

	private forget(id: string, edge: Edge): void {
		if (this.edges.get(id) !== edge) return;
		this.edges.delete(id);
		this.onCount();
		const others = [...this.edges.values()].filter((other) => other.regions.some((region) => edge.regions.includes(region)));
		this.announce(others.flatMap((other) => [...other.applied.values()]));
	}

	private announce(candidates: readonly Known[]): void {
		const news = new Map<string, Known>();
		for (const candidate of candidates) {
			const key = wantKey(candidate);
			const oldest = this.oldest(key, candidate.region);
			const before = this.settled.get(key);
			if (!oldest || (before && compareVersions(oldest, before) <= 0)) continue;
			this.settled.set(key, oldest);
			news.set(key, oldest);
		}
		if (news.size > 0) this.onSettled([...news.values()]);
	}

	/** The oldest version that an edge of the region obeys, or null when one has said nothing. */
	private oldest(key: string, region: string): Known | null {
		let oldest: Known | null = null;
		for (const edge of this.edges.values()) {
			if (!edge.regions.includes(region)) continue;
			const theirs = edge.applied.get(key);
			if (!theirs) return null;
			if (!oldest || compareVersions(theirs, oldest) < 0) oldest = theirs;
		}
		return oldest;
	}
}

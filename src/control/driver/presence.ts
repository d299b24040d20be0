import type { Clock } from '#clock/clock.ts';
import { REGION_LOST_AFTER_MS } from '#wire/region.ts';
import type { RegionHub, RegionView } from '../ports.ts';

/**
 * Which regions are there. A region is lost when the hub says so of its depot, or once all its agents or all its edges
 * have been away for 15 s: a rollout waits for it until then, and no longer.
 */
export class Presence {
	readonly #hub: RegionHub;
	readonly #clock: Clock;
	/** Monotonic time since when a region has not been whole. */
	readonly #awaySince = new Map<string, number>();

	constructor(hub: RegionHub, clock: Clock) {
		this.#hub = hub;
		this.#clock = clock;
		this.look();
	}

	/** In the order of the installation: the first is the canary region by default. */
	names(): string[] {
		return this.#hub.regions().map((region) => region.name);
	}

	/** Notes who is away since when. Called at every event of the hub that may change it. */
	look(): void {
		const now = this.#clock.monotonic();
		for (const region of this.#hub.regions()) {
			if (isWhole(region)) this.#awaySince.delete(region.name);
			else if (!this.#awaySince.has(region.name)) this.#awaySince.set(region.name, now);
		}
	}

	/** All regions that the installation has; one that is not among them is lost. */
	all(): Map<string, { connected: boolean; lost: boolean }> {
		const now = this.#clock.monotonic();
		return new Map(
			this.#hub.regions().map((region) => {
				const since = this.#awaySince.get(region.name);
				const long = since !== undefined && now - since >= REGION_LOST_AFTER_MS;
				return [region.name, { connected: isWhole(region), lost: !region.connected || long }];
			}),
		);
	}

	/** In how many milliseconds the next region that is away becomes lost; null when none will. */
	nextLossMs(): number | null {
		const now = this.#clock.monotonic();
		const ahead = [...this.#awaySince.values()].map((since) => since + REGION_LOST_AFTER_MS - now).filter((ms) => ms > 0);
		return ahead.length === 0 ? null : Math.min(...ahead);
	}
}

function isWhole(region: RegionView): boolean {
	return region.connected && region.agents.length > 0 && region.edges.length > 0;
}

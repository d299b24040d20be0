import type { ServerState } from '#wire/region.ts';
import type { ServerView } from './ports.ts';

/** The servers of the regions, as depots tell who is there and agents what they have. */
export class KnownServers {
	/** Region → server → what is known of it. */
	readonly #byRegion = new Map<string, Map<string, ServerView>>();

	list(region?: string): ServerView[] {
		if (region !== undefined) return [...(this.#byRegion.get(region)?.values() ?? [])];
		return [...this.#byRegion.values()].flatMap((servers) => [...servers.values()]);
	}

	/** These are connected now, and no others. false: that was known. */
	present(region: string, names: readonly string[], now: number): boolean {
		const servers = this.#of(region);
		let changed = false;
		for (const server of names) {
			if (servers.get(server)?.connected) continue;
			servers.set(server, { server, region, connected: true, lostSinceMs: null, state: servers.get(server)?.state ?? null });
			changed = true;
		}
		for (const view of servers.values()) {
			if (!view.connected || names.includes(view.server)) continue;
			servers.set(view.server, { ...view, connected: false, lostSinceMs: now });
			changed = true;
		}
		return changed;
	}

	/** What one says of itself counts for the regions that it was heard in. */
	said(state: ServerState, region: string, now: number, wallNow: number): void {
		const servers = this.#of(region);
		const before = servers.get(state.server);
		const seen = before ?? { server: state.server, region, connected: false, lostSinceMs: now };
		servers.set(state.server, { ...seen, state, clockOffMs: state.at - wallNow });
	}

	/** It was removed. */
	forget(server: string): void {
		for (const servers of this.#byRegion.values()) servers.delete(server);
	}

	#of(region: string): Map<string, ServerView> {
		const servers = this.#byRegion.get(region) ?? new Map<string, ServerView>();
		this.#byRegion.set(region, servers);
		return servers;
	}
}

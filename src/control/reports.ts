import { compareReports, compareVersions, upToDate, wantKey } from '#wire/region.ts';
import type { Instance, Known, ReportOrder, Run, UpMessage, Version } from '#wire/region.ts';

/**
 * What the regions said last: agents of their instances, edges of what they obey. A region may have several depots, and
 * each passes on what it hears when it hears it, so that what was said first may come last.
 */
export class Reports {
	/** Region/app/environment → server → what its agent last said. One that has none any more stays, lest an older report revive them. */
	readonly #said = new Map<string, Map<string, Said>>();
	/** Region/app/environment → edge → the newest version that it obeys. */
	readonly #obeyed = new Map<string, Map<string, Version>>();

	/** false: it is known, or older than what is. */
	instances(server: string, group: Group): boolean {
		const key = wantKey(group);
		const servers = this.#said.get(key) ?? new Map<string, Said>();
		const known = servers.get(server);
		const newer = compareReports(group, known) ?? 1;
		if (newer < 0) return false;
		this.#said.set(key, servers);
		const { instances, obeys, order } = group;
		// Without an order nothing tells what is older: an agent of the version before, or one that its depot gave up.
		if (instances.length === 0 && !order) servers.delete(server);
		else servers.set(server, { instances, obeys, order, stale: false });
		if (servers.size === 0) this.#said.delete(key);
		return newer > 0 || known?.stale === true;
	}

	/** Those that count where these are to run. */
	counting(of: Place, runs: readonly Run[]): Instance[] {
		return [...(this.#said.get(wantKey(of))?.values() ?? [])].flatMap((said) => upToDate(said, runs));
	}

	byServer(of: Place): { server: string; instance: Instance; obeys: Version | undefined }[] {
		const servers = [...(this.#said.get(wantKey(of)) ?? [])];
		return servers.flatMap(([server, { instances, obeys }]) => instances.map((instance) => ({ server, instance, obeys })));
	}

	/** true: some of it is news. */
	applied(edge: string, items: readonly Known[]): boolean {
		let any = false;
		for (const item of items) {
			const edges = this.#obeyed.get(wantKey(item)) ?? new Map<string, Version>();
			this.#obeyed.set(wantKey(item), edges);
			const before = edges.get(edge);
			if (before && compareVersions(item, before) <= 0) continue;
			edges.set(edge, { epoch: item.epoch, version: item.version });
			any = true;
		}
		return any;
	}

	/** The oldest version that one of these edges obeys; null when there is none or one has said nothing. */
	oldestApplied(of: Place, edges: readonly string[]): Version | null {
		const versions = this.#obeyed.get(wantKey(of));
		let oldest: Version | null = null;
		for (const edge of edges) {
			const version = versions?.get(edge);
			if (!version) return null;
			if (!oldest || compareVersions(version, oldest) < 0) oldest = version;
		}
		return oldest;
	}

	/** An edge that is gone: back again it says anew what it obeys. */
	forgetEdge(region: string, edge: string): void {
		for (const [key, edges] of this.#obeyed) if (key.startsWith(`${region}/`)) edges.delete(edge);
	}

	/** Nobody has spoken for the region for a while: what is not said again soon is no more. */
	markStale(region: string): void {
		for (const [key, servers] of this.#said) {
			if (key.startsWith(`${region}/`)) for (const said of servers.values()) said.stale = true;
		}
	}

	/** What was not said again, in these regions; returns where something is gone. */
	dropStale(regions: readonly string[]): Place[] {
		return this.#drop((said, _server, region) => said.stale && regions.includes(region));
	}

	/** The server was removed. */
	forgetServer(name: string): Place[] {
		return this.#drop((_said, server) => server === name);
	}

	#drop(isGone: (said: Said, server: string, region: string) => boolean): Place[] {
		const places: Place[] = [];
		for (const [key, servers] of this.#said) {
			const [region = '', app = '', environment = ''] = key.split('/');
			const gone = [...servers].filter(([server, said]) => isGone(said, server, region)).map(([server]) => server);
			for (const server of gone) servers.delete(server);
			if (servers.size === 0) this.#said.delete(key);
			if (gone.length > 0) places.push({ region, app, environment });
		}
		return places;
	}
}

export type Place = { region: string; app: string; environment: string };
type Group = Extract<UpMessage, { type: 'instances' }>['groups'][number];

interface Said {
	instances: Instance[];
	obeys: Version | undefined;
	order: ReportOrder | undefined;
	stale: boolean;
}

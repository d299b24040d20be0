import type { Log } from '#log/log.ts';
import { compareVersions, instancesOn, wantKey } from '#wire/region.ts';
import type { Instance, Known, ReleaseSpec, UpMessage, Want, Wants } from '#wire/region.ts';

/**
 * What a depot knows of its regions: the newest want of each (region, app, environment) with the releases these name,
 * and what the agents last said of their instances. Kept on disk, so that a region's programs agree while control is away.
 */

/** Groups of instances a frame; the replay of a large region is several frames. */
const GROUPS_PER_FRAME = 1_000;

export type Group = Extract<UpMessage, { type: 'instances' }>['groups'][number];

export interface BoardState {
	wants: Want[];
	releases: ReleaseSpec[];
	groups: { server: string; group: Group }[];
}

export class Board {
	private readonly wants = new Map<string, Want>();
	private readonly releases = new Map<string, ReleaseSpec>();
	private readonly groups = new Map<string, { server: string; group: Group }>();
	private readonly log: Log;

	constructor(log: Log, state?: BoardState) {
		this.log = log;
		for (const want of state?.wants ?? []) this.wants.set(wantKey(want), want);
		for (const release of state?.releases ?? []) this.releases.set(releaseKey(release.app, release.release), release);
		for (const said of state?.groups ?? []) this.groups.set(groupKey(said.server, said.group), said);
	}

	state(): BoardState {
		return { wants: [...this.wants.values()], releases: [...this.releases.values()], groups: [...this.groups.values()] };
	}

	/** Takes over what is newer, and returns it; an older want is refused and logged. */
	take(message: Wants): Want[] {
		const taken: Want[] = [];
		for (const want of message.wants) {
			const held = this.wants.get(wantKey(want));
			const order = held ? compareVersions(want, held) : 1;
			if (order < 0) this.log.warn('want.older_refused', { want: wantKey(want), held: versionOf(held!), sent: versionOf(want) });
			if (order <= 0) continue;
			this.wants.set(wantKey(want), want);
			taken.push(want);
		}
		for (const release of message.releases) this.releases.set(releaseKey(release.app, release.release), release);
		if (taken.length > 0) this.forgetReleases(new Set(taken.map((want) => want.app)));
		return taken;
	}

	/** What of these regions is newer than `known`, with the releases it names; null when nothing is. */
	newer(regions: readonly string[], known: readonly Known[]): Wants | null {
		const held = new Map(known.map((item) => [wantKey(item), item]));
		const wants = [...this.wants.values()].filter((want) => {
			const theirs = held.get(wantKey(want));
			return regions.includes(want.region) && (theirs === undefined || compareVersions(want, theirs) > 0);
		});
		return wants.length === 0 ? null : { type: 'wants', wants, releases: this.releasesOf(wants), gift: null };
	}

	known(): Known[] {
		return [...this.wants.values()].map(({ region, app, environment, epoch, version }) => ({ region, app, environment, epoch, version }));
	}

	/** The releases that the wants of these regions name. */
	named(regions: readonly string[]): ReleaseSpec[] {
		return this.releasesOf([...this.wants.values()].filter((want) => regions.includes(want.region)));
	}

	/** Those of them that run on this server: all that its agent may read. */
	placed(regions: readonly string[], server: string): ReleaseSpec[] {
		return this.releasesFor(
			server,
			[...this.wants.values()].filter((want) => regions.includes(want.region)),
		);
	}

	releasesFor(server: string, wants: readonly Want[]): ReleaseSpec[] {
		const here = (want: Want) => want.run.filter((run) => instancesOn(server, run) > 0);
		const keys = new Set(wants.flatMap((want) => here(want).map(({ release }) => releaseKey(want.app, release))));
		return [...keys].flatMap((key) => this.releases.get(key) ?? []);
	}

	/** Servers that said that they run this release there. */
	running(of: { region: string; app: string; environment: string }, release: number): Set<string> {
		const theirs = [...this.groups.values()].filter(({ group }) => wantKey(group) === wantKey(of));
		return new Set(theirs.filter(({ group }) => group.instances.some((one) => one.release === release)).map(({ server }) => server));
	}

	/** Servers whose agents said something of instances. */
	servers(): Set<string> {
		return new Set([...this.groups.values()].map(({ server }) => server));
	}

	releasesOf(wants: readonly Want[]): ReleaseSpec[] {
		const keys = new Set(wants.flatMap((want) => namedBy(want).map((number) => releaseKey(want.app, number))));
		return [...keys].flatMap((key) => this.releases.get(key) ?? []);
	}

	report(server: string, groups: readonly Group[]): void {
		for (const group of groups) {
			if (group.instances.length === 0) this.groups.delete(groupKey(server, group));
			else this.groups.set(groupKey(server, group), { server, group });
		}
	}

	/** What the agents last said of these regions, as they would say it. */
	replay(regions: readonly string[]): Extract<UpMessage, { type: 'instances' }>[] {
		const byServer = Map.groupBy(this.groups.values(), (said) => said.server);
		return [...byServer].flatMap(([server, all]) => {
			const groups = all.map(({ group }) => group).filter((group) => regions.includes(group.region));
			return chunks(groups, GROUPS_PER_FRAME).map((part) => ({ type: 'instances' as const, server, groups: part }));
		});
	}

	/** Groups of a server that it has not named in `named` since it came back: nothing of them lives any more. */
	unnamed(server: string, regions: readonly string[], named: ReadonlySet<string>): Group[] {
		return [...this.groups.values()]
			.filter((said) => said.server === server && regions.includes(said.group.region) && !named.has(wantKey(said.group)))
			.map(({ group }) => ({ ...group, instances: [] as Instance[] }));
	}

	private forgetReleases(apps: ReadonlySet<string>): void {
		const named = new Set<string>();
		for (const want of this.wants.values()) for (const number of namedBy(want)) named.add(releaseKey(want.app, number));
		for (const [key, release] of this.releases) if (apps.has(release.app) && !named.has(key)) this.releases.delete(key);
	}
}

function namedBy(want: Want): number[] {
	const { primary, candidate } = want.pointer;
	return [...(primary === null ? [] : [primary]), ...(candidate ? [candidate.release] : []), ...want.run.map((run) => run.release)];
}

function releaseKey(app: string, release: number): string {
	return `${app}/${release}`;
}

function groupKey(server: string, group: Group): string {
	return `${server} ${wantKey(group)}`;
}

function versionOf({ epoch, version }: { epoch: number; version: number }): string {
	return `${epoch}.${version}`;
}

function chunks<T>(items: readonly T[], size: number): T[][] {
	return Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size));
}

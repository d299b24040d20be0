import type { Clock, Timer } from '#clock/clock.ts';
import { randomId } from '#digest/digest.ts';
import type { Log } from '#log/log.ts';
import type { LinkHandlers, ServerLink } from '#wire/accept.ts';
import { WIRE_VERSION, compareVersions, upToDate, wantKey } from '#wire/region.ts';
import type { Gift, Instance, Known, Probed, ReleaseSpec, ServerState, UpMessage, Version, Want } from '#wire/region.ts';
import { Follows, type LogsQuery } from './follows.ts';
import { KnownServers } from './known-servers.ts';
import type { HubEvent, RegionHub, RegionView, ServerView } from './ports.ts';

/**
 * The regions as control sees them: one link a depot, everything they said in memory. It also holds what the database
 * wants of them, so that a depot that is back gets what is newer even while the database is away.
 */

/** A depot that restarts is back within this; a silent one (15 s, by the link) is lost at once. */
export const GONE_GRACE_MS = 2_000;
/** After control's own start: depots wait up to 5 s between attempts. */
const START_GRACE_MS = 6_000;
/** A depot that is back says all it knows at once; what it has not said this long after is no more. */
const UNSAID_GONE_AFTER_MS = 1_000;
const PROBE_LIMIT_MS = 15_000;

type Place = { region: string; app: string; environment: string };

interface Said {
	instances: Instance[];
	obeys: Version | undefined;
	stale: boolean;
}

interface Region {
	link: ServerLink | null;
	/** Until then a region without a link is not lost. */
	grace: Timer | null;
	lost: boolean;
	lastSeenAt: number | null;
	agents: string[];
	edges: { server: string; name: string }[];
}

export class ProbeFailed extends Error {
	readonly code = 'probe_failed';
}

export interface HubOptions {
	installation: string;
	regions: readonly string[];
	/** Everything wanted now, from the database. @throws when it is away: then what the hub holds is said. */
	wanted(): Promise<{ wants: Want[]; releases: ReleaseSpec[] }>;
	log: Log;
	clock: Clock;
}

export class Hub implements RegionHub {
	private readonly byName = new Map<string, Region>();
	private readonly wants = new Map<string, Want>();
	private readonly releases = new Map<string, ReleaseSpec>();
	/** Region/app/environment → server → what its agent last said. */
	private readonly said = new Map<string, Map<string, Said>>();
	/** Region/app/environment → edge → what it obeys. */
	private readonly obeyed = new Map<string, Map<string, Version>>();
	private readonly probes = new Map<string, { link: ServerLink; settle: (answer: Probed | Error) => void }>();
	private readonly listeners = new Set<(event: HubEvent) => void>();
	private readonly follows: Follows;
	private readonly known = new KnownServers();
	private readonly of: HubOptions;

	constructor(options: HubOptions) {
		this.of = options;
		this.follows = new Follows(options.clock);
		for (const name of options.regions) {
			const region: Region = { link: null, grace: null, lost: false, lastSeenAt: null, agents: [], edges: [] };
			this.byName.set(name, region);
			this.startGrace(name, region, START_GRACE_MS);
		}
	}

	/** Reads what is wanted from the database; called at start and whenever a depot is back. */
	async refresh(): Promise<void> {
		const { wants, releases } = await this.of.wanted();
		for (const release of releases) this.releases.set(releaseKey(release.app, release.release), release);
		for (const want of wants) this.hold(want);
	}

	regions(): RegionView[] {
		return [...this.byName].map(([name, region]) => ({
			name,
			connected: !region.lost,
			lastSeenAt: this.seenAt(region),
			agents: region.agents,
			edges: region.edges.map((edge) => `${edge.server}/${edge.name}`),
		}));
	}

	servers(): ServerView[] {
		return this.known.list();
	}

	wanted(): Iterable<Want> {
		return this.wants.values();
	}

	send(wants: Want[], releases: ReleaseSpec[], gift: Gift | null): void {
		for (const release of releases) this.releases.set(releaseKey(release.app, release.release), release);
		for (const want of wants) this.hold(want);
		this.forgetReleases(new Set(wants.map((want) => want.app)));
		const tail = `,"releases":${JSON.stringify(releases)},"gift":${JSON.stringify(gift)}}`;
		const byLink = Map.groupBy(wants, (want) => this.byName.get(want.region)?.link ?? null);
		for (const [link, theirs] of byLink) link?.sendFrame(`{"type":"wants","wants":${JSON.stringify(theirs)}${tail}`);
	}

	instances(of: Place): Instance[] {
		const runs = this.wants.get(wantKey(of))?.run ?? [];
		return [...(this.said.get(wantKey(of))?.values() ?? [])].flatMap((said) => upToDate(said, runs));
	}

	/** The same, with the servers they run on. */
	instancesByServer(of: Place): { server: string; instance: Instance; obeys: Version | undefined }[] {
		const servers = [...(this.said.get(wantKey(of)) ?? [])];
		return servers.flatMap(([server, { instances, obeys }]) => instances.map((instance) => ({ server, instance, obeys })));
	}

	applied(of: Place): Version | null {
		const edges = this.byName.get(of.region)?.edges ?? [];
		const versions = this.obeyed.get(wantKey(of));
		let oldest: Version | null = null;
		for (const edge of edges) {
			const version = versions?.get(`${edge.server}/${edge.name}`);
			if (!version) return null;
			if (!oldest || compareVersions(version, oldest) < 0) oldest = version;
		}
		return oldest;
	}

	probe(ask: Place & { releases: number[]; discard: number; count: number }): Promise<Probed> {
		const link = this.byName.get(ask.region)?.link;
		if (!link) return Promise.reject(new ProbeFailed(`region ${ask.region} is not connected`));
		const id = randomId(12);
		return new Promise((resolve, reject) => {
			const limit = this.of.clock.after(PROBE_LIMIT_MS, () => settle(new ProbeFailed(`${ask.region} did not answer the probe in time`)));
			const settle = (answer: Probed | Error) => {
				limit.cancel();
				this.probes.delete(id);
				if (answer instanceof Error) reject(answer);
				else if (answer.error !== null) reject(new ProbeFailed(answer.error));
				else resolve(answer);
			};
			this.probes.set(id, { link, settle });
			const { region, app, environment, releases, discard, count } = ask;
			if (!link.send({ type: 'probe', id, region, app, environment, releases, discard, count })) {
				settle(new ProbeFailed(`the link to ${region} broke`));
			}
		});
	}

	/** Log lines of these regions as they come. `onEnd` once no more will. Returns the way to stop. */
	logs(query: LogsQuery): () => void {
		return this.follows.start(query, (region) => this.byName.get(region)?.link ?? null);
	}

	subscribe(listener: (event: HubEvent) => void): () => void {
		this.listeners.add(listener);
		return () => this.listeners.delete(listener);
	}

	/** A depot said hello. */
	onLink(link: ServerLink): LinkHandlers {
		this.of.log.info('depot.up', { server: link.hello.server, regions: link.hello.regions.length });
		link.send({ type: 'welcome', wire: WIRE_VERSION, installation: this.of.installation });
		const back: string[] = [];
		for (const name of link.hello.regions) {
			const region = this.byName.get(name);
			if (!region) continue;
			if (region.link && region.link !== link) region.link.close('the depot connected again');
			if (region.lost) back.push(name);
			region.grace?.cancel();
			Object.assign(region, { link, grace: null, lost: false });
			this.markStale(name);
		}
		void this.catchUp(link);
		const unsaid = this.of.clock.after(UNSAID_GONE_AFTER_MS, () => this.dropStale(link), { idle: true });
		for (const region of back) this.emit({ type: 'back', region });
		return {
			onMessage: (message) => this.fromDepot(link, message),
			onClosed: (reason) => {
				unsaid.cancel();
				this.onClosed(link, reason);
			},
		};
	}

	close(): void {
		for (const region of this.byName.values()) region.grace?.cancel();
		for (const { settle } of this.probes.values()) settle(new ProbeFailed('control is stopping'));
		this.follows.close();
	}

	/** Reads what is wanted again, and tells every region all of it: for after a recovery. */
	async refreshAll(): Promise<void> {
		await this.refresh();
		const wants = [...this.wants.values()];
		this.send(wants, this.releasesOf(wants), null);
	}

	/** What a depot that is back has missed, at once from memory, then from the database; and what it knows that the database does not. */
	private async catchUp(link: ServerLink): Promise<void> {
		const theirs = new Map(link.hello.known.map((item) => [wantKey(item), item]));
		this.sendNewer(link, theirs);
		try {
			await this.refresh();
		} catch (error) {
			this.of.log.warn('wanted.from_memory', { error });
		}
		this.sendNewer(link, theirs);
		for (const item of link.hello.known) {
			const want = this.wants.get(wantKey(item));
			if (!want || compareVersions(item, want) > 0) this.emit({ type: 'ahead', ...item });
		}
	}

	/** `theirs`: what the depot holds; what is sent is added. */
	private sendNewer(link: ServerLink, theirs: Map<string, Known>): void {
		const newer: Want[] = [];
		for (const want of this.wants.values()) {
			const held = theirs.get(wantKey(want));
			if (!link.hello.regions.includes(want.region) || (held && compareVersions(want, held) <= 0)) continue;
			newer.push(want);
			theirs.set(wantKey(want), want);
		}
		if (newer.length > 0) link.send({ type: 'wants', wants: newer, releases: this.releasesOf(newer), gift: null });
	}

	private fromDepot(link: ServerLink, message: UpMessage): void {
		switch (message.type) {
			case 'presence':
				return this.presence(link, message.regions);
			case 'instances':
				return this.instancesSaid(link, message);
			case 'applied':
				return this.appliedSaid(link, `${message.server}/${message.edge}`, message.items);
			case 'probed':
				return this.probes.get(message.id)?.settle(message);
			case 'logLines':
				return this.follows.lines(message);
			case 'stats': {
				const rows = message.rows.filter((row) => link.hello.regions.includes(row.region));
				return this.emit({ type: 'stats', stats: { ...message, rows } });
			}
			case 'serverState':
				return this.serverSaid(link, message);
			case 'hello':
				return;
		}
	}

	private presence(link: ServerLink, said: Extract<UpMessage, { type: 'presence' }>['regions']): void {
		for (const { region: name, agents, edges } of said) {
			const region = this.byName.get(name);
			if (!region || region.link !== link) continue;
			const there = new Set(edges.map((edge) => `${edge.server}/${edge.name}`));
			region.agents = agents.map(({ server }) => server);
			// An edge that comes back says anew what it obeys.
			for (const edge of region.edges.map(({ server, name: edgeName }) => `${server}/${edgeName}`)) {
				if (!there.has(edge)) this.forgetEdge(name, edge);
			}
			region.edges = edges;
			this.emit({ type: 'presence', region: name });
			this.noteServers(name, region.agents);
		}
	}

	private serverSaid(link: ServerLink, message: ServerState): void {
		const mine = message.regions.filter((region) => link.hello.regions.includes(region));
		for (const region of mine) {
			this.known.said(message, region, this.of.clock.monotonic());
			this.emit({ type: 'servers', region });
		}
	}

	private noteServers(region: string, there: readonly string[]): void {
		if (this.known.present(region, there, this.of.clock.monotonic())) this.emit({ type: 'servers', region });
	}

	private instancesSaid(link: ServerLink, message: Extract<UpMessage, { type: 'instances' }>): void {
		for (const { region, app, environment, obeys, instances } of message.groups) {
			if (!link.hello.regions.includes(region)) continue;
			const key = wantKey({ region, app, environment });
			const servers = this.said.get(key) ?? new Map<string, Said>();
			this.said.set(key, servers);
			if (instances.length === 0) servers.delete(message.server);
			else servers.set(message.server, { instances, obeys, stale: false });
			if (servers.size === 0) this.said.delete(key);
			this.emit({ type: 'instances', region, app, environment });
		}
	}

	private appliedSaid(link: ServerLink, edge: string, items: readonly Known[]): void {
		const mine = items.filter((item) => link.hello.regions.includes(item.region));
		for (const item of mine) {
			const key = wantKey(item);
			const edges = this.obeyed.get(key) ?? new Map<string, Version>();
			this.obeyed.set(key, edges);
			edges.set(edge, { epoch: item.epoch, version: item.version });
		}
		if (mine.length > 0) this.emit({ type: 'applied', items: mine });
	}

	private onClosed(link: ServerLink, reason: string): void {
		this.of.log.warn('depot.down', { server: link.hello.server, reason });
		for (const { link: asked, settle } of this.probes.values()) {
			if (asked === link) settle(new ProbeFailed('the link to the region broke'));
		}
		this.follows.linkGone(link);
		for (const [name, region] of this.byName) {
			if (region.link !== link) continue;
			region.lastSeenAt = this.seenAt(region);
			region.link = null;
			if (reason === 'silent') this.lose(name, region);
			else this.startGrace(name, region, GONE_GRACE_MS);
		}
	}

	private startGrace(name: string, region: Region, graceMs: number): void {
		region.grace = this.of.clock.after(graceMs, () => this.lose(name, region), { idle: true });
	}

	private lose(name: string, region: Region): void {
		Object.assign(region, { grace: null, lost: true, agents: [], edges: [] });
		this.emit({ type: 'lost', region: name });
		this.noteServers(name, []);
	}

	private seenAt(region: Region): number | null {
		if (!region.link) return region.lastSeenAt;
		return Math.round(this.of.clock.now() - (this.of.clock.monotonic() - region.link.heardAt()));
	}

	private markStale(region: string): void {
		for (const [key, servers] of this.said) {
			if (key.startsWith(`${region}/`)) for (const said of servers.values()) said.stale = true;
		}
	}

	private dropStale(link: ServerLink): void {
		for (const [key, servers] of this.said) {
			const [region = '', app = '', environment = ''] = key.split('/');
			if (!link.hello.regions.includes(region)) continue;
			const gone = [...servers].filter(([, said]) => said.stale).map(([server]) => server);
			for (const server of gone) servers.delete(server);
			if (servers.size === 0) this.said.delete(key);
			if (gone.length > 0) this.emit({ type: 'instances', region, app, environment });
		}
	}

	private forgetEdge(region: string, edge: string): void {
		for (const [key, edges] of this.obeyed) if (key.startsWith(`${region}/`)) edges.delete(edge);
	}

	private hold(want: Want): void {
		const held = this.wants.get(wantKey(want));
		if (!held || compareVersions(want, held) > 0) this.wants.set(wantKey(want), want);
	}

	private forgetReleases(apps: ReadonlySet<string>): void {
		const named = new Set([...this.wants.values()].flatMap((want) => namedBy(want).map((number) => releaseKey(want.app, number))));
		for (const [key, release] of this.releases) if (apps.has(release.app) && !named.has(key)) this.releases.delete(key);
	}

	private releasesOf(wants: readonly Want[]): ReleaseSpec[] {
		const keys = new Set(wants.flatMap((want) => namedBy(want).map((number) => releaseKey(want.app, number))));
		return [...keys].flatMap((key) => this.releases.get(key) ?? []);
	}

	private emit(event: HubEvent): void {
		for (const listener of this.listeners) {
			try {
				listener(event);
			} catch (error) {
				this.of.log.error('hub.listener_failed', { type: event.type, error });
			}
		}
	}
}

/** The releases that a want names. */
export function namedBy({ pointer, run }: Want): number[] {
	const { primary, candidate } = pointer;
	return [...(primary === null ? [] : [primary]), ...(candidate ? [candidate.release] : []), ...run.map((one) => one.release)];
}

function releaseKey(app: string, release: number): string {
	return `${app}/${release}`;
}

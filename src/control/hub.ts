import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { LinkHandlers, ServerLink } from '#wire/accept.ts';
import { WIRE_VERSION, compareVersions, wantKey } from '#wire/region.ts';
import type {
	Gift,
	Instance,
	Known,
	Probed,
	ReleaseSpec,
	ServerState,
	Servers,
	Stats,
	TaskOrder,
	TaskStop,
	UpMessage,
	Version,
	Want,
} from '#wire/region.ts';
import { Follows, type LogsQuery } from './follows.ts';
import { HeldAsks } from './held.ts';
import { KnownServers } from './known-servers.ts';
import type { HubEvent, RegionHub, RegionView, ServerView } from './ports.ts';
import { ProbeFailed, Probes, type ProbeAsk } from './probes.ts';
import { presentIn, RegionLinks } from './region-links.ts';
import { Reports, type Place } from './reports.ts';

/**
 * The regions as control sees them: the links of all their depots, everything they said in memory. It also holds what the
 * database wants of them, so that a depot that is back gets what is newer even while the database is away.
 */

/** A depot that is back says all it knows at once; what it has not said this long after is no more. */
const UNSAID_GONE_AFTER_MS = 1_000;
/** After the database could not be asked. */
const CATCH_UP_AGAIN_MS = 1_000;
/** The same second of an edge comes by every depot that it has a link to. */
const SECONDS_REMEMBERED = 16;

export interface HubOptions {
	installation: string;
	regions: readonly string[];
	/** Everything wanted now, from the database. @throws when it is away: then what the hub holds is said. */
	wanted(): Promise<{ wants: Want[]; releases: ReleaseSpec[] }>;
	/** What was removed so long ago that it is not among what is wanted any more; absent: nothing. */
	forgotten?(): Promise<{ epoch: number; versions: ReadonlyMap<string, number> }>;
	/** Whom programs of these regions may trust; absent: nobody has joined. */
	servers?(regions: readonly string[]): Servers;
	log: Log;
	clock: Clock;
}

const NOWHERE = { primary: null, candidate: null, hold: null };

export class Hub implements RegionHub {
	private readonly byName = new Map<string, RegionLinks>();
	private readonly wants = new Map<string, Want>();
	private readonly releases = new Map<string, ReleaseSpec>();
	private readonly reports = new Reports();
	private readonly probes: Probes;
	private readonly follows: Follows;
	private reading: Promise<void> | null = null;
	private readingNext: Promise<void> | null = null;
	private readonly heldAsks: HeldAsks;
	private readonly known = new KnownServers();
	/** Names of the servers that joined. */
	private joined: ReadonlySet<string> = new Set();
	/** Edge → seconds of which it was heard what it counted. */
	private readonly seconds = new Map<string, number[]>();
	private readonly listeners = new Set<(event: HubEvent) => void>();
	private readonly of: HubOptions;

	constructor(options: HubOptions) {
		this.of = options;
		this.probes = new Probes(options.clock);
		this.follows = new Follows(options.clock);
		this.heldAsks = new HeldAsks(options.clock);
		for (const name of options.regions) this.open(name);
	}

	/**
	 * Reads what is wanted from the database; called at start and whenever a depot is back. When thousands are at once,
	 * those that come while one reading is under way share the next: it began after each of them asked.
	 */
	refresh(): Promise<void> {
		if (!this.reading) return (this.reading = this.read().finally(() => (this.reading = null)));
		return (this.readingNext ??= this.reading
			.catch(() => undefined)
			.then(() => {
				this.readingNext = null;
				return this.refresh();
			}));
	}

	private async read(): Promise<void> {
		const { wants, releases } = await this.of.wanted();
		for (const release of releases) this.releases.set(releaseKey(release.app, release.release), release);
		for (const want of wants) this.hold(want);
	}

	regions(): RegionView[] {
		return [...this.byName].map(([name, region]) => ({
			name,
			connected: !region.lost,
			// Asked for by people only, and a look at each link.
			get lastSeenAt() {
				return region.seenAt();
			},
			agents: region.agents(),
			edges: region.edges(),
		}));
	}

	servers(region?: string): ServerView[] {
		return this.known.list(region);
	}

	wanted(): Iterable<Want> {
		return this.wants.values();
	}

	/** Servers joined or were removed: these are the regions and the joined servers now, and every depot is told whom to trust. */
	serversChanged(regions: readonly string[], names: ReadonlySet<string>): void {
		for (const name of regions) if (!this.byName.has(name)) this.open(name);
		for (const [name, region] of this.byName) if (!regions.includes(name)) this.shut(name, region);
		for (const name of this.joined) if (!names.has(name)) this.forgetServer(name);
		this.joined = names;
		const frames = new Map<string, string>();
		for (const link of this.links()) {
			const set = link.hello.regions.join(' ');
			const frame = frames.get(set) ?? JSON.stringify(this.of.servers?.(link.hello.regions));
			frames.set(set, frame);
			if (this.of.servers) link.sendFrame(frame);
		}
	}

	send(wants: Want[], releases: ReleaseSpec[], gift: Gift | null): void {
		for (const release of releases) this.releases.set(releaseKey(release.app, release.release), release);
		for (const want of wants) this.hold(want);
		this.forgetReleases(new Set(wants.map((want) => want.app)));
		const tail = `,"releases":${JSON.stringify(releases)},"gift":${JSON.stringify(gift)}}`;
		const byLink = new Map<ServerLink, Want[]>();
		for (const want of wants) {
			for (const link of this.byName.get(want.region)?.links() ?? []) {
				const theirs = byLink.get(link);
				if (theirs) theirs.push(want);
				else byLink.set(link, [want]);
			}
		}
		// Depots of the same regions get the same frame.
		const frames = new Map<string, string>();
		for (const [link, theirs] of byLink) {
			const set = theirs.map(wantKey).join(' ');
			const frame = frames.get(set) ?? `{"type":"wants","wants":${JSON.stringify(theirs)}${tail}`;
			frames.set(set, frame);
			link.sendFrame(frame);
		}
	}

	instances(of: Place): Instance[] {
		return this.reports.counting(of, this.wants.get(wantKey(of))?.run ?? []);
	}

	/** All of them, with the servers they run on. */
	instancesByServer(of: Place): { server: string; instance: Instance; obeys: Version | undefined }[] {
		return this.reports.byServer(of);
	}

	applied(of: Place): Version | null {
		return this.reports.oldestApplied(of, this.byName.get(of.region)?.edges() ?? []);
	}

	probe(ask: ProbeAsk): Promise<Probed> {
		const link = this.byName.get(ask.region)?.asking();
		return link ? this.probes.ask(ask, link) : Promise.reject(new ProbeFailed(`region ${ask.region} is not connected`));
	}

	/** Fire and forget: it is said again while somebody waits for it. */
	task(order: TaskOrder | TaskStop): void {
		for (const link of this.byName.get(order.region)?.links() ?? []) link.send(order);
	}

	/** Log lines of these regions as they come. `onEnd` once no more will. Returns the way to stop. */
	logs(query: LogsQuery): () => void {
		return this.follows.start(query, (region) => this.byName.get(region)?.listening() ?? null);
	}

	subscribe(listener: (event: HubEvent) => void): () => void {
		this.listeners.add(listener);
		return () => this.listeners.delete(listener);
	}

	/** A depot said hello. */
	onLink(link: ServerLink): LinkHandlers {
		this.of.log.info('depot.up', { server: link.hello.server, regions: link.hello.regions.length });
		link.send({ type: 'welcome', wire: WIRE_VERSION, installation: this.of.installation });
		const servers = this.of.servers?.(link.hello.regions);
		if (servers) link.send(servers);
		const back = link.hello.regions.filter((name) => this.join(name, link));
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
		for (const region of this.byName.values()) region.close();
		this.probes.close();
		this.follows.close();
	}

	/** What the regions that can be reached hold of an app. */
	held(app: string): Promise<{ wants: Want[]; releases: ReleaseSpec[] }> {
		return this.heldAsks.ask(app, this.links());
	}

	/** Reads what is wanted again, and tells every region all of it: for after a recovery. */
	async refreshAll(): Promise<void> {
		await this.refresh();
		const wants = [...this.wants.values()];
		this.send(wants, this.releasesOf(wants), null);
	}

	private open(name: string): void {
		const region = new RegionLinks(this.of.clock, () => {
			this.emit({ type: 'lost', region: name });
			this.noteServers(name, []);
		});
		this.byName.set(name, region);
	}

	/** The last server of the region was removed. */
	private shut(name: string, region: RegionLinks): void {
		region.close();
		this.byName.delete(name);
		this.emit({ type: 'lost', region: name });
	}

	/** true: the region was lost until now. */
	private join(name: string, link: ServerLink): boolean {
		const region = this.byName.get(name);
		if (!region) return false;
		const { lost } = region;
		region.joined(link)?.close('the depot connected again');
		// What other depots of the region say goes on being true.
		if (region.count === 1) this.reports.markStale(name);
		return lost;
	}

	/** What a depot that is back has missed, at once from memory, then from the database; and what it knows that the database does not. */
	private async catchUp(link: ServerLink): Promise<void> {
		const theirs = new Map(link.hello.known.map((item) => [wantKey(item), item]));
		this.sendNewer(link, theirs);
		try {
			await this.refresh();
			await this.recallRemoved(link);
		} catch (error) {
			this.of.log.warn('wanted.from_memory', { error });
			// What another control wrote meanwhile is not in this one's memory: whether the region is ahead can't be told yet.
			this.of.clock.after(CATCH_UP_AGAIN_MS, () => this.links().has(link) && void this.catchUp(link), { idle: true });
			return;
		}
		this.sendNewer(link, theirs);
		for (const item of link.hello.known) {
			const want = this.wants.get(wantKey(item));
			if (want && compareVersions(item, want) > 0) this.emit({ type: 'ahead', ...item });
		}
	}

	/** A depot that was away when an app was removed, and for so long since that nothing but how far it had come is remembered. */
	private async recallRemoved(link: ServerLink): Promise<void> {
		const unknown = link.hello.known.filter((item) => !this.wants.has(wantKey(item)));
		if (unknown.length === 0) return;
		const { epoch, versions } = (await this.of.forgotten?.()) ?? { epoch: 0, versions: new Map<string, number>() };
		const gone: Want[] = [];
		for (const { region, app, environment, ...held } of unknown) {
			const last = { epoch, version: versions.get(app) ?? 0 };
			const older = compareVersions(held, last);
			if (last.version === 0 || older > 0) this.emit({ type: 'ahead', region, app, environment, ...held });
			else if (older < 0) gone.push({ region, app, environment, ...last, deployment: null, pointer: NOWHERE, run: [], removed: true });
		}
		if (gone.length > 0) link.send({ type: 'wants', wants: gone, releases: [], gift: null });
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
				return this.probes.answered(message);
			case 'logLines':
				return this.follows.lines(message);
			case 'stats':
				return this.counted(link, message);
			case 'serverState':
				return this.serverSaid(link, message);
			case 'held':
				return this.heldAsks.answered(message, link);
			case 'taskSaid':
				if (link.hello.regions.includes(message.region)) this.emit({ type: 'task', said: message });
				return;
			case 'hello':
			case 'ownDepot':
				return;
		}
	}

	private presence(link: ServerLink, said: Extract<UpMessage, { type: 'presence' }>['regions']): void {
		for (const one of said) {
			const region = this.byName.get(one.region);
			if (region?.has(link)) this.changePresence(one.region, region, () => region.said(link, presentIn(one)));
		}
	}

	private changePresence(name: string, region: RegionLinks, change: () => void): void {
		const before = region.edges();
		change();
		const there = new Set(region.edges());
		for (const edge of before) if (!there.has(edge)) this.reports.forgetEdge(name, edge);
		this.emit({ type: 'presence', region: name });
		this.noteServers(name, region.agents());
	}

	private serverSaid(link: ServerLink, message: ServerState): void {
		for (const region of message.regions.filter((name) => this.byName.get(name)?.has(link))) {
			this.known.said(message, region, this.of.clock.monotonic(), this.of.clock.now());
			this.emit({ type: 'servers', region });
		}
	}

	private forgetServer(name: string): void {
		const regions = this.known.list().filter(({ server }) => server === name).map(({ region }) => region); // prettier-ignore
		this.known.forget(name);
		for (const place of this.reports.forgetServer(name)) this.emit({ type: 'instances', ...place });
		for (const region of regions) this.emit({ type: 'servers', region });
	}

	private noteServers(region: string, there: readonly string[]): void {
		if (this.known.present(region, there, this.of.clock.monotonic())) this.emit({ type: 'servers', region });
	}

	private instancesSaid(link: ServerLink, message: Extract<UpMessage, { type: 'instances' }>): void {
		for (const group of message.groups) {
			const { region, app, environment } = group;
			if (!link.hello.regions.includes(region)) continue;
			if (this.reports.instances(message.server, group)) this.emit({ type: 'instances', region, app, environment });
		}
	}

	private appliedSaid(link: ServerLink, edge: string, items: readonly Known[]): void {
		const mine = items.filter((item) => link.hello.regions.includes(item.region));
		if (this.reports.applied(edge, mine)) this.emit({ type: 'applied', items: mine });
	}

	private counted(link: ServerLink, stats: Stats): void {
		if (stats.server !== undefined) {
			const edge = `${stats.server}/${stats.edge}`;
			const seconds = this.seconds.get(edge) ?? [];
			if (seconds.includes(stats.second)) return;
			this.seconds.set(edge, [...seconds.slice(1 - SECONDS_REMEMBERED), stats.second]);
		}
		this.emit({ type: 'stats', stats: { ...stats, rows: stats.rows.filter((row) => link.hello.regions.includes(row.region)) } });
	}

	private onClosed(link: ServerLink, reason: string): void {
		this.of.log.warn('depot.down', { server: link.hello.server, reason });
		this.probes.linkGone(link);
		this.follows.linkGone(link);
		for (const [name, region] of this.byName) {
			if (region.count > 1 && region.has(link)) this.changePresence(name, region, () => region.left(link, false));
			else region.left(link, reason === 'silent');
		}
	}

	private dropStale(link: ServerLink): void {
		for (const place of this.reports.dropStale(link.hello.regions)) this.emit({ type: 'instances', ...place });
	}

	private links(): Set<ServerLink> {
		return new Set([...this.byName.values()].flatMap((region) => region.links()));
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

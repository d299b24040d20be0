import type { Clock, Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { LinkHandlers, ServerLink } from '#wire/accept.ts';
import type { Peers } from '#wire/peers.ts';
import { WIRE_VERSION, wantKey } from '#wire/region.ts';
import type { DownMessage, Gift, Hello, Known, ServerState, Servers, UpMessage, Want, Wants } from '#wire/region.ts';
import { Asks } from './asks.ts';
import type { Board, Group } from './board.ts';
import type { Control } from './control-links.ts';
import { Echo } from './echo.ts';
import { Settling } from './settle.ts';
import { Tasks } from './tasks.ts';

/**
 * Passes what control wants on to the agents and edges of the regions named, and what they report to control and to
 * each other. Agents' instances reach edges from here, so control is not on the path that keeps a region serving.
 */

/** An agent that is back says all it has; what it has not named this long after its hello is no more. */
const UNNAMED_GONE_AFTER_MS = 30_000;

type Applied = Extract<UpMessage, { type: 'applied' }>;
type Instances = Extract<UpMessage, { type: 'instances' }>;
type Probe = Extract<DownMessage, { type: 'probe' }>;

export interface RelayOptions {
	server: string;
	installation: string;
	regions: readonly string[];
	board: Board;
	/** Edges that there were before this program started. */
	remembered: { id: string; regions: string[] }[];
	/** On a joined server: whom its region's programs may trust. */
	peers: Peers | null;
	/** To every control there is; false while all are away. */
	up(message: UpMessage): boolean;
	/** The board or the edges changed: put them on disk some time soon. */
	changed(): void;
	/** Wants came with blobs along. */
	gift(gift: Gift): void;
	log: Log;
	clock: Clock;
}

export class Relay {
	private readonly links = new Map<string, ServerLink>();
	/** What the agents of now last said of their servers. */
	private readonly states = new Map<string, ServerState>();
	private readonly asks: Asks;
	private readonly settling: Settling;
	private readonly echo: Echo;
	/** Programs of other servers whose own depot speaks to them and for them. */
	private readonly others = new Set<ServerLink>();
	readonly tasks: Tasks;
	private readonly of: RelayOptions;

	constructor(options: RelayOptions) {
		this.of = options;
		this.asks = new Asks(options.clock);
		this.tasks = new Tasks(options.clock);
		this.echo = new Echo(options.clock);
		this.settling = new Settling({
			clock: options.clock,
			onSettled: (items) => this.sendSettled(items),
			onCount: () => this.sendCounts(),
			remembered: options.remembered,
		});
	}

	hello(): Hello {
		const { server, regions, board } = this.of;
		return { type: 'hello', wire: WIRE_VERSION, role: 'depot', server, name: 'depot', regions: [...regions], known: board.known() };
	}

	edges(): { id: string; regions: string[] }[] {
		return this.settling.list();
	}

	/** A link to control is up, and the hello was sent: all that it may have missed follows. */
	controlUp(control: Control): void {
		control.send(this.presence());
		for (const message of this.of.board.replay(this.of.regions)) control.send(message);
		for (const state of this.states.values()) control.send(state);
		for (const { id, items } of this.settling.said()) {
			const [server = '', edge = ''] = id.split('/');
			if (items.length > 0) control.send({ type: 'applied', server, edge, items });
		}
	}

	controlDown(control: Control): void {
		this.asks.controlGone(control);
	}

	fromControl(message: DownMessage, text: string, control: Control): void {
		switch (message.type) {
			case 'wants':
				return this.wants(message, text);
			case 'probe':
				return this.asks.probe(message, this.edgesFor(message), control);
			case 'logsWanted':
				return this.asks.logsWanted(message, this.linksOf('agent', message.region), control);
			case 'logsDone':
				return this.asks.logsDone(message.id);
			case 'welcome':
				if (message.installation !== this.of.installation)
					this.of.log.error('control.other_installation', { theirs: message.installation });
				return;
			case 'servers':
				return this.servers(message);
			case 'heldWanted':
				return this.held(message.id, message.app, control);
			case 'task':
				return this.tasks.ordered(message, this.linksOf('agent', message.region));
			case 'taskStop':
				return void this.linksOf('agent', message.region)
					.find(({ hello }) => hello.server === message.server)
					?.send(message);
			case 'settled':
			case 'instances':
				// A depot's own words to its agents and edges; control says neither.
				return;
		}
	}

	/** Edges that have instances of these releases on their own server first. */
	private edgesFor(probe: Probe): ServerLink[] {
		const running = probe.releases.map((release) => this.of.board.running(probe, release));
		const count = ({ hello }: ServerLink) => running.filter((servers) => servers.has(hello.server)).length;
		return this.linksOf('edge', probe.region).toSorted((a, b) => count(b) - count(a));
	}

	private held(id: string, app: string, control: Control): void {
		const wants = this.of.board.state().wants.filter((want) => want.app === app);
		control.send({ type: 'held', id, wants, releases: this.of.board.releasesOf(wants) });
	}

	/** An agent or edge said hello: it is told what is newer than what it holds, and what it could not hear meanwhile. */
	onLink(link: ServerLink): LinkHandlers {
		const { role, regions, known } = link.hello;
		const id = idOf(link);
		this.links.get(id)?.close('the same program connected again');
		this.links.set(id, link);
		this.of.log.info('link.up', { id, regions: regions.length });
		link.send({ type: 'welcome', wire: WIRE_VERSION, installation: this.of.installation });
		const servers = this.of.peers?.newest;
		if (servers && servers.version > 0) link.send(servers);
		const newer = this.of.board.newer(regions, known);
		if (newer) link.send(this.narrowed(newer, this.readerOf(link, newer.wants)));
		const named = new Set<string>();
		const settle = role === 'agent' ? this.agentJoined(link, named) : this.edgeJoined(link);
		this.of.up(this.presence());
		return {
			onMessage: (message, text) => this.fromBelow(link, named, message, text),
			onClosed: (reason) => {
				settle?.cancel();
				this.left(link, reason);
			},
		};
	}

	close(): void {
		this.echo.close();
		this.settling.close();
	}

	private wants(message: Wants, text: string): void {
		const mine = message.wants.filter((want) => this.of.regions.includes(want.region));
		const taken = this.of.board.take({ ...message, wants: mine });
		if (taken.length === 0) return;
		const whole = taken.length === message.wants.length;
		const frames = new Map<string, string | null>();
		const keys = keysOf(taken);
		// Traffic waits for edges, and where all share a processor the first to be told is the first to run.
		const links = [...this.links.values()].sort((a, b) => Number(b.hello.role === 'edge') - Number(a.hello.role === 'edge'));
		for (const link of links) {
			const { regions } = link.hello;
			const reader = this.readerOf(link, taken);
			const set = `${reader ?? ''} ${regions.join(' ')}`;
			if (!frames.has(set)) frames.set(set, this.frameFor({ regions, reader }, taken, message, whole ? text : null));
			const frame = frames.get(set);
			if (frame) this.tell(link, `wants ${keys}`, frame);
		}
		if (message.gift) this.of.gift(message.gift);
		this.of.changed();
	}

	/** What of it concerns them: the frame as it came when that is all. */
	private frameFor({ regions, reader }: Reader, taken: readonly Want[], message: Wants, text: string | null): string | null {
		const wants = taken.filter((want) => regions.includes(want.region));
		if (wants.length === 0) return null;
		if (text !== null && reader === null && wants.length === message.wants.length) return text;
		const whole: Wants = { type: 'wants', wants, releases: this.of.board.releasesOf(wants), gift: message.gift };
		return JSON.stringify(this.narrowed(whole, reader));
	}

	/**
	 * What is not placed on a server is none of its agent's business, neither its configuration nor its files; and no edge
	 * needs either. Null for who may read all of it: the programs of control's own machine.
	 */
	private readerOf({ hello: { role, server } }: ServerLink, wants: readonly Want[]): string | null {
		if (role === 'edge') return this.of.peers ? EDGE : null;
		return wants.some(({ run }) => run.some((one) => one.placed)) ? server : null;
	}

	private narrowed(message: Wants, reader: string | null): Wants {
		if (reader === null) return message;
		if (reader === EDGE) return { ...message, releases: message.releases.map((release) => ({ ...release, env: {} })), gift: null };
		const releases = this.of.board.releasesFor(reader, message.wants);
		const gift = releases.some(({ artifact }) => artifact === message.gift?.artifact) ? message.gift : null;
		return { ...message, releases, gift };
	}

	/** Whom to trust from now on. Who is left out is cut off by the listener; of its instances nobody knows any more. */
	private servers(message: Servers): void {
		const { peers, board, regions } = this.of;
		if (!peers?.take(message)) return;
		for (const link of this.links.values()) link.send(message);
		for (const server of board.servers()) {
			if (server === this.of.server || peers.named(server)) continue;
			this.report({ type: 'instances', server, groups: board.unnamed(server, regions, new Set()) }, null);
		}
	}

	private fromBelow(link: ServerLink, named: Set<string>, message: UpMessage, text: string): void {
		const { role } = link.hello;
		if (message.type === 'instances' && role === 'agent') return this.instances(link, named, message, text);
		if (message.type === 'logLines' && role === 'agent') return this.asks.logLines(link, message);
		if (message.type === 'applied' && role === 'edge') return this.applied(link, message);
		if (message.type === 'probed' && role === 'edge') return this.asks.probed(message);
		if (message.type === 'stats' && role === 'edge') return void this.of.up({ ...message, server: link.hello.server });
		if (message.type === 'serverState' && role === 'agent') return this.serverState(link, message);
		if (message.type === 'taskSaid' && role === 'agent') return void this.of.up({ ...message, server: link.hello.server });
		if (message.type === 'ownDepot') return this.ownDepot(link, message.there);
		this.of.log.warn('link.unexpected', { id: idOf(link), type: message.type });
	}

	private ownDepot(link: ServerLink, there: boolean): void {
		if (there) this.others.add(link);
		else if (this.others.delete(link)) this.echo.now();
	}

	private tell(link: ServerLink, what: string, frame: string): void {
		if (this.others.has(link)) this.echo.later(`${idOf(link)} ${what}`, () => link.sendFrame(frame));
		else link.sendFrame(frame);
	}

	/** What `from` said; null: what this depot itself has found. */
	private tellControl(from: ServerLink | null, what: string, message: UpMessage): void {
		if (from && this.others.has(from)) this.echo.later(`${idOf(from)} ${what} up`, () => this.of.up(message));
		else this.of.up(message);
	}

	/** An agent speaks for its own server and regions only. */
	private serverState(link: ServerLink, message: ServerState): void {
		const { server, regions } = link.hello;
		const mine = { ...message, server, regions: message.regions.filter((region) => regions.includes(region)) };
		this.states.set(server, mine);
		this.of.up(mine);
	}

	private instances(link: ServerLink, named: Set<string>, message: Instances, text: string): void {
		const { server, regions } = link.hello;
		// An agent speaks for its own server and regions only.
		const groups = message.groups.filter((group) => regions.includes(group.region));
		for (const group of groups) named.add(wantKey(group));
		const whole = groups.length === message.groups.length && message.server === server;
		this.report({ type: 'instances', server, groups }, whole ? text : null, link);
	}

	private report(message: Instances, text: string | null, from: ServerLink | null = null): void {
		if (message.groups.length === 0) return;
		const what = `instances of ${message.server} ${keysOf(message.groups)}`;
		this.of.board.report(message.server, message.groups);
		for (const link of this.links.values()) {
			if (link.hello.role !== 'edge') continue;
			const groups = message.groups.filter((group) => link.hello.regions.includes(group.region));
			if (groups.length === 0) continue;
			this.tell(link, what, groups.length === message.groups.length && text !== null ? text : JSON.stringify({ ...message, groups }));
		}
		this.tellControl(from, what, message);
		this.of.changed();
	}

	private applied(link: ServerLink, message: Applied): void {
		const { server, name, regions } = link.hello;
		const items = message.items.filter((item) => regions.includes(item.region));
		this.tellControl(link, `applied ${keysOf(items)}`, { type: 'applied', server, edge: name, items });
		this.settling.applied(`${server}/${name}`, items);
	}

	private agentJoined(link: ServerLink, named: Set<string>): Timer {
		const { server, regions } = link.hello;
		const items = this.settling.of(regions);
		if (items.length > 0 || this.of.peers) link.send({ type: 'settled', items, ...this.countFor(regions) });
		this.asks.agentJoined(link);
		return this.of.clock.after(
			UNNAMED_GONE_AFTER_MS,
			() => {
				const gone: Group[] = this.of.board.unnamed(server, regions, named);
				if (gone.length > 0) this.of.log.warn('instances.unnamed', { server, groups: gone.length });
				this.report({ type: 'instances', server, groups: gone }, null);
			},
			{ idle: true },
		);
	}

	private edgeJoined(link: ServerLink): null {
		const { server, name, regions } = link.hello;
		for (const message of this.of.board.replay(regions)) link.send(message);
		this.settling.joined(`${server}/${name}`, regions);
		this.of.changed();
		return null;
	}

	private left(link: ServerLink, reason: string): void {
		const id = idOf(link);
		this.others.delete(link);
		if (this.links.get(id) !== link) return;
		this.links.delete(id);
		this.of.log.info('link.down', { id, reason });
		if (link.hello.role === 'agent') {
			this.states.delete(link.hello.server);
			this.asks.agentGone(link);
		}
		if (link.hello.role === 'edge') this.asks.edgeGone(link);
		if (link.hello.role === 'edge') this.settling.left(`${link.hello.server}/${link.hello.name}`);
		this.of.up(this.presence());
	}

	private presence(): UpMessage {
		const regions = this.of.regions.map((region) => ({
			region,
			agents: this.linksOf('agent', region).map(({ hello }) => ({ server: hello.server })),
			edges: this.linksOf('edge', region).map(({ hello }) => ({ server: hello.server, name: hello.name })),
		}));
		return { type: 'presence', regions };
	}

	private linksOf(role: 'agent' | 'edge', region: string): ServerLink[] {
		return [...this.links.values()].filter(({ hello }) => hello.role === role && hello.regions.includes(region));
	}

	private sendSettled(items: readonly Known[]): void {
		for (const link of this.links.values()) {
			if (link.hello.role !== 'agent') continue;
			const theirs = items.filter((item) => link.hello.regions.includes(item.region));
			if (theirs.length > 0) link.send({ type: 'settled', items: theirs, ...this.countFor(link.hello.regions) });
		}
	}

	/** Where a region may have several depots, agents weigh what each of them says by whether it has edges at all. */
	private countFor(regions: readonly string[]): { edges?: number } {
		return this.of.peers ? { edges: this.settling.count(regions) } : {};
	}

	private sendCounts(): void {
		if (!this.of.peers) return;
		for (const link of this.links.values())
			if (link.hello.role === 'agent') link.send({ type: 'settled', items: [], ...this.countFor(link.hello.regions) });
	}
}

/** Stands for every edge; no server has such a name. */
const EDGE = '/edge';

/** Whom a frame is for: an agent of this server, edges, or null for those who may read all of these regions. */
interface Reader {
	regions: readonly string[];
	reader: string | null;
}

function keysOf(items: readonly Known[] | readonly Group[]): string {
	return items.map(wantKey).join(' ');
}

function idOf({ hello }: ServerLink): string {
	return `${hello.role} ${hello.server}/${hello.name}`;
}

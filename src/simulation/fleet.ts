import { createDriver } from '#control/driver/driver.ts';
import type { DriverSettings } from '#control/driver/settings.ts';
import type { Driver, HubEvent, RegionHub, ServerView } from '#control/ports.ts';
import { createLog } from '#log/log.ts';
import { upToDate, wantKey, type Instance, type Known, type Want } from '#wire/region.ts';
import { FleetRegion, type Said, type Up } from './fleet-region.ts';
import { FleetServer, type FleetFault, type FleetWorld } from './fleet-server.ts';
import { MemoryDatabase } from './memory-database.ts';
import { storeOver } from './memory-store.ts';
import { Random } from './random.ts';
import { Link } from './region.ts';
import { VirtualClock } from './virtual-clock.ts';

/** Several apps in one region of servers that come and go, driven by the real driver over one database. */
export class Fleet {
	readonly clock = new VirtualClock();
	readonly random: Random;
	readonly database = new MemoryDatabase();
	readonly region: FleetRegion;
	readonly broken: string[] = [];
	/** `<app> v<release>` of what never starts. */
	readonly bad = new Set<string>();
	driver: Driver;
	readonly #world: FleetWorld;
	readonly #log;
	readonly #joinedListeners = new Set<() => void>();
	#hub: FleetHub;
	#names = 0;
	#controls = 0;

	constructor(seed: number, of: { fault?: FleetFault | null; logTo?: (line: string) => void } = {}) {
		this.random = new Random(seed);
		this.#log = createLog({}, { level: of.logTo ? 'info' : 'error', write: of.logTo ?? (() => undefined) });
		this.#world = {
			clock: this.clock,
			random: this.random,
			broken: (what) => void this.broken.push(what),
			isBad: (app, release) => this.bad.has(`${app} v${release}`),
			said: (server, key) => (key === '' ? this.region.back(server) : this.region.tell(server, key)),
			leaves: (server, key, seat) => this.region.leaves(server, key, seat),
			fault: of.fault ?? null,
		};
		this.region = new FleetRegion('fra', this.#world, (message) => this.#hub.heard(message));
		this.#hub = new FleetHub(this.#world, this.region, this.database);
		this.driver = this.#start();
	}

	get hub(): RegionHub {
		return this.#hub;
	}

	join(of: { labels?: readonly string[]; budgetMiB?: number } = {}): FleetServer {
		const { labels = [], budgetMiB = 2_000 } = of;
		const server = new FleetServer({ name: `s${this.#names++}`, region: 'fra', labels, budgetMiB, world: this.#world });
		this.region.join(server);
		this.#changed();
		return server;
	}

	lose(server: FleetServer, forMs: number, power = true): void {
		server.lose(forMs, power);
		this.region.lost(server);
	}

	drain(server: FleetServer, draining = true): void {
		server.draining = draining;
		server.drainedAt = this.clock.now();
		this.#changed();
	}

	remove(server: FleetServer): void {
		server.removed = true;
		server.link.cut();
		this.region.removed(server);
		this.#changed();
	}

	fillDisk(server: FleetServer, freeMiB: number): void {
		server.diskFreeMiB = freeMiB;
		this.#hub.heard({ type: 'presence' });
	}

	async restartControl(): Promise<void> {
		this.#hub.close();
		void this.driver.close();
		this.#hub = new FleetHub(this.#world, this.region, this.database);
		this.driver = this.#start();
		this.#hub.hello();
		void this.driver.resume().catch(() => undefined);
	}

	#start(): Driver {
		const settings: DriverSettings = {
			store: storeOver(this.database, this.clock),
			hub: this.#hub,
			clock: this.clock,
			log: this.#log,
			owner: `control-${this.#controls++}`,
			addressOf: (app) => ({ url: `http://${app}.localhost:8080`, host: null }),
			joined: {
				servers: () => this.region.servers.map((server) => this.#joined(server)),
				subscribe: (listener) => {
					this.#joinedListeners.add(listener);
					return () => void this.#joinedListeners.delete(listener);
				},
			},
		};
		return createDriver(settings);
	}

	#joined({ name, region, labels, draining }: FleetServer) {
		const told = this.#world.fault === 'blind-to-labels' ? ['gpu'] : labels;
		return { name, region, labels: told, draining, roles: ['agent'] };
	}

	#changed(): void {
		for (const listener of this.#joinedListeners) listener();
	}
}

/** Control's side of the region: what it heard, which is older than what is. */
class FleetHub implements RegionHub {
	readonly #world: FleetWorld;
	readonly #region: FleetRegion;
	readonly #database: MemoryDatabase;
	readonly #link: Link;
	readonly #listeners = new Set<(event: HubEvent) => void>();
	readonly #views = new Map<string, ServerView>();
	readonly #said = new Map<string, Map<string, Said>>();
	readonly #applied = new Map<string, Known>();

	constructor(world: FleetWorld, region: FleetRegion, database: MemoryDatabase) {
		this.#world = world;
		this.#region = region;
		this.#database = database;
		this.#link = new Link(world);
	}

	close(): void {
		this.#link.cut();
		this.#listeners.clear();
	}

	/** The depot dials a new control: it says all it knows, and is told all that is wanted. */
	hello(): void {
		this.heard({ type: 'presence' });
		for (const [key, servers] of this.#region.said) {
			for (const [server, said] of servers) this.heard({ type: 'instances', key, server, said });
		}
		for (const { region, app, environment, epoch, version } of this.#region.obeyed.values()) {
			this.heard({ type: 'applied', item: { region, app, environment, epoch, version } });
		}
		this.send([...this.#database.wants.values()]);
	}

	heard(message: Up): void {
		const states = this.#region.servers.map((server) => ({ server, connected: server.connected, state: server.state() }));
		this.#link.send(() => {
			if (message.type === 'presence') return this.#present(states);
			if (message.type === 'applied') {
				this.#applied.set(wantKey(message.item), message.item);
				return this.#emit({ type: 'applied', items: [message.item] });
			}
			const servers = this.#said.get(message.key) ?? new Map<string, Said>();
			this.#said.set(message.key, servers.set(message.server, message.said));
			const [region = '', app = '', environment = ''] = message.key.split('/');
			this.#emit({ type: 'instances', region, app, environment });
		});
	}

	regions() {
		const agents = [...this.#views.values()].filter((view) => view.connected).map((view) => view.server);
		return [{ name: 'fra', connected: true, lastSeenAt: null, agents, edges: ['edge-0'] }];
	}

	servers(): ServerView[] {
		return [...this.#views.values()];
	}

	wanted(): Iterable<Want> {
		return this.#database.wants.values();
	}

	send(wants: Want[]): void {
		for (const want of wants) this.#link.send(() => this.#region.told(want));
	}

	instances(of: { region: string; app: string; environment: string }): Instance[] {
		const runs = this.#database.wants.get(wantKey(of))?.run ?? [];
		return [...(this.#said.get(wantKey(of))?.values() ?? [])].flatMap((said) => upToDate(said, runs));
	}

	instancesByServer(of: { region: string; app: string; environment: string }) {
		const servers = [...(this.#said.get(wantKey(of)) ?? [])];
		// As a credulous control would: what starts is as good as healthy.
		const seen = (instance: Instance) =>
			this.#world.fault === 'credulous-control' ? { ...instance, state: 'serving' as const, healthy: true } : instance;
		return servers.flatMap(([server, { instances, obeys }]) => instances.map((one) => ({ server, instance: seen(one), obeys })));
	}

	applied(of: { region: string; app: string; environment: string }) {
		return this.#applied.get(wantKey(of)) ?? null;
	}

	probe({ releases, discard, count }: Parameters<RegionHub['probe']>[0]) {
		const { promise, resolve } = Promise.withResolvers<Awaited<ReturnType<RegionHub['probe']>>>();
		const samples = releases.flatMap((release) => Array.from({ length: discard + count }, () => ({ release, status: 200, ms: 2 })));
		this.#link.send(() => resolve({ type: 'probed', id: '', samples, error: null }));
		return promise;
	}

	/** No app of the fleet has any. */
	task(): void {}

	subscribe(listener: (event: HubEvent) => void) {
		this.#listeners.add(listener);
		return () => void this.#listeners.delete(listener);
	}

	#present(states: { server: FleetServer; connected: boolean; state: ServerView['state'] }[]): void {
		const { clock, fault } = this.#world;
		const now = clock.monotonic();
		for (const { server, connected, state } of states) {
			const before = this.#views.get(server.name);
			const lostSinceMs = connected ? null : (before?.lostSinceMs ?? (fault === 'hasty-control' ? now - 60_000 : now));
			const told = state && fault === 'blind-to-room' ? { ...state, budgetMiB: 1_000_000 } : state;
			this.#views.set(server.name, { server: server.name, region: 'fra', connected, lostSinceMs, state: told });
		}
		for (const name of this.#views.keys()) if (!states.some(({ server }) => server.name === name)) this.#views.delete(name);
		this.#emit({ type: 'presence', region: 'fra' });
		this.#emit({ type: 'servers', region: 'fra' });
	}

	#emit(event: HubEvent): void {
		for (const listener of this.#listeners) listener(event);
	}
}

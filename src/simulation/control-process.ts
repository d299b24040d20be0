import type { Clock } from '#clock/clock.ts';
import { createDriver } from '#control/driver/driver.ts';
import type { DeploymentStore, Driver, HubEvent, RegionHub, RegionView } from '#control/ports.ts';
import type { Log } from '#log/log.ts';
import { upToDate, type Instance, type Probed, type Want } from '#wire/region.ts';
import { MemoryError, type MemoryDatabase } from './memory-database.ts';
import { storeOver } from './memory-store.ts';
import { Link, type Region, type Said, type World } from './region.ts';

/** One control process: the real driver over a slow, at times failing database and over links to the regions. It can die between any two instructions. */

const LOST_AFTER_MS = 15_000;
/** How long an edge waits for what it is to probe, and how often it looks. */
const READY_WITHIN_MS = 12_000;
const READY_LOOK_MS = 50;
export const APP = 'notes';
export const ENVIRONMENT = 'production';

/** What a deliberately broken control does wrong. */
export type Mistake = 'trusts-itself' | 'forgets-to-swing';

const NOTHING_SAID: Said = { obeys: undefined, instances: [] };

interface View {
	link: Link;
	connected: boolean;
	agents: string[];
	edges: Map<string, number>;
	said: Said;
	/** What it was last told. */
	want: Want | null;
}

export class ControlProcess {
	readonly driver: Driver;
	readonly #database: MemoryDatabase;
	readonly #world: World;
	readonly #regions: readonly Region[];
	readonly #views = new Map<string, View>();
	readonly #listeners = new Set<(event: HubEvent) => void>();
	readonly #mistake: Mistake | null;
	/** Cleared when it dies: nothing it awaits ever comes. */
	#alive = true;
	/** Probability that a call of the database fails; half of those fail after they were committed. */
	troubleRate = 0;

	constructor(of: { name: string; database: MemoryDatabase; world: World; regions: readonly Region[]; log: Log; mistake: Mistake | null }) {
		this.#database = of.database;
		this.#world = of.world;
		this.#regions = of.regions;
		this.#mistake = of.mistake;
		for (const region of of.regions) {
			this.#views.set(region.name, {
				link: new Link(of.world),
				connected: true,
				agents: [],
				edges: new Map(),
				said: NOTHING_SAID,
				want: null,
			});
		}
		this.driver = createDriver({
			store: this.#store(),
			hub: this.#hub(),
			clock: this.#clock(),
			log: of.log,
			owner: of.name,
			addressOf: (app) => ({ url: `http://${app}.localhost:8080`, host: null }),
		});
		for (const region of of.regions) this.#world.clock.after(of.world.random.between(5, 2000), () => this.#hello(region));
	}

	kill(): void {
		this.#alive = false;
		this.#disconnect();
	}

	/** Its links are gone but it goes on as if it were the only one: frozen for a while, or cut off. */
	cutOff(): void {
		this.#disconnect();
	}

	/** The link to a region breaks; when it is long, the region is lost. */
	loseRegion(name: string, forMs: number): void {
		const view = this.#views.get(name)!;
		const region = this.#regions.find((one) => one.name === name)!;
		if (!view.link.up) return;
		view.link.cut();
		this.#world.clock.after(LOST_AFTER_MS, () => {
			if (view.link.up) return;
			Object.assign(view, { connected: false, agents: [], edges: new Map() });
			this.#emit({ type: 'lost', region: name });
		});
		this.#world.clock.after(forMs, () => {
			view.link.mend();
			this.#hello(region);
		});
	}

	/** Something changed in the region. */
	reported(region: Region): void {
		const view = this.#views.get(region.name)!;
		const agents = region.agentLink.up ? ['server'] : [];
		const edges = new Map(region.edges.filter((edge) => edge.joined).map((edge) => [edge.name, edge.applied]));
		const { said } = region;
		view.link.send(() => this.#heard(region.name, { agents, edges, said }));
	}

	/** What users get from the region's edges, counted. */
	counted(region: string, release: number, requests: number, errors: number): void {
		const view = this.#views.get(region)!;
		const second = Math.floor(this.#world.clock.now() / 1000);
		const row = { region, app: APP, environment: ENVIRONMENT, release, instance: 'i', slots: {}, requests, errors, latency: {} };
		view.link.send(() => this.#emit({ type: 'stats', stats: { type: 'stats', edge: 'edge-0', second, rows: [row] } }));
	}

	#disconnect(): void {
		for (const view of this.#views.values()) view.link.cut();
		if (!this.#alive) this.#listeners.clear();
	}

	/** A depot dials: it gets what is newer than it has, and says all that it knows. */
	#hello(region: Region): void {
		const view = this.#views.get(region.name)!;
		if (!this.#alive || !view.link.up) return;
		if (!view.connected) this.#emit({ type: 'back', region: region.name });
		view.connected = true;
		for (const want of this.#database.wants.values()) if (want.region === region.name) view.link.send(() => region.told(want));
		this.reported(region);
	}

	#heard(region: string, heard: Pick<View, 'agents' | 'edges' | 'said'>): void {
		if (!this.#alive) return;
		const view = this.#views.get(region)!;
		if (!view.connected) {
			view.connected = true;
			this.#emit({ type: 'back', region });
		}
		Object.assign(view, heard);
		this.#emit({ type: 'presence', region });
		this.#emit({ type: 'instances', region, app: APP, environment: ENVIRONMENT });
		this.#emit({ type: 'applied', items: [{ region, app: APP, environment: ENVIRONMENT, epoch: 1, version: 0 }] });
	}

	/** A region that holds more than the database knows. */
	ahead(region: string): void {
		this.#emit({ type: 'ahead', region, app: APP, environment: ENVIRONMENT, epoch: 2, version: 1 });
	}

	#emit(event: HubEvent): void {
		if (this.#alive) for (const listener of this.#listeners) listener(event);
	}

	#hub(): RegionHub {
		const view = (region: string) => this.#views.get(region)!;
		return {
			regions: (): RegionView[] =>
				[...this.#views].map(([name, { connected, agents, edges }]) => ({
					name,
					connected,
					lastSeenAt: null,
					agents,
					edges: [...edges.keys()],
				})),
			send: (wants, releases) => {
				if (!this.#alive) return;
				for (const want of wants) {
					const before = this.#views.get(want.region)?.want?.run ?? [];
					for (const { release } of want.run) {
						const known = before.some((run) => run.release === release) || releases.some((spec) => spec.release === release);
						if (!known) this.#world.broken(`${want.region} is told to run v${release} and not what that is`);
					}
					this.#send(want);
				}
			},
			servers: () => [],
			wanted: () => this.#database.wants.values(),
			instancesByServer: ({ region }) =>
				view(region).said.instances.map((instance) => ({ server: 'server', instance, obeys: view(region).said.obeys })),
			instances: ({ region }): Instance[] => upToDate(view(region).said, view(region).want?.run ?? []),
			applied: ({ region }) => {
				if (this.#mistake === 'trusts-itself') return { epoch: 1, version: 1_000_000 };
				const versions = [...view(region).edges.values()];
				const oldest = Math.min(...versions);
				return versions.length === 0 || oldest === 0 ? null : { epoch: this.#database.epoch, version: oldest };
			},
			probe: (ask) => this.#probe(ask),
			// No app of the simulation has any.
			task: () => undefined,
			subscribe: (listener) => {
				this.#listeners.add(listener);
				return () => void this.#listeners.delete(listener);
			},
		};
	}

	#send(want: Want): void {
		const region = this.#regions.find((one) => one.name === want.region)!;
		const view = this.#views.get(want.region)!;
		view.want = want;
		view.link.send(() => region.told(want));
	}

	#probe({ region, releases, discard, count, whenReady }: Parameters<RegionHub['probe']>[0]): Promise<Probed> {
		const { promise, resolve, reject } = Promise.withResolvers<Probed>();
		const { clock, random } = this.#world;
		const { link } = this.#views.get(region)!;
		const where = this.#regions.find((one) => one.name === region)!;
		const settle = (answer: () => void) => {
			if (this.#alive) answer();
		};
		clock.after(15_000, () => settle(() => reject(new MemoryError('unknown', `${region} did not answer the probe in time`))));
		const until = clock.now() + READY_WITHIN_MS;
		const asked = () => {
			if (whenReady && where.seats.get(releases[0]!)?.healthy !== true && clock.now() < until)
				return void clock.after(READY_LOOK_MS, asked);
			const samples = releases.flatMap((release) => {
				const there = where.seats.get(release)?.healthy === true;
				const status = there ? (this.#world.qualityOf(release) === 'fails-probes' ? 500 : 200) : 0;
				return Array.from({ length: discard + count }, () => ({ release, status, ms: 2 }));
			});
			const error = random.chance(0.05) ? 'no edge could ask' : null;
			link.send(() => settle(() => resolve({ type: 'probed', id: '', samples: error ? [] : samples, error })));
		};
		link.send(asked);
		return promise;
	}

	#store(): DeploymentStore {
		const database = this.#database;
		const call = <T>(transaction: () => T) => this.#call(transaction);
		return {
			...storeOver(database, this.#world.clock, call),
			advance: (step) => {
				const swinging = step.to === 'RollingBack' || database.deployments.get(step.deployment)?.deployment.state === 'RollingBack';
				const forgotten = this.#mistake === 'forgets-to-swing' && swinging;
				return call(() => database.advance(forgotten ? { ...step, writes: [] } : step));
			},
		};
	}

	/** Takes time both ways; may fail before or after it was committed; a dead caller never hears of it. */
	#call<T>(transaction: () => T): Promise<T> {
		const { promise, resolve, reject } = Promise.withResolvers<T>();
		const { clock, random } = this.#world;
		const trouble = () => random.chance(this.troubleRate / 2);
		const later = (task: () => void) => clock.after(random.between(0, 4), task);
		later(() => {
			if (!this.#alive && random.chance(0.5)) return;
			let settle: () => void = () => undefined;
			try {
				if (trouble()) throw new MemoryError('database_unavailable', 'the database went away before it was written');
				const answer = transaction();
				settle = () => resolve(answer);
				if (trouble()) throw new MemoryError('database_unavailable', 'the database went away after it was written');
			} catch (error) {
				settle = () => reject(error);
			}
			later(() => {
				if (this.#alive) settle();
			});
		});
		return promise;
	}

	#clock(): Clock {
		const { clock } = this.#world;
		const living = (task: () => void) => () => {
			if (this.#alive) task();
		};
		return {
			now: () => clock.now(),
			monotonic: () => clock.monotonic(),
			after: (delayMs, task) => clock.after(delayMs, living(task)),
			every: (periodMs, task) => clock.every(periodMs, living(task)),
		};
	}
}

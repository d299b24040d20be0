import { compareVersions, upToDate, type Instance, type Version, type Want } from '#wire/region.ts';
import type { Random } from './random.ts';
import type { VirtualClock } from './virtual-clock.ts';

/** A region: its depot, one agent and two edges, each on links that are slow, keep their order, and lose what is under way when they break. */

export type Quality = 'good' | 'never-starts' | 'fails-probes' | 'fails-users';

/** What the simulated world is made of, and what is deliberately wrong with it. */
export interface World {
	clock: VirtualClock;
	random: Random;
	qualityOf(release: number): Quality;
	fault: Fault | null;
	broken: (invariant: string) => void;
	/** The region has something to tell control. */
	report(region: Region): void;
}

export type Fault = 'eager-edge' | 'hasty-agent' | 'deaf-edge' | 'credulous-edge';

export class Link {
	readonly #world: Pick<World, 'clock' | 'random'>;
	#generation = 0;
	#last = 0;
	up = true;

	constructor(world: Pick<World, 'clock' | 'random'>) {
		this.#world = world;
	}

	/** Delivered later, after what was sent before; never, if the link breaks first. */
	send(deliver: () => void): void {
		if (!this.up) return;
		const { clock, random } = this.#world;
		const generation = this.#generation;
		const slow = random.chance(0.05) ? random.between(100, 3000) : random.between(1, 20);
		this.#last = Math.max(this.#last, clock.now() + slow);
		clock.after(this.#last - clock.now(), () => {
			if (this.up && generation === this.#generation) deliver();
		});
	}

	cut(): void {
		this.up = false;
		this.#generation++;
	}

	mend(): void {
		this.up = true;
	}
}

interface Seat {
	id: string;
	state: Instance['state'];
	healthy: boolean;
	/** It was healthy once: an edge may rely on having been told so. */
	proven: boolean;
}

/** What the agent said of its instances, and the version that it obeyed then. */
export interface Said {
	obeys: Version | undefined;
	instances: Instance[];
}

export class Region {
	readonly name: string;
	readonly edges: Edge[];
	readonly agentLink: Link;
	readonly #world: World;
	/** What the depot holds. */
	want: Want | null = null;
	/** What the agent holds; it outlives the agent's absence, as do the instances. */
	#agentWant: Want | null = null;
	/** What the depot last heard of the agent. */
	said: Said = { obeys: undefined, instances: [] };
	readonly seats = new Map<number, Seat>();
	#settled: { version: number; edges: Edge[] } | null = null;
	#ids = 0;

	constructor(name: string, world: World) {
		this.name = name;
		this.#world = world;
		this.agentLink = new Link(world);
		this.edges = [0, 1].map((index) => new Edge(`${name}-${index}`, this, world));
	}

	/** The depot is told by control. */
	told(want: Want): void {
		if (this.want && compareVersions(want, this.want) <= 0) return;
		this.want = want;
		this.agentLink.send(() => this.#agentTold(want));
		for (const edge of this.edges) edge.link.send(() => edge.told(want));
	}

	/** Everything that the agent has to say now. */
	#everything(): Said {
		const instances = [...this.seats].map(([release, { id, state, healthy }]) => ({
			id,
			release,
			state,
			healthy,
			address: healthy ? `unix:/${id}` : null,
			pid: 1,
			reason: state === 'failed' ? 'unhealthy' : null,
			detail: null,
			restarts: 0,
			cold: false,
			timings: null,
		}));
		return { obeys: this.#agentWant ?? undefined, instances };
	}

	/** Down for a while: the instances live on. */
	restartAgent(downMs: number): void {
		if (!this.agentLink.up) return;
		this.agentLink.cut();
		this.#world.report(this);
		this.#world.clock.after(downMs, () => {
			this.agentLink.mend();
			const { want } = this;
			if (want) this.agentLink.send(() => this.#agentTold(want));
			this.#tell();
			// The depot remembers what it said, whoever is there now.
			this.#tellSettled();
			this.checkSettled();
		});
	}

	/** Every connected edge obeys what is wanted: the agent may drain what that does not serve. */
	checkSettled(): void {
		const { want } = this;
		const connected = this.edges.filter((edge) => edge.joined);
		if (!want || connected.length === 0 || this.#settled?.version === want.version) return;
		if (connected.some((edge) => edge.applied < want.version)) return;
		this.#settled = { version: want.version, edges: connected };
		this.#tellSettled();
	}

	#tellSettled(): void {
		const settled = this.#settled;
		if (settled) this.agentLink.send(() => this.#drain(settled.version, settled.edges));
	}

	#agentTold(want: Want): void {
		if (this.#agentWant && compareVersions(want, this.#agentWant) < 0) return;
		this.#agentWant = want;
		for (const run of want.run) {
			const seat = this.seats.get(run.release);
			if (!seat) this.#start(run.release);
			else if (run.as !== 'warm' && seat.state === 'warm') this.#thaw(seat, run.as);
			else if (run.as !== 'warm' && seat.healthy) seat.state = run.as;
		}
		if (this.#world.fault === 'hasty-agent') this.#drain(want.version, this.edges);
		this.#tell();
	}

	#start(release: number): void {
		const seat: Seat = { id: `${this.name}-${release}-${this.#ids++}`, state: 'starting', healthy: false, proven: false };
		this.seats.set(release, seat);
		this.#world.clock.after(this.#world.random.between(20, 800), () => {
			if (this.seats.get(release) !== seat) return;
			const works = this.#world.qualityOf(release) !== 'never-starts';
			const as = this.#agentWant?.run.find((run) => run.release === release)?.as ?? 'prepared';
			Object.assign(seat, works ? { state: as === 'warm' ? 'prepared' : as, healthy: true, proven: true } : { state: 'failed' });
			this.#tell();
		});
	}

	#thaw(seat: Seat, as: 'prepared' | 'serving'): void {
		this.#world.clock.after(this.#world.random.between(1, 10), () => {
			seat.state = as;
			this.#tell();
		});
	}

	/** `edges`: those that were there to say that they obey it. One that was away falls back on others until it obeys. */
	#drain(version: number, edges: readonly Edge[]): void {
		const want = this.#agentWant;
		if (!want || want.version !== version) return;
		for (const [release, seat] of this.seats) {
			const run = want.run.find((one) => one.release === release);
			if (run && run.as !== 'warm') continue;
			if (edges.some((edge) => edge.joined && edge.serves === release)) {
				this.#world.broken(`${this.name}: v${release} was ${run ? 'frozen' : 'stopped'} while an edge served it`);
			}
			if (!run) this.seats.delete(release);
			else if (seat.state !== 'failed') seat.state = 'warm';
		}
		this.#tell();
	}

	/** To the edges, and through the depot to control. */
	#tell(): void {
		const said = this.#everything();
		this.agentLink.send(() => {
			this.said = said;
			for (const edge of this.edges) edge.link.send(() => edge.heard(said));
			this.#world.report(this);
		});
	}
}

export class Edge {
	readonly name: string;
	readonly link: Link;
	readonly #region: Region;
	readonly #world: World;
	/** Both survive a restart: they are on its disk. */
	serves: number | null = null;
	applied = 0;
	/** `<deployment> v<release>` of everything it ever obeyed. */
	readonly obeyed = new Set<string>();
	/** Counted by the depot: it has said what it obeys since it connected. */
	joined = true;
	#pending: Want | null = null;
	#said: Said = { obeys: undefined, instances: [] };

	constructor(name: string, region: Region, world: World) {
		this.name = name;
		this.link = new Link(world);
		this.#region = region;
		this.#world = world;
	}

	told(want: Want): void {
		if (this.#pending && compareVersions(want, this.#pending) <= 0) return;
		this.#pending = want;
		this.#obey();
	}

	heard(said: Said): void {
		this.#said = said;
		this.#obey();
	}

	restart(downMs: number): void {
		if (!this.link.up) return;
		this.link.cut();
		this.joined = false;
		this.#pending = null;
		this.#said = { obeys: undefined, instances: [] };
		this.#world.report(this.#region);
		this.#region.checkSettled();
		this.#world.clock.after(downMs, () => {
			this.link.mend();
			this.link.send(() => {
				const { want } = this.#region;
				this.joined = true;
				this.heard(this.#region.said);
				if (want) this.told(want);
				this.#world.report(this.#region);
			});
		});
	}

	#obey(): void {
		const want = this.#pending;
		if (!want || want.version <= this.applied) return;
		const named = [want.pointer.primary, want.pointer.candidate?.release ?? null].filter((release) => release !== null);
		if (this.#world.fault !== 'eager-edge' && !named.every((release) => this.#isHealthy(release, want))) return;
		if (this.#world.fault === 'deaf-edge' && want.version % 3 === 0) return;
		for (const release of named) {
			if (this.#region.seats.get(release)?.proven !== true)
				this.#world.broken(`${this.name}: serves v${release}, which was never healthy there`);
			this.obeyed.add(`${want.deployment} v${release}`);
		}
		this.serves = want.pointer.primary;
		this.applied = want.version;
		this.link.send(() => {
			this.#region.checkSettled();
			this.#world.report(this.#region);
		});
	}

	#isHealthy(release: number, want: Want): boolean {
		// As a credulous edge would: by what was said before the release was wanted again.
		const known = this.#world.fault === 'credulous-edge' ? this.#said.instances : upToDate(this.#said, want.run);
		const mine = known.filter((one) => one.release === release && one.healthy);
		return this.serves === release || mine.some((one) => one.state === 'prepared' || one.state === 'serving');
	}
}

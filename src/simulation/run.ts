import { sha256 } from '#digest/digest.ts';
import { Refusal, type DeployInput } from '#control/ports.ts';
import { createLog } from '#log/log.ts';
import { isFinal } from '#pipeline/states.ts';
import { appConfig } from '#wire/config.ts';
import { unnumberedSpec } from '#wire/fixture.ts';
import { APP, ControlProcess, ENVIRONMENT, type Mistake } from './control-process.ts';
import { Invariants } from './invariants.ts';
import { MemoryDatabase } from './memory-database.ts';
import { Random } from './random.ts';
import { Region, type Fault, type Quality, type World } from './region.ts';
import { VirtualClock } from './virtual-clock.ts';

/** One life of an installation, from a seed: users and accidents for a while, then quiet, then everything must be well. */

const ACTIONS = 25;
const QUIET_MS = 30 * 60_000;
/** A control that has run for so long has taken over all there was. */
const STARTED_MS = 30_000;

export interface Variant {
	fault?: Fault;
	mistake?: Mistake;
	checks?: { fence: boolean; compareAndSet: boolean };
	/** Some deployments wait for tests, which pass, fail, or are never heard of again. */
	tests?: boolean;
}

export interface Outcome {
	broken: string[];
	states: string[];
}

export async function simulate(seed: number, variant: Variant = {}, logTo: ((line: string) => void) | null = null): Promise<Outcome> {
	const life = new Life(seed, variant, logTo);
	return life.run();
}

class Life {
	readonly #random: Random;
	/** Of their own, so that lives without tests stay as they are. */
	readonly #tests: Random;
	readonly #clock = new VirtualClock();
	readonly #database: MemoryDatabase;
	readonly #regions: Region[];
	readonly #invariants: Invariants;
	readonly #variant: Variant;
	readonly #log;
	readonly #old: ControlProcess[] = [];
	#control: ControlProcess;
	#controls = 0;
	#startedAt = 0;
	#content = 0;
	/** Content number → what a release of it is like. */
	readonly #qualities = new Map<string, Quality>();
	readonly #broken: string[] = [];

	constructor(seed: number, variant: Variant, logTo: ((line: string) => void) | null) {
		this.#random = new Random(seed);
		this.#tests = new Random(seed + 1_000_003);
		this.#variant = variant;
		this.#database = new MemoryDatabase(variant.checks);
		this.#log = createLog({}, { level: logTo ? 'info' : 'error', write: logTo ?? (() => undefined) });
		const world: World = {
			clock: this.#clock,
			random: this.#random,
			qualityOf: (release) => this.#qualityOf(release),
			fault: variant.fault ?? null,
			broken: (what) => void this.#broken.push(what),
			report: (region) => this.#control.reported(region),
		};
		this.#regions = ['fra', 'iad', 'nrt', 'syd'].slice(0, this.#random.between(1, 4)).map((name) => new Region(name, world));
		this.#invariants = new Invariants(this.#database, this.#regions, world.broken);
		this.#control = this.#start(world);
		this.#world = world;
	}

	readonly #world: World;

	async run(): Promise<Outcome> {
		void this.#control.driver.resume().catch(() => undefined);
		for (let action = 0; action < ACTIONS; action++) {
			this.#act();
			await this.#live(this.#random.pick([50, 300, 1000, 5000, 20_000]));
		}
		this.#control.troubleRate = 0;
		await this.#live(60_000);
		await this.#clock.pass(QUIET_MS);
		await this.#live(60_000);
		await this.#clock.pass(QUIET_MS);
		this.#invariants.atRest();
		const states = this.#database.history({ limit: 100 }).map((one) => `${one.kind} v${one.release} ${one.state}`);
		for (const control of [...this.#old, this.#control]) control.kill();
		return { broken: this.#broken, states };
	}

	/** Time goes by, second by second, and users get what the edges serve. */
	async #live(forMs: number): Promise<void> {
		for (let left = forMs; left > 0; left -= 1000) {
			for (const region of this.#regions) {
				const serves = region.edges[0]!.serves;
				if (serves !== null && this.#qualityOf(serves) === 'fails-users') this.#control.counted(region.name, serves, 10, 10);
			}
			await this.#clock.pass(Math.min(1000, left));
			this.#invariants.always();
		}
	}

	#act(): void {
		const random = this.#random;
		const region = random.pick(this.#regions);
		const edge = random.pick(region.edges);
		const actions: [weight: number, act: () => void][] = [
			[8, () => this.#deploy()],
			[3, () => this.#rollback()],
			[2, () => this.#cancel()],
			[2, () => this.#control.loseRegion(region.name, random.pick([500, 5000, 40_000]))],
			[2, () => region.restartAgent(random.pick([100, 3000, 30_000]))],
			[2, () => edge.restart(random.pick([100, 3000, 30_000]))],
			[2, () => this.#replaceControl(random.chance(0.4))],
			[1, () => void (this.#control.troubleRate = random.pick([0, 0.1, 0.3]))],
			[2, () => undefined],
		];
		let at = random.next() * actions.reduce((sum, [weight]) => sum + weight, 0);
		for (const [weight, act] of actions) {
			at -= weight;
			if (at < 0) return act();
		}
	}

	#start(world: World): ControlProcess {
		return new ControlProcess({
			name: `control-${this.#controls++}`,
			database: this.#database,
			world,
			regions: this.#regions,
			log: this.#log,
			mistake: this.#variant.mistake ?? null,
		});
	}

	/** Killed, or cut off and going on; another takes over. */
	#replaceControl(zombie: boolean): void {
		// One that is cut off while it still takes things over may take them from its successor: what keeps two from
		// starting at once is the lock on the data directory, which is not simulated.
		if (zombie && this.#clock.now() - this.#startedAt > STARTED_MS) this.#control.cutOff();
		else this.#control.kill();
		this.#old.push(this.#control);
		this.#startedAt = this.#clock.now();
		this.#control = this.#start(this.#world);
		this.#ask(this.#control.driver.resume());
	}

	#deploy(): void {
		const quality = this.#random.pick<Quality>(['good', 'good', 'good', 'never-starts', 'fails-probes', 'fails-users']);
		const content = sha256(String(this.#random.chance(0.2) && this.#content > 0 ? this.#content : ++this.#content));
		if (!this.#qualities.has(content)) this.#qualities.set(content, quality);
		const asked = { ...input(content), now: this.#random.chance(0.2) };
		if (this.#variant.tests && this.#tests.chance(0.5)) this.#ask(this.#deployTested(asked));
		else this.#ask(this.#control.driver.deploy(asked));
	}

	async #deployTested(asked: DeployInput): Promise<void> {
		const { deployment } = await this.#control.driver.deploy({ ...asked, testing: true });
		if (this.#tests.chance(0.1)) return;
		const passed = this.#tests.chance(0.7);
		this.#clock.after(this.#tests.pick([1, 500, 5000, 60_000]), () =>
			this.#ask(this.#control.driver.tested(deployment.id, { passed, summary: 'npm test' })),
		);
	}

	#rollback(): void {
		const { random } = { random: this.#random };
		const to = random.chance(0.3) && this.#database.releases.length > 0 ? random.between(1, this.#database.releases.length) : null;
		this.#ask(
			this.#control.driver.rollback({
				app: APP,
				environment: ENVIRONMENT,
				to,
				undo: null,
				again: random.chance(0.3),
				by: 'ada',
				why: null,
			}),
		);
	}

	#cancel(): void {
		const open = [...this.#database.deployments.values()].filter((row) => !isFinal(row.deployment.state));
		if (open.length > 0) this.#ask(this.#control.driver.cancel(this.#random.pick(open).deployment.id, 'ada'));
	}

	#ask(asked: Promise<unknown>): void {
		asked.catch((error: unknown) => {
			const { code } = error as { code?: string };
			if (!(error instanceof Refusal) && !['fenced', 'stale', 'database_unavailable'].includes(code ?? '')) {
				this.#broken.push(`a request failed: ${String((error as Error).stack)}`);
			}
		});
	}

	#qualityOf(release: number): Quality {
		const artifact = this.#database.releases[release - 1]?.spec.artifact;
		return (artifact && this.#qualities.get(artifact)) ?? 'good';
	}
}

export function input(artifact: ReturnType<typeof sha256>): DeployInput {
	return {
		app: APP,
		environment: ENVIRONMENT,
		release: {
			artifact,
			vendor: null,
			config: appConfig.parse({ app: APP }),
			spec: unnumberedSpec({ app: APP, environment: ENVIRONMENT, artifact }),
			blobs: [],
		},
		git: null,
		gift: null,
		by: 'ada',
		why: null,
		force: false,
		now: false,
		stages: [],
		modules: null,
	};
}

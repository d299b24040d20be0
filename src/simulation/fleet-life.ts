import { Refusal, type DeployInput, type PointerWrite } from '#control/ports.ts';
import { sha256 } from '#digest/digest.ts';
import { samePlaced } from '#placement/place.ts';
import { CROWDED_SHARE } from '#placement/relieve.ts';
import { wantKey, type Run, type Want } from '#wire/region.ts';
import { APPS, INSTANCE_MIB, type FleetFault, type FleetServer } from './fleet-server.ts';
import { Fleet } from './fleet.ts';
import { ENVIRONMENT } from './control-process.ts';
import { input } from './run.ts';

/** The life of a fleet from a seed: deploys and accidents for a while, then quiet, then everything stands where it should. */

const ACTIONS = 30;
/** Each accident may move each app there and back. */
const MOST_MOVES = 4 * ACTIONS;
const CALM_MS = 4 * 60 * 60_000;
const REST_MS = 60 * 60_000;
const MAX_SERVERS = 6;
/** What a server is lost after, as control may count it: it hears late. */
const MISSING_MS = 5_000;
const LOST_MS = 60_000;
const HEARD_MS = 20_000;

/** Labels that an app asks for. */
const LABELS: Readonly<Record<string, readonly string[]>> = { chat: ['gpu'] };

export interface FleetOutcome {
	broken: string[];
	moves: number;
	states: string[];
}

export async function liveFleet(seed: number, of: { fault?: FleetFault; logTo?: (line: string) => void } = {}): Promise<FleetOutcome> {
	return new FleetLife(seed, of).run();
}

export class FleetLife {
	get fleet() {
		return this.#fleet;
	}
	readonly #fleet: Fleet;
	readonly #broken: string[];
	#moves = 0;
	#content = 0;

	constructor(seed: number, of: { fault?: FleetFault; logTo?: (line: string) => void }) {
		this.#fleet = new Fleet(seed, of);
		this.#broken = this.#fleet.broken;
		const { random } = this.#fleet;
		for (let i = random.between(1, 4); i > 0; i--) this.#join();
		this.#watchWrites();
	}

	async run(): Promise<FleetOutcome> {
		const { clock, random, database } = this.#fleet;
		await clock.pass(5000);
		for (let action = 0; action < ACTIONS; action++) {
			this.#act();
			await clock.pass(random.pick([100, 2000, 10_000, 70_000, 200_000]));
		}
		await clock.pass(CALM_MS);
		const before = this.#moves;
		await clock.pass(REST_MS);
		if (this.#moves !== before) this.#broken.push('instances still move though nothing happens');
		if (this.#moves > MOST_MOVES) this.#broken.push(`${this.#moves} moves in one life`);
		this.#atRest();
		void this.#fleet.driver.close();
		return { broken: this.#broken, moves: this.#moves, states: database.history({ limit: 100 }).map((one) => one.state) };
	}

	#act(): void {
		const { random, region } = this.#fleet;
		const { servers } = region;
		const server = random.pick(servers);
		const actions: [weight: number, act: () => void][] = [
			[8, () => this.#deploy()],
			[2, () => this.#rollback()],
			[3, () => (servers.length < MAX_SERVERS ? this.#join() : undefined)],
			[4, () => this.#fleet.lose(server, random.pick([500, 20_000, 90_000, 400_000]), random.chance(0.5))],
			[2, () => this.#fleet.drain(server)],
			[2, () => this.#fleet.drain(server, false)],
			[1, () => (servers.length > 1 ? this.#fleet.remove(server) : undefined)],
			[1, () => this.#fleet.fillDisk(server, random.pick([10, 10_000]))],
			[1, () => void this.#fleet.restartControl()],
			[1, () => undefined],
		];
		let at = random.next() * actions.reduce((sum, [weight]) => sum + weight, 0);
		for (const [weight, act] of actions) {
			at -= weight;
			if (at < 0) return act();
		}
	}

	#join(): void {
		const { random } = this.#fleet;
		this.#fleet.join({ labels: random.chance(0.5) ? ['gpu'] : [], budgetMiB: random.pick([400, 1000, 3000]) });
	}

	#deploy(): void {
		const { random, driver, database, bad } = this.#fleet;
		const app = random.pick(APPS);
		const asked = inputOf(app, `${this.#content++}`, random.between(1, 4));
		if (random.chance(0.15)) bad.add(`${app} v${database.releases.length + 1}`);
		this.#ask(driver.deploy(asked));
	}

	#rollback(): void {
		const { random, driver } = this.#fleet;
		const ask = { app: random.pick(APPS), environment: ENVIRONMENT, to: null, undo: null, again: false, by: 'ada', why: null };
		this.#ask(driver.rollback(ask));
	}

	#ask(asked: Promise<unknown>): void {
		asked.catch((error: unknown) => {
			const { code, message } = error as { code?: string; message?: string };
			if (error instanceof Refusal || code === 'fenced' || code === 'stale' || message === 'the driver is closed') return;
			this.#broken.push(`a request failed: ${String((error as Error).stack)}`);
		});
	}

	#watchWrites(): void {
		const { database } = this.#fleet;
		const create = database.create.bind(database);
		const advance = database.advance.bind(database);
		const write = database.write.bind(database);
		database.create = (asked, now) => {
			const before = new Map(database.wants);
			const held = create(asked, now);
			for (const want of held.wants) this.#written(before.get(wantKey(want)), want, asked.kind === 'deploy');
			return held;
		};
		database.advance = (step) => this.#around(step.writes, () => advance(step));
		database.write = (of) => this.#around(of.writes, () => write(of));
	}

	#around<T>(writes: readonly PointerWrite[] | undefined, transaction: () => T): T {
		const { database } = this.#fleet;
		const before = new Map(database.wants);
		const result = transaction();
		if (writes) for (const [key, want] of database.wants) if (before.get(key) !== want) this.#written(before.get(key), want, false);
		return result;
	}

	#written(before: Want | undefined, want: Want, isDeploy: boolean): void {
		const moved = before !== undefined && before.run.map(named).join() === want.run.map(named).join();
		for (const run of want.run) {
			const old = before?.run.find((one) => one.release === run.release);
			this.#placedWell(want, run, old, moved || (isDeploy && this.#isWhole()));
			if (!moved || !old || same(old, run)) continue;
			this.#moves++;
			if (!this.#needed(old, run)) {
				this.#broken.push(`${want.app} v${run.release} moved without need: ${JSON.stringify(old.placed)} to ${JSON.stringify(run.placed)}`);
			}
		}
	}

	/** Everybody has been there for long enough that control knows. */
	#isWhole(): boolean {
		return (
			this.#fleet.clock.now() - this.#fleet.region.accidentAt > HEARD_MS &&
			this.#fleet.region.servers.every((server) => server.connected && this.#isHeard(server.name))
		);
	}

	/** A control that has just begun knows nothing of it. */
	#isHeard(name: string): boolean {
		return this.#fleet.hub.servers().some((view) => view.server === name && view.connected);
	}

	/** Labels always; budgets and who takes anything wherever control had the choice. */
	#placedWell(want: Want, run: Run, old: Run | undefined, chosen: boolean): void {
		const { servers } = this.#fleet.region;
		for (const [name, instances] of Object.entries(run.placed ?? {})) {
			const server = servers.find((one) => one.name === name);
			if (!server || instances <= (old?.placed?.[name] ?? 0)) continue;
			const lacks = (LABELS[want.app] ?? []).filter((label) => !server.labels.includes(label));
			if (lacks.length > 0) this.#broken.push(`${want.app} v${run.release} is placed on ${name}, which lacks ${lacks.join()}`);
			if (!chosen) continue;
			if (server.draining) this.#broken.push(`${want.app} v${run.release} is placed on ${name}, which drains`);
			if (run.as !== 'warm' && this.#reservedMiB(name) > server.budgetMiB)
				this.#broken.push(`${want.app} v${run.release}: ${name} has ${server.budgetMiB} MiB, and ${this.#reservedMiB(name)} are reserved`);
		}
	}

	#reservedMiB(server: string): number {
		const runs = [...this.#fleet.database.wants.values()].flatMap((want) => want.run.filter(({ as }) => as !== 'warm'));
		return runs.reduce((sum, run) => sum + (run.placed?.[server] ?? 0) * INSTANCE_MIB, 0);
	}

	/** Off a server that goes, to the end of a move, or to a better spread. */
	#needed(old: Run, run: Run): boolean {
		const { clock, region } = this.#fleet;
		const was = Object.entries(old.placed ?? {});
		const sum = was.reduce((total, [, instances]) => total + instances, 0);
		if (sum !== run.instances) return true;
		// A rollout does not wait for what is to be prepared on a server that is away.
		const awayMs = run.as === 'prepared' ? MISSING_MS : LOST_MS;
		const goes = (name: string) => {
			const server = region.servers.find((one) => one.name === name);
			// What control decided on was true when it heard of it.
			const lately = server !== undefined && clock.now() - Math.max(server.backAt, server.drainedAt) < HEARD_MS;
			const crowded = server !== undefined && server.usedMiB() + INSTANCE_MIB > server.budgetMiB;
			return (
				!server ||
				(run.as === 'prepared' && !this.#isHeard(name)) ||
				server.draining ||
				lately ||
				crowded ||
				(server.downSince !== null && clock.now() - server.downSince >= awayMs)
			);
		};
		if (was.some(([name]) => goes(name))) return true;
		if (this.#crowded(old, run)) return true;
		const least = Math.min(...Object.keys(run.placed ?? {}).map((name) => old.placed?.[name] ?? 0));
		return Math.max(...was.map(([, instances]) => instances)) - least >= 2;
	}

	/** All apps together left one server far fuller than the one that it goes to: that may get two at once. */
	#crowded(old: Run, run: Run): boolean {
		const share = (name: string, more: number) => {
			const server = this.#fleet.region.servers.find((one) => one.name === name);
			return server ? (this.#reservedMiB(name) + more) / server.budgetMiB : 0;
		};
		const fresh = Object.entries(run.placed ?? {}).flatMap(([name, now]) => (now > (old.placed?.[name] ?? 0) ? [name] : []));
		return fresh.some((to) => Object.keys(old.placed ?? {}).some((from) => share(from, 0) - share(to, -2 * INSTANCE_MIB) > CROWDED_SHARE));
	}

	#atRest(): void {
		const { database, region } = this.#fleet;
		for (const { id, state } of database.history({ limit: 1000 })) {
			if (!['Deployed', 'RolledBack', 'DeployFailed', 'Superseded', 'Cancelled', 'TimedOut'].includes(state)) {
				this.#broken.push(`${id} is stuck in ${state}`);
			}
		}
		for (const want of database.wants.values()) {
			for (const run of want.run) this.#restingRun(want, run);
			const obeyed = region.obeyed.get(wantKey(want));
			if (obeyed?.version !== want.version)
				this.#broken.push(`the edge obeys ${obeyed?.version} of ${want.app}, wanted is ${want.version}`);
		}
	}

	#restingRun(want: Want, run: Run): void {
		const { servers } = this.#fleet.region;
		const fits = (server: FleetServer) => (LABELS[want.app] ?? []).every((label) => server.labels.includes(label));
		const hasRoom = (server: FleetServer) =>
			fits(server) && !server.draining && server.diskFreeMiB > 1000 && this.#reservedMiB(server.name) + INSTANCE_MIB <= server.budgetMiB;
		const placed = Object.entries(run.placed ?? {});
		const sum = placed.reduce((total, [, instances]) => total + instances, 0);
		const what = `${want.app} v${run.release} (${run.as}, ${run.instances}) is placed ${JSON.stringify(run.placed)}`;
		const anybody = servers.some((server) => fits(server) && !server.draining);
		if (sum !== run.instances && anybody) this.#broken.push(`${what}: ${sum} in all`);
		for (const [name, instances] of placed) {
			const server = servers.find((one) => one.name === name);
			const room = servers.find(hasRoom);
			if ((!server || server.draining) && room) this.#broken.push(`${what}, though ${name} goes and ${room.name} has room`);
			const there = server?.groups.get(wantKey(want))?.seats.filter((seat) => seat.release === run.release && seat.healthy).length ?? 0;
			const crowded = server && server.usedMiB() + INSTANCE_MIB > server.budgetMiB;
			const bad = this.#fleet.bad.has(`${want.app} v${run.release}`);
			if (server && there !== instances && !bad && !crowded && run.as !== 'warm') this.#broken.push(`${what}, and ${name} runs ${there}`);
		}
		for (const server of servers) {
			const seats = server.groups.get(wantKey(want))?.seats.filter((seat) => seat.release === run.release) ?? [];
			if (seats.length > 0 && !run.placed?.[server.name]) this.#broken.push(`${what}, and ${server.name} runs ${seats.length}`);
		}
	}
}

export function inputOf(app: string, content: string, instances: number, labels: readonly string[] = LABELS[app] ?? []): DeployInput {
	const base = input(sha256(`${app} ${content}`));
	const { release } = base;
	const config = { ...release.config, app, instances, servers: [...labels] };
	return { ...base, app, release: { ...release, config, spec: { ...release.spec, app } } };
}

function named({ release, as, instances }: Run): string {
	return `${release} ${as} ${instances}`;
}

function same(a: Run, b: Run): boolean {
	return samePlaced(a.placed ?? {}, b.placed ?? {});
}

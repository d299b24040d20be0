import { isFinal, type State } from '#pipeline/states.ts';
import type { Deployment } from '#wire/api.ts';
import type { Want } from '#wire/region.ts';
import type { MemoryDatabase } from './memory-database.ts';
import type { Region } from './region.ts';

/** What must hold whatever happens. `always` is asked each second and sees every change of the database since. */
export class Invariants {
	readonly #database: MemoryDatabase;
	readonly #regions: readonly Region[];
	readonly #broken: (what: string) => void;
	readonly #applied = new Map<string, number>();

	constructor(database: MemoryDatabase, regions: readonly Region[], broken: (what: string) => void) {
		this.#database = database;
		this.#regions = regions;
		this.#broken = broken;
		this.#watchTransactions();
	}

	always(): void {
		for (const edge of this.#regions.flatMap((region) => region.edges)) {
			if (edge.applied < (this.#applied.get(edge.name) ?? 0)) this.#broken(`${edge.name}: went back to version ${edge.applied}`);
			this.#applied.set(edge.name, edge.applied);
		}
	}

	/** Long after the last accident. */
	atRest(): void {
		const history = this.#database.history({ limit: 1000 });
		for (const { id, state, watchUntil } of history) {
			if (!isFinal(state)) this.#broken(`${id} is stuck in ${state}`);
			if (watchUntil !== null) this.#broken(`${id} is watched for ever`);
		}
		const deployed = history.filter((one) => one.state === 'Deployed').toSorted((a, b) => b.endedAt! - a.endedAt!);
		for (const region of this.#regions) this.#restingRegion(region, deployed[0] ?? null);
	}

	#restingRegion(region: Region, last: Deployment | null): void {
		const want = [...this.#database.wants.values()].find((one) => one.region === region.name);
		if (!want) return;
		const serving = last?.release ?? null;
		const state = last?.regions.find((one) => one.name === region.name)?.state;
		if (want.pointer.primary !== serving && state !== 'failed') {
			this.#broken(`${region.name} should serve ${named(serving)}, its pointer says ${named(want.pointer.primary)} (${state})`);
		}
		if (want.pointer.candidate) this.#broken(`${region.name} still has a candidate`);
		for (const edge of region.edges) {
			if (edge.applied !== want.version || edge.serves !== want.pointer.primary) {
				this.#broken(
					`${edge.name} serves ${named(edge.serves)} at version ${edge.applied}, wanted is ${named(want.pointer.primary)} at ${want.version}`,
				);
			}
		}
		const runs = want.run.map((run) => run.release).toSorted((a, b) => a - b);
		const seats = [...region.seats.keys()].toSorted((a, b) => a - b);
		if (runs.join() !== seats.join()) this.#broken(`${region.name} runs ${seats.join()}, wanted are ${runs.join()}`);
		const expected = want.pointer.primary === null ? [] : [want.pointer.primary];
		if (state !== 'failed' && runs.join() !== expected.join())
			this.#broken(`${region.name} still has to run ${runs.join()}, of which only ${expected.join()} serves`);
	}

	/** Sees every transaction as it is committed. */
	#watchTransactions(): void {
		const database = this.#database;
		const create = database.create.bind(database);
		const advance = database.advance.bind(database);
		const write = database.write.bind(database);
		database.create = (input, now) => this.#around(() => create(input, now));
		database.advance = (step) => this.#around(() => advance(step));
		database.write = (of) => this.#around(() => write(of));
	}

	#around<T>(transaction: () => T): T {
		const states = new Map([...this.#database.deployments].map(([id, row]) => [id, row.deployment.state]));
		const wants = new Map(this.#database.wants);
		const result = transaction();
		for (const { deployment } of this.#database.deployments.values()) {
			if (states.get(deployment.id) !== deployment.state) this.#transition(deployment);
		}
		for (const [key, want] of this.#database.wants) if (wants.get(key) !== want) this.#pointer(wants.get(key), want);
		this.#oneWalk();
		return result;
	}

	#transition(deployment: Deployment): void {
		if (deployment.state === 'Deployed') this.#confirmed(deployment, 'live', (region) => obeys(region, deployment));
		if (deployment.state === 'RolledBack') this.#confirmed(deployment, 'rolled-back', (region) => this.#isBack(region, deployment));
	}

	/** A rollback to what served before may itself be undone: then it is right that it serves. */
	#isBack(region: Region, deployment: Deployment): boolean {
		const want = [...this.#database.wants.values()].find((one) => one.region === region.name);
		return want?.pointer.primary === deployment.release || region.edges.some((edge) => edge.serves !== deployment.release);
	}

	/** Success is recorded last: every region that the record calls so really is. */
	#confirmed(deployment: Deployment, state: string, holds: (region: Region) => boolean): void {
		const claimed = deployment.regions.filter((one) => one.state === state).map((one) => one.name);
		if (state === 'live' && claimed.length === 0) this.#broken(`${deployment.id} is Deployed and live nowhere`);
		for (const region of this.#regions) {
			if (claimed.includes(region.name) && !holds(region))
				this.#broken(`${deployment.id} is ${deployment.state}, but ${region.name} is not ${state}`);
		}
	}

	/** Nothing that was Deployed is undone but by a deployment that says so. */
	#pointer(before: Want | undefined, after: Want): void {
		if (before && after.version !== before.version + 1) this.#broken(`${after.region}: from version ${before.version} to ${after.version}`);
		const from = before?.pointer.primary ?? null;
		const to = after.pointer.primary;
		if (from === to) return;
		const by = after.deployment === null ? null : this.#database.deployments.get(after.deployment)?.deployment;
		if (by && to === by.release && BEFORE_POINTERS.includes(by.state))
			this.#broken(`${after.region}: ${by.id} moved the pointer while it was ${by.state}`);
		const allowed = by && (to === by.release || from === by.release);
		if (!allowed) this.#broken(`${after.region}: ${by?.id ?? 'nobody'} moved the pointer from ${named(from)} to ${named(to)}`);
	}

	#oneWalk(): void {
		const walking: State[] = ['CanaryCheck', 'RollingOut'];
		const open = [...this.#database.deployments.values()].filter((row) => walking.includes(row.deployment.state));
		if (open.length > 1) this.#broken(`${open.map((row) => row.deployment.id).join(' and ')} walk at once`);
	}
}

const BEFORE_POINTERS: readonly State[] = ['Testing', 'TestFailed', 'ReadyToDeploy', 'Deploying'];

function obeys(region: Region, deployment: Deployment): boolean {
	return region.edges.some((edge) => edge.obeyed.has(`${deployment.id} v${deployment.release}`) || edge.serves === deployment.release);
}

function named(release: number | null): string {
	return release === null ? 'nothing' : `v${release}`;
}

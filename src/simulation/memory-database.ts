import type { Advance, Held, NewDeployment, PointerWrite } from '#control/ports.ts';
import { isFinal, transition } from '#pipeline/states.ts';
import type { Deployment } from '#wire/api.ts';
import type { AppConfig } from '#wire/config.ts';
import type { ReleaseSpec, Want } from '#wire/region.ts';

export class MemoryError extends Error {
	readonly code: 'fenced' | 'stale' | 'unknown' | 'database_unavailable';
	constructor(code: MemoryError['code'], message: string) {
		super(message);
		this.code = code;
	}
}

interface ReleaseRow {
	spec: ReleaseSpec;
	commit: string | null;
	createdAt: number;
	config: AppConfig;
}

/** What the database holds and how a transaction changes it: the same fence, compare-and-set and table of states as PostgreSQL's functions. */
export class MemoryDatabase {
	readonly deployments = new Map<string, Held>();
	readonly wants = new Map<string, Want>();
	readonly releases: ReleaseRow[] = [];
	epoch = 1;
	/** Deliberately broken variants leave these out. */
	readonly checks: { fence: boolean; compareAndSet: boolean };
	#ids = 0;

	constructor(checks = { fence: true, compareAndSet: true }) {
		this.checks = checks;
	}

	create(input: NewDeployment, now: number): Held & { spec: ReleaseSpec; wants: Want[] } {
		const id = `dpl_${String(this.#ids++).padStart(8, '0')}`;
		const isNew = typeof input.release !== 'number';
		const number = typeof input.release === 'number' ? input.release : this.releases.length + 1;
		const known = this.releases.find((row) => row.spec.release === number);
		if (!isNew && !known) throw new MemoryError('unknown', `there is no release v${number}`);
		const planned = structuredClone(input.plan(number, id));
		this.#checkWrites(input.app, input.environment, planned.writes);
		const superseded = input.supersedes.map((other) => this.#row(other)).filter((row) => !isFinal(row.deployment.state));
		for (const row of superseded) transition(row.deployment.state, 'Superseded');
		if (typeof input.release !== 'number') {
			const { config, spec } = structuredClone(input.release);
			this.releases.push({ spec: { ...spec, release: number, deployment: id }, commit: input.git?.commit ?? null, createdAt: now, config });
		}
		const release = this.releases[number - 1]!;
		for (const row of superseded) {
			row.deployment = { ...row.deployment, state: 'Superseded', reason: 'superseded', endedAt: now };
			row.version++;
			row.fence++;
		}
		const deployment = deploymentOf(input, id, release, planned.regions, now);
		this.deployments.set(id, { deployment, fence: 1, version: 1, rollout: planned.rollout, owner: input.owner });
		const wants = this.#write(input.app, input.environment, id, planned.writes, false);
		return structuredClone({ deployment, fence: 1, version: 1, owner: input.owner, rollout: planned.rollout, spec: release.spec, wants });
	}

	advance(step: Advance): { version: number; wants: Want[]; deployment: Deployment } {
		const row = this.#row(step.deployment);
		const { app, environment, id } = row.deployment;
		if (this.checks.fence && row.fence !== step.fence) throw new MemoryError('fenced', `${id} was taken over by ${row.owner}`);
		if (this.checks.fence && row.version !== step.version) throw new MemoryError('stale', `${id} is at version ${row.version}`);
		if (step.to) transition(row.deployment.state, step.to);
		this.#checkWrites(app, environment, step.writes ?? []);
		const { to, rollout, at } = structuredClone(step);
		const ended = to !== undefined && isFinal(to);
		row.deployment = {
			...row.deployment,
			...(to ? { state: to, stages: [...row.deployment.stages, { state: to, at }] } : {}),
			...(ended ? { endedAt: at } : {}),
			...pick(step, ['reason', 'detail', 'regions', 'timings', 'canary', 'coldStarts', 'watchUntil']),
		};
		if (rollout !== undefined) row.rollout = rollout;
		row.version++;
		const wants = this.#write(app, environment, id, step.writes ?? [], false);
		return structuredClone({ version: row.version, wants, deployment: row.deployment });
	}

	lanes(): { app: string; environment: string; owners: string[] }[] {
		const all = [...this.deployments.values()];
		const driven = all.filter(({ deployment }) => deployment.endedAt === null || deployment.watchUntil !== null);
		const deployed = all.filter(({ deployment }) => deployment.state === 'Deployed');
		// Of each lane the last.
		const last = new Map(deployed.map((row) => [`${row.deployment.app}/${row.deployment.environment}`, row]));
		const rows = [...driven, ...last.values()];
		return [...Map.groupBy(rows, ({ deployment }) => `${deployment.app}/${deployment.environment}`).values()].map((theirs) => {
			const { app, environment } = theirs[0]!.deployment;
			return { app, environment, owners: [...new Set(theirs.map(({ owner }) => owner))] };
		});
	}

	take(id: string, owner: string, from?: readonly string[]): Held {
		const row = this.#row(id);
		if (this.checks.fence && from !== undefined && !from.includes(row.owner))
			throw new MemoryError('fenced', `${id} was taken over by ${row.owner}`);
		row.fence++;
		row.owner = owner;
		return structuredClone(row);
	}

	open(): Held[] {
		const open = [...this.deployments.values()].filter(({ deployment }) => !isFinal(deployment.state) || deployment.watchUntil !== null);
		return structuredClone(open);
	}

	history(of: { app?: string; environment?: string; limit: number; before?: number }): Deployment[] {
		const all = [...this.deployments.values()].map((row) => row.deployment).toReversed();
		const found = all.filter(
			(one) =>
				(of.app === undefined || one.app === of.app) &&
				(of.environment === undefined || one.environment === of.environment) &&
				(of.before === undefined || one.createdAt < of.before),
		);
		return structuredClone(found.slice(0, of.limit));
	}

	wantsOf(of: { app?: string; environment?: string }): Want[] {
		const all = [...this.wants.values()];
		return structuredClone(
			all.filter((want) => (of.app ?? want.app) === want.app && (of.environment ?? want.environment) === want.environment),
		);
	}

	write(of: { app: string; environment: string; writes: PointerWrite[]; removed?: boolean }): Want[] {
		this.#checkWrites(of.app, of.environment, of.writes);
		return structuredClone(this.#write(of.app, of.environment, null, of.writes, of.removed ?? false));
	}

	releasesOf(app: string, numbers: readonly number[]): (ReleaseSpec & { commit: string | null; createdAt: number; config: AppConfig })[] {
		const rows = this.releases.filter(({ spec }) => spec.app === app && numbers.includes(spec.release));
		return structuredClone(rows.map(({ spec, commit, createdAt, config }) => ({ ...spec, commit, createdAt, config })));
	}

	#row(id: string): Held {
		const row = this.deployments.get(id);
		if (!row) throw new MemoryError('unknown', `there is no deployment ${id}`);
		return row;
	}

	/** All before any: a transaction is whole or nothing. */
	#checkWrites(app: string, environment: string, writes: readonly PointerWrite[]): void {
		if (!this.checks.compareAndSet) return;
		for (const { region, expect } of writes) {
			const want = this.wants.get(`${region}/${app}/${environment}`);
			if (want?.epoch !== expect?.epoch || want?.version !== expect?.version)
				throw new MemoryError('stale', `the pointer in ${region} moved on`);
		}
	}

	#write(app: string, environment: string, deployment: string | null, writes: readonly PointerWrite[], removed: boolean): Want[] {
		return structuredClone(writes).map(({ region, pointer, run }) => {
			const key = `${region}/${app}/${environment}`;
			const version = (this.wants.get(key)?.version ?? 0) + 1;
			const want: Want = {
				app,
				environment,
				region,
				epoch: this.epoch,
				version,
				deployment,
				pointer,
				run,
				...(removed ? { removed } : {}),
			};
			this.wants.set(key, want);
			return want;
		});
	}
}

function deploymentOf(input: NewDeployment, id: string, release: ReleaseRow, regions: Deployment['regions'], now: number): Deployment {
	const { app, environment, kind, previous, cause, by, why, modules, url, state } = input;
	return {
		id,
		app,
		environment,
		kind,
		release: release.spec.release,
		previous,
		artifact: release.spec.artifact,
		commit: release.commit,
		branch: null,
		dirty: false,
		state,
		reason: null,
		detail: null,
		cause,
		by,
		why,
		createdAt: now,
		endedAt: null,
		watchUntil: null,
		regions,
		stages: [...input.stages, { state, at: now }],
		timings: { prepareMs: null, canaryMs: null, rolloutMs: null },
		canary: null,
		modules,
		coldStarts: 0,
		url,
	};
}

/** Keys that the step leaves out keep their column. */
function pick<K extends keyof Advance>(step: Advance, keys: readonly K[]): Partial<Pick<Advance, K>> {
	const picked: Partial<Pick<Advance, K>> = {};
	for (const key of keys) if (step[key] !== undefined) picked[key] = structuredClone(step[key]);
	return picked;
}

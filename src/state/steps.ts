import type { Clock } from '#clock/clock.ts';
import { canonicalJson, isDigest, sha256, type Digest } from '#digest/digest.ts';
import type { StepEntry, StepParts } from '#wire/steps.ts';
import { toJson, type Database } from './database.ts';

/** Results of steps. Written once, checked when they are read. */
export interface Steps {
	/**
	 * What is known under this key in the first of these domains that knows it; null: nothing, or something that is not what was
	 * written, which is forgotten at once (`corrupt`).
	 */
	find(of: StepPlace & { domains: readonly string[] }): Promise<{ entry: StepEntry | null; corrupt: boolean }>;
	/** false: there is one already, and it stays. One that failed gives way. */
	store(of: StepPlace & { domain: string; entry: StepEntry; parts: StepParts }): Promise<boolean>;
	forget(of: StepPlace & { domains: readonly string[] }): Promise<void>;
	/** Notes what a step of a build was keyed by. */
	ran(run: StepRun): Promise<void>;
	/** The runs of a step, newest first, from that of the deployment on, if one is named. */
	runs(of: { app: string; environment: string; name: string; deployment: string | null; limit: number }): Promise<StepRun[]>;
	/** Names of the steps that ran in this environment. */
	names(app: string, environment: string): Promise<string[]>;
}

export interface StepPlace {
	scope: string;
	key: Digest;
}

export interface StepRun {
	app: string;
	environment: string;
	name: string;
	deployment: string;
	scope: string;
	domain: string;
	key: Digest;
	parts: StepParts;
	cached: boolean;
	at: number;
}

/** A use within so much of the last is not noted. */
const NOTED_EACH_MS = 3_600_000;
const DAY_MS = 86_400_000;
const UNUSED_KEPT_MS = 14 * DAY_MS;
const RUNS_KEPT_MS = 30 * DAY_MS;

export class StepTable implements Steps {
	private readonly db: Database;
	private readonly clock: Clock;

	constructor(db: Database, clock: Clock) {
		this.db = db;
		this.clock = clock;
	}

	async find({ scope, key, domains }: StepPlace & { domains: readonly string[] }): Promise<{ entry: StepEntry | null; corrupt: boolean }> {
		const now = this.clock.now();
		const found = await this.db.call<{ entry: StepEntry; parts: StepParts; seal: string; domain: string; usedAt: number } | null>(
			'jibe_find_step',
			`select (select jsonb_build_object('entry', entry, 'parts', parts, 'seal', seal, 'domain', domain, 'usedAt', used_at)
				from jibe.step_entry where scope = $1 and key = $2 and domain = any($3) and passed order by array_position($3, domain) limit 1)`,
			[scope, key, domains],
		);
		if (found === null) return { entry: null, corrupt: false };
		if (found.seal !== sealOf(found.entry, found.parts) || found.entry.key !== key) {
			await this.forget({ scope, key, domains: [found.domain] });
			return { entry: null, corrupt: true };
		}
		if (now - found.usedAt > NOTED_EACH_MS) {
			const used = `with noted as (update jibe.step_entry set used_at = $4 where scope = $1 and key = $2 and domain = $3 returning 1)
				select count(*) from noted`;
			await this.db.call('jibe_used_step', used, [scope, key, found.domain, now]);
		}
		return { entry: found.entry, corrupt: false };
	}

	store({ scope, key, domain, entry, parts }: Parameters<Steps['store']>[0]): Promise<boolean> {
		return this.db.call(
			'jibe_store_step',
			`with stored as (
				insert into jibe.step_entry as e (scope, domain, key, passed, entry, parts, seal, created_at, used_at)
				values ($1, $2, $3, $4, $5, $6, $7, $8, $8)
				on conflict (scope, domain, key) do update set
					passed = excluded.passed, entry = excluded.entry, parts = excluded.parts, seal = excluded.seal, used_at = excluded.used_at
				where not e.passed
				returning 1)
			select exists (select from stored)`,
			[scope, domain, key, entry.exitCode === 0, toJson(entry), toJson(parts), sealOf(entry, parts), this.clock.now()],
		);
	}

	async forget({ scope, key, domains }: StepPlace & { domains: readonly string[] }): Promise<void> {
		await this.db.call(
			'jibe_forget_step',
			`with gone as (delete from jibe.step_entry where scope = $1 and key = $2 and domain = any($3) returning 1) select count(*) from gone`,
			[scope, key, domains],
		);
	}

	async ran(run: StepRun): Promise<void> {
		await this.db.call(
			'jibe_ran_step',
			`with noted as (
				insert into jibe.step_run (app, environment, name, deployment, scope, domain, key, parts, cached, at)
				values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
				on conflict (app, environment, name, deployment) do update set
					key = excluded.key, parts = excluded.parts, cached = excluded.cached, at = excluded.at
				returning 1)
			select count(*) from noted`,
			[run.app, run.environment, run.name, run.deployment, run.scope, run.domain, run.key, toJson(run.parts), run.cached, run.at],
		);
	}

	runs({ app, environment, name, deployment, limit }: Parameters<Steps['runs']>[0]): Promise<StepRun[]> {
		return this.db.call(
			'jibe_step_runs',
			`select coalesce(jsonb_agg(to_jsonb(r) order by at desc, deployment desc), '[]') from (
				select * from jibe.step_run where app = $1 and environment = $2 and name = $3
					and ($4::text is null or (at, deployment) <= (
						select f.at, f.deployment from jibe.step_run f where f.app = $1 and f.environment = $2 and f.name = $3 and f.deployment = $4))
				order by at desc, deployment desc limit $5) r`,
			[app, environment, name, deployment, limit],
		);
	}

	names(app: string, environment: string): Promise<string[]> {
		return this.db.call(
			'jibe_step_names',
			`select coalesce(jsonb_agg(distinct name), '[]') from jibe.step_run where app = $1 and environment = $2`,
			[app, environment],
		);
	}
}

function sealOf(entry: StepEntry, parts: StepParts): Digest {
	return sha256(canonicalJson({ entry, parts }));
}

/** Forgets what was not used for long, and says which blobs must stay for the rest. */
export async function collectSteps(db: Database, now: number): Promise<Digest[]> {
	await db.call(
		'jibe_drop_steps',
		`with entries as (delete from jibe.step_entry where used_at < $1 returning 1),
			runs as (delete from jibe.step_run where at < $2 returning 1)
		select (select count(*) from entries) + (select count(*) from runs)`,
		[now - UNUSED_KEPT_MS, now - RUNS_KEPT_MS],
	);
	const kept = await db.call<(string | null)[]>(
		'jibe_step_blobs',
		`select coalesce(jsonb_agg(distinct digest), '[]') from (
			select entry ->> 'archive' as digest from jibe.step_entry union all select entry ->> 'log' from jibe.step_entry
			union all select parts ->> 'inputs' from jibe.step_entry union all select parts ->> 'inputs' from jibe.step_run) d`,
		[],
	);
	return kept.filter((digest) => digest !== null).filter((digest) => isDigest(digest));
}

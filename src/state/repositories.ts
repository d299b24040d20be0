import { sql, type Compilable } from 'kysely';
import type { Clock } from '#clock/clock.ts';
import type { PullRequest, Repository } from '#wire/repositories.ts';
import { auditEntry } from './audit.ts';
import { toJson, type Database } from './database.ts';
import type { EventFeed } from './events.ts';
import { PushedTable, type Pushed } from './pushed.ts';
import type { NewEvent } from './state.ts';

/** Repositories that pushes come from, and the pull requests of forks that wait for a person. */
export interface Repositories {
	readonly pushed: Pushed;
	/** Sorted by name. */
	list(): Promise<RepositoryRow[]>;
	get(name: string): Promise<RepositoryRow | null>;
	/** Makes it, or changes all of it. */
	put(of: Omit<Repository, 'createdAt' | 'changedAt'>): Promise<RepositoryRow>;
	/** With all that was told of it, and its secrets. false: there is none. */
	remove(name: string, by: string): Promise<boolean>;
	/** Of all repositories, or of one; newest first. */
	pullRequests(repository: string | null): Promise<PullRequest[]>;
	/** What the forge says of it now; what was approved stays approved. */
	sawPullRequest(of: Omit<PullRequest, 'approved' | 'seenAt'>): Promise<PullRequest>;
	/** null: it is closed, not there, or has another commit by now. */
	approve(of: { repository: string; number: number; commit: string; by: string }): Promise<PullRequest | null>;
	/** Private addresses that control may connect to. */
	allowed(): Promise<{ address: string; by: string; at: number }[]>;
	/** false: nothing changed. */
	allow(address: string, by: string): Promise<boolean>;
	disallow(address: string, by: string): Promise<boolean>;
}

/** `version`: one up with every change. */
export type RepositoryRow = Repository & { version: number };

/** Under which its secrets are kept: no app can have this name. */
export function secretsOf(repository: string): { app: string; environment: string } {
	return { app: `repository:${repository}`, environment: 'production' };
}

const LISTED_PULL_REQUESTS = 1_000;

type Run = <R>(query: Compilable<R>) => Promise<R[]>;

export class RepositoryTable implements Repositories {
	private readonly db: Database;
	private readonly clock: Clock;
	private readonly events: EventFeed;
	readonly pushed: Pushed;

	constructor(db: Database, clock: Clock, events: EventFeed) {
		this.pushed = new PushedTable(db, clock);
		this.db = db;
		this.clock = clock;
		this.events = events;
	}

	async list(): Promise<RepositoryRow[]> {
		const rows = await this.db.rows(this.db.build.selectFrom('jibe.repository').selectAll().orderBy('name'));
		return rows.map(rowOf);
	}

	async get(name: string): Promise<RepositoryRow | null> {
		const [row] = await this.db.rows(this.db.build.selectFrom('jibe.repository').selectAll().where('name', '=', name));
		return row ? rowOf(row) : null;
	}

	async put(of: Parameters<Repositories['put']>[0]): Promise<RepositoryRow> {
		const at = this.clock.now();
		const { name, forge, url, api, by } = of;
		const row = { forge, url, api, apps: json(of.apps), rules: json(of.rules), changed_at: at, by };
		const made = await this.db.transaction(async (rows) => {
			const [written] = await rows(
				this.db.build
					.insertInto('jibe.repository')
					.values({ name, ...row, created_at: at })
					.onConflict((conflict) =>
						conflict.column('name').doUpdateSet((old) => ({ ...row, version: old('jibe.repository.version', '+', 1) })),
					)
					.returningAll(),
			);
			await this.record(rows, { at, by, action: 'repository.changed', detail: { name, forge, url, apps: of.apps, rules: of.rules } });
			return written!;
		});
		this.events.hint();
		return rowOf(made);
	}

	async remove(name: string, by: string): Promise<boolean> {
		const at = this.clock.now();
		const { build } = this.db;
		const removed = await this.db.transaction(async (rows) => {
			const [pushed] = await rows(build.deleteFrom('jibe.pushed_repository').where('repository', '=', name).returning('repository'));
			const [row] = await rows(build.deleteFrom('jibe.repository').where('name', '=', name).returning('name'));
			if (!row && !pushed) return false;
			await rows(build.deleteFrom('jibe.delivery').where('repository', '=', name));
			await rows(build.deleteFrom('jibe.pull_request').where('repository', '=', name));
			await rows(build.deleteFrom('jibe.commit_status').where('repository', '=', name));
			await rows(build.deleteFrom('jibe.secret').where('app', '=', secretsOf(name).app));
			await this.record(rows, { at, by, action: 'repository.removed', detail: { name } });
			return true;
		});
		this.events.hint();
		return removed;
	}

	async pullRequests(repository: string | null): Promise<PullRequest[]> {
		let query = this.db.build.selectFrom('jibe.pull_request').selectAll().orderBy('seen_at', 'desc').limit(LISTED_PULL_REQUESTS);
		if (repository !== null) query = query.where('repository', '=', repository);
		return (await this.db.rows(query)).map(pullRequestOf);
	}

	async sawPullRequest(of: Parameters<Repositories['sawPullRequest']>[0]): Promise<PullRequest> {
		const { repository, number, title, author, from: source, branch, commit, state } = of;
		const seen = { title, author, source, branch, commit, state, seen_at: this.clock.now() };
		const [row] = await this.db.rows(
			this.db.build
				.insertInto('jibe.pull_request')
				.values({ repository, number, ...seen, approved_commit: null, approved_by: null, approved_at: null })
				.onConflict((conflict) => conflict.columns(['repository', 'number']).doUpdateSet(seen))
				.returningAll(),
		);
		return pullRequestOf(row!);
	}

	async approve({ repository, number, commit, by }: Parameters<Repositories['approve']>[0]): Promise<PullRequest | null> {
		const at = this.clock.now();
		const approved = await this.db.transaction(async (rows) => {
			const [row] = await rows(
				this.db.build
					.updateTable('jibe.pull_request')
					.set({ approved_commit: commit, approved_by: by, approved_at: at })
					.where('repository', '=', repository)
					.where('number', '=', number)
					.where('commit', '=', commit)
					.where('state', '=', 'open')
					.returningAll(),
			);
			if (!row) return null;
			await this.record(rows, { at, by, action: 'pull_request.approved', detail: { repository, number, commit, from: row.source } });
			return pullRequestOf(row);
		});
		this.events.hint();
		return approved;
	}

	allowed(): Promise<{ address: string; by: string; at: number }[]> {
		return this.db.rows(this.db.build.selectFrom('jibe.outbound_allowed').selectAll().orderBy('address'));
	}

	async allow(address: string, by: string): Promise<boolean> {
		const at = this.clock.now();
		return this.db.transaction(async (rows) => {
			const insert = this.db.build.insertInto('jibe.outbound_allowed').values({ address, by, at });
			const [row] = await rows(insert.onConflict((conflict) => conflict.doNothing()).returning('address'));
			if (row) await this.record(rows, { at, by, action: 'outbound.allowed', detail: { address } });
			return row !== undefined;
		});
	}

	async disallow(address: string, by: string): Promise<boolean> {
		const at = this.clock.now();
		return this.db.transaction(async (rows) => {
			const [row] = await rows(this.db.build.deleteFrom('jibe.outbound_allowed').where('address', '=', address).returning('address'));
			if (row) await this.record(rows, { at, by, action: 'outbound.disallowed', detail: { address } });
			return row !== undefined;
		});
	}

	/** In the transaction of the change itself. */
	private async record(rows: Run, of: { at: number; by: string; action: string; detail: Record<string, unknown> }): Promise<void> {
		const { at, by, action, detail } = of;
		await rows(auditEntry(this.db, { at, by, action, app: null, environment: null, detail }));
		const event: NewEvent = { at, type: action, app: null, environment: null, deployment: null, data: detail };
		const publish = sql`select jibe.publish(${toJson([event])}::jsonb)`;
		await rows({ compile: () => publish.compile(this.db.build) });
	}
}

/** The driver would write an array as one of PostgreSQL's own. */
export function json<T>(value: T): T {
	return toJson(value) as unknown as T;
}

interface Columns {
	name: string;
	forge: Repository['forge'];
	url: string | null;
	api: string | null;
	apps: Repository['apps'];
	rules: Repository['rules'];
	version: number;
	created_at: number;
	changed_at: number;
	by: string;
}

function rowOf({ created_at: createdAt, changed_at: changedAt, ...row }: Columns): RepositoryRow {
	return { ...row, createdAt, changedAt };
}

interface PullRequestColumns {
	repository: string;
	number: number;
	title: string;
	author: string;
	source: string;
	branch: string;
	commit: string;
	state: PullRequest['state'];
	approved_commit: string | null;
	approved_by: string | null;
	approved_at: number | null;
	seen_at: number;
}

function pullRequestOf(row: PullRequestColumns): PullRequest {
	const { approved_commit: commit, approved_by: by, approved_at: at, seen_at: seenAt, source: from, ...rest } = row;
	return { ...rest, from, seenAt, approved: commit !== null && by !== null && at !== null ? { commit, by, at } : null };
}

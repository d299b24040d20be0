import { sql, type Compilable } from 'kysely';
import type { Clock } from '#clock/clock.ts';
import type { Database } from './database.ts';
import { json } from './repositories.ts';

/**
 * What forges told control, kept until it is done, and what they are to be told, until they know. Both are claimed for a
 * while by one control of several, and by another when that one is gone.
 */
export interface Deliveries {
	/** false: it was told before. */
	receive(of: NewDelivery): Promise<boolean>;
	/** The one that waits longest in a repository where nothing is claimed, with all others that wait for the same ref of it. */
	claim(worker: string, leaseMs: number): Promise<Claimed | null>;
	/** Whoever claimed it is still at it. false: somebody else has it by now. */
	beat(claimed: Claimed, worker: string, leaseMs: number): Promise<boolean>;
	/** Of those claimed by this worker only. `againAt`: not over yet, another try then. */
	end(of: { claimed: Claimed; worker: string; state: 'done' | 'ignored' | 'failed'; outcome: string; againAt?: number }): Promise<void>;
	/** How many wait, and when the next one may be claimed. */
	waiting(): Promise<{ count: number; nextAt: number | null }>;
	/** The last of each repository. */
	last(): Promise<Map<string, LastDelivery>>;
	/** The newest first. */
	of(repository: string, limit: number): Promise<(LastDelivery & { id: string })[]>;
	/** What is known of that one; null: it was never told. */
	get(repository: string, id: string): Promise<LastDelivery | null>;
}

export interface NewDelivery {
	repository: string;
	/** The forge's own name for it. */
	id: string;
	event: string;
	/** What to look at. */
	ref: string | null;
	detail: Record<string, unknown>;
	/** Absent: it waits to be worked on. */
	ended?: { state: 'done' | 'ignored' | 'failed'; outcome: string };
}

export interface Claimed {
	repository: string;
	ref: string | null;
	event: string;
	detail: Record<string, unknown>;
	ids: string[];
	/** This one counted. */
	attempts: number;
}

export interface LastDelivery {
	at: number;
	event: string;
	ref: string | null;
	state: string;
	outcome: string | null;
}

export interface CommitStatus {
	repository: string;
	commit: string;
	/** Names it beside others: `jibe/notes (production)`. */
	context: string;
	state: 'pending' | 'success' | 'failure' | 'error';
	description: string;
	url: string;
	at: number;
}

export interface CommitStatuses {
	/** Control is to tell this, unless it has something newer of the same context. */
	want(status: CommitStatus): Promise<void>;
	/** Some that the forges do not know. */
	claim(limit: number, leaseMs: number): Promise<(CommitStatus & { attempts: number })[]>;
	told(status: CommitStatus): Promise<void>;
	/** null for `againAt`: given up. */
	failed(status: CommitStatus, problem: string, againAt: number | null): Promise<void>;
	nextAt(): Promise<number | null>;
}

/** Two controls must not both find that a repository is nobody's. */
const CLAIM_LOCK = 7104308;
/** Of a repository, besides those that wait. */
const KEPT = 500;
const PRUNE_EACH = 50;
const STATUS_KEPT_MS = 30 * 86_400_000;
const MAX_OUTCOME = 4_000;
const MAX_PROBLEM = 1_000;

export class DeliveryTable implements Deliveries {
	private readonly db: Database;
	private readonly clock: Clock;
	private received = 0;

	constructor(db: Database, clock: Clock) {
		this.db = db;
		this.clock = clock;
	}

	async receive({ repository, id, event, ref, detail, ended }: NewDelivery): Promise<boolean> {
		const at = this.clock.now();
		const state = ended?.state ?? 'waiting';
		const row = {
			repository,
			id,
			at,
			event,
			ref,
			detail: json(detail),
			state,
			outcome: ended?.outcome ?? null,
			ended_at: ended ? at : null,
		};
		const insert = this.db.build.insertInto('jibe.delivery').values({ ...row, next_at: at, claimed_by: null, claimed_until: null });
		const [made] = await this.db.rows(insert.onConflict((conflict) => conflict.doNothing()).returning('id'));
		if (made && ++this.received % PRUNE_EACH === 0) await this.prune(repository);
		return made !== undefined;
	}

	claim(worker: string, leaseMs: number): Promise<Claimed | null> {
		const now = this.clock.now();
		return this.db.transaction(async (rows) => {
			await rows(this.compiled(sql`select pg_advisory_xact_lock(${sql.lit(CLAIM_LOCK)})`));
			const claimed = await rows(
				this.compiled<Claimed & { at: number; id: string }>(sql`
				with first as (
					select repository, ref, event from jibe.delivery d
					where state = 'waiting' and next_at <= ${now} and (claimed_until is null or claimed_until <= ${now})
						and not exists (select from jibe.delivery o where o.repository = d.repository and o.state = 'waiting' and o.claimed_until > ${now})
					order by at, id limit 1
				)
				update jibe.delivery d
				set claimed_by = ${worker}, claimed_until = ${now + leaseMs}, attempts = attempts + 1
				from first
				where d.state = 'waiting' and d.repository = first.repository and d.ref is not distinct from first.ref and d.event = first.event
				returning d.repository, d.ref, d.event, d.detail, d.id, d.attempts, d.at`),
			);
			if (claimed.length === 0) return null;
			const newest = claimed.toSorted((a, b) => b.at - a.at)[0]!;
			const attempts = Math.min(...claimed.map((one) => one.attempts));
			return { repository: newest.repository, ref: newest.ref, event: newest.event, detail: newest.detail, ids: claimed.map(({ id }) => id), attempts }; // prettier-ignore
		});
	}

	async beat({ repository, ids }: Claimed, worker: string, leaseMs: number): Promise<boolean> {
		const kept = await this.db.rows(
			this.db.build
				.updateTable('jibe.delivery')
				.set({ claimed_until: this.clock.now() + leaseMs })
				.where('repository', '=', repository)
				.where('id', 'in', ids)
				.where('claimed_by', '=', worker)
				.where('state', '=', 'waiting')
				.returning('id'),
		);
		return kept.length > 0;
	}

	async end({ claimed, worker, state, outcome, againAt }: Parameters<Deliveries['end']>[0]): Promise<void> {
		const over = againAt === undefined;
		await this.db.rows(
			this.db.build
				.updateTable('jibe.delivery')
				.set({
					outcome: outcome.slice(0, MAX_OUTCOME).replaceAll('\0', ''),
					claimed_until: null,
					...(over ? { state, ended_at: this.clock.now() } : { next_at: againAt }),
				})
				.where('repository', '=', claimed.repository)
				.where('id', 'in', claimed.ids)
				.where('claimed_by', '=', worker)
				.where('state', '=', 'waiting'),
		);
	}

	async waiting(): Promise<{ count: number; nextAt: number | null }> {
		const [row] = await this.db.rows(
			this.compiled<{ count: number; nextAt: number | null }>(sql`
			select count(*) as count, min(greatest(next_at, claimed)) as "nextAt"
			from (
				select next_at, coalesce(max(claimed_until) over (partition by repository), 0) as claimed
				from jibe.delivery where state = 'waiting'
			) one`),
		);
		return { count: row?.count ?? 0, nextAt: row?.nextAt ?? null };
	}

	async last(): Promise<Map<string, LastDelivery>> {
		const rows = await this.db.rows(
			this.db.build
				.selectFrom('jibe.delivery')
				.distinctOn('repository')
				.select(['repository', 'at', 'event', 'ref', 'state', 'outcome'])
				.orderBy('repository')
				.orderBy('at', 'desc'),
		);
		return new Map(rows.map(({ repository, ...last }) => [repository, last]));
	}

	of(repository: string, limit: number): Promise<(LastDelivery & { id: string })[]> {
		return this.db.rows(
			this.db.build
				.selectFrom('jibe.delivery')
				.select(['id', 'at', 'event', 'ref', 'state', 'outcome'])
				.where('repository', '=', repository)
				.orderBy('at', 'desc')
				.limit(limit),
		);
	}

	async get(repository: string, id: string): Promise<LastDelivery | null> {
		const query = this.db.build.selectFrom('jibe.delivery').select(['at', 'event', 'ref', 'state', 'outcome']);
		const [row] = await this.db.rows(query.where('repository', '=', repository).where('id', '=', id));
		return row ?? null;
	}

	private async prune(repository: string): Promise<void> {
		await this.db.rows(
			this.compiled(sql`
			delete from jibe.delivery where repository = ${repository} and state <> 'waiting' and at < (
				select at from jibe.delivery where repository = ${repository} order by at desc offset ${sql.lit(KEPT)} limit 1)`),
		);
	}

	private compiled<T>(raw: ReturnType<typeof sql>): Compilable<T> {
		return { compile: () => raw.compile(this.db.build) };
	}
}

export class CommitStatusTable implements CommitStatuses {
	private readonly db: Database;
	private readonly clock: Clock;
	private toldCount = 0;

	constructor(db: Database, clock: Clock) {
		this.db = db;
		this.clock = clock;
	}

	async want({ repository, commit, context, state, description, url, at }: CommitStatus): Promise<void> {
		const row = { state, description, url, at, told_at: null, claimed_until: null, attempts: 0, next_at: this.clock.now(), problem: null };
		await this.db.rows(
			this.db.build
				.insertInto('jibe.commit_status')
				.values({ repository, commit, context, ...row })
				.onConflict(
					(conflict) =>
					conflict.columns(['repository', 'commit', 'context']).doUpdateSet(row)
						.where('jibe.commit_status.at', '<=', at)
						// Several controls want the same: it is told once.
						.where((of) => of.or([of('jibe.commit_status.state', '<>', state), of('jibe.commit_status.description', '<>', description)])), // prettier-ignore
				),
		);
	}

	async claim(limit: number, leaseMs: number): Promise<(CommitStatus & { attempts: number })[]> {
		const now = this.clock.now();
		const raw = sql`
			update jibe.commit_status s set claimed_until = ${now + leaseMs}, attempts = attempts + 1
			from (
				select repository, commit, context from jibe.commit_status
				where told_at is null and next_at <= ${now} and (claimed_until is null or claimed_until <= ${now})
				order by next_at limit ${limit} for update skip locked
			) due
			where s.repository = due.repository and s.commit = due.commit and s.context = due.context
			returning s.repository, s.commit, s.context, s.state, s.description, s.url, s.at, s.attempts`;
		return this.db.rows<CommitStatus & { attempts: number }>({ compile: () => raw.compile(this.db.build) });
	}

	async told(status: CommitStatus): Promise<void> {
		const now = this.clock.now();
		await this.change(status, { told_at: now, claimed_until: null, problem: null });
		if (++this.toldCount % PRUNE_EACH !== 0) return;
		await this.db.rows(this.db.build.deleteFrom('jibe.commit_status').where('told_at', '<', now - STATUS_KEPT_MS));
	}

	async failed(status: CommitStatus, problem: string, againAt: number | null): Promise<void> {
		const at = this.clock.now();
		await this.change(status, {
			claimed_until: null,
			problem: problem.slice(0, MAX_PROBLEM).replaceAll('\0', ''),
			...(againAt === null ? { told_at: at } : { next_at: againAt }),
		});
	}

	async nextAt(): Promise<number | null> {
		const [row] = await this.db.rows(
			this.db.build
				.selectFrom('jibe.commit_status')
				.select(({ fn }) => fn.min(sql<number>`greatest(next_at, coalesce(claimed_until, 0))`).as('nextAt'))
				.where('told_at', 'is', null),
		);
		return row?.nextAt ?? null;
	}

	/** Only if nothing newer is wanted by now. */
	private async change(of: CommitStatus, set: { told_at?: number; claimed_until: null; problem: string | null; next_at?: number }) {
		await this.db.rows(
			this.db.build
				.updateTable('jibe.commit_status')
				.set(set)
				.where('repository', '=', of.repository)
				.where('commit', '=', of.commit)
				.where('context', '=', of.context)
				.where('state', '=', of.state)
				.where('description', '=', of.description)
				.where('at', '=', of.at),
		);
	}
}

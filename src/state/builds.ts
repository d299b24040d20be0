import type { Clock } from '#clock/clock.ts';
import { randomId } from '#digest/digest.ts';
import type { DeploymentState } from '#wire/api.ts';
import { PRIORITIES, type ArtifactMetadata, type BuildJob, type BuildView, type NewBuild, type StepReport } from '#wire/builds.ts';
import { Turns } from './build-turns.ts';
import { toJson, type Database } from './database.ts';
import type { EventFeed } from './events.ts';

/** The queue of builds. Every change is one transaction that checks the fence: (id, attempt, worker). */
export interface Builds {
	/**
	 * Queues it, unless the same is on its way or was deployed last: then that one's id, and `already`. What it supersedes ends
	 * in the same transaction. @throws StateError queue_full
	 */
	enqueue(build: NewBuild): Promise<{ id: string; already: boolean }>;
	/** The job that this worker has already, or the next one; null: there is none for it now. */
	claim(of: { worker: string; platform: string; leaseMs: number; limitMs: number }): Promise<ClaimedBuild | null>;
	/** It lives: its lease begins anew. Answers why it must stop, or null. @throws StateError fenced, unknown */
	beat(of: Fence, leaseMs: number): Promise<Stop>;
	/** Its lease ends soon, unless it is heard of again. */
	doubt(of: Fence, leaseMs: number): Promise<void>;
	report(of: Fence, report: { state: DeploymentState | null; at: number; steps: StepReport[]; leaseMs: number }): Promise<Stop>;
	/** Lines from number `first` on, in a form of the caller's; `next`: which line is wanted next. */
	log(of: Fence, lines: { first: number; count: number; bytes: number; packed: Buffer }): Promise<LogAnswer>;
	/** The last lines that an attempt has stored. */
	logged(of: Fence): Promise<LogAnswer>;
	/** Batches of lines, oldest first, of the attempts from one on. */
	lines(of: { id: string; attempt: number; from: number; limit: number }): Promise<StoredLines[]>;
	/**
	 * Told twice, it has ended once. `was`: the phase that it was in. One whose gates go on ends only once the driver has `heard`
	 * how they ended: without, nothing is done.
	 */
	finish(of: Fence, end: BuildFinish): Promise<{ was: BuildPhase; state: DeploymentState; reason: string | null }>;
	/** Ends one that waits, stops one that runs. One that has ended is answered as it is. @throws StateError unknown */
	halt(id: string, why: 'cancelled' | 'superseded', by: string | null): Promise<BuildRow>;
	/** Takes from silent workers what they held, stops what took too long. */
	sweep(attempts: number): Promise<Swept[]>;
	queue(): Promise<QueueNumbers>;
	build(id: string): Promise<BuildRow | null>;
	/** The phase it is in, if it is still this attempt's. */
	phase(of: Fence): Promise<BuildPhase | null>;
	/** What it was asked for with. */
	job(id: string): Promise<NewBuild | null>;
	/** Newest first; `before` is a `createdAt`. */
	list(of: BuildQuery): Promise<BuildRow[]>;
	/** A dead letter was queued again under another id. */
	retried(id: string, as: string): Promise<void>;
}

export interface Fence {
	id: string;
	attempt: number;
	worker: string;
}

export interface Stop {
	stop: 'cancelled' | 'superseded' | 'timed-out' | null;
}

export interface LogAnswer extends Stop {
	next: number;
	/** Of all lines of the attempt. */
	bytes: number;
}

export interface StoredLines {
	attempt: number;
	first: number;
	next: number;
	packed: Buffer;
}

export type BuildPhase = 'waiting' | 'running' | 'gating' | 'stopping' | 'ended';
/** As a builder gets it, but for the secrets, which control opens. */
export type ClaimedBuild = Omit<BuildJob, 'secrets'> & { hasSecrets: boolean };

export interface BuildRow extends BuildView {
	phase: BuildPhase;
	claimedAt: number | null;
	/** A person had it queued once more, as this one. */
	retried: string | null;
	/** There is a deployment of this id. */
	deployed: boolean;
	/** What it made was live already, or on its way, as this deployment. */
	became: string | null;
	metadata: ArtifactMetadata | null;
}

export interface BuildFinish {
	state: DeploymentState | 'verified' | 'unreproducible' | 'gates-passed' | 'gates-failed';
	reason: string | null;
	detail: string | null;
	at: number;
	became?: string;
	heard?: boolean;
}

export interface Swept extends Fence {
	/** dead: that was its last attempt. */
	outcome: 'lost' | 'dead' | 'timed-out' | 'released' | 'stopped';
	deployed: boolean;
}

export interface QueueNumbers {
	waiting: number;
	/** Those of them that a builder could begin now. */
	claimable: number;
	running: number;
	dead: number;
	/** How long the oldest has been waiting. */
	oldestMs: number | null;
}

export interface BuildQuery {
	app?: string;
	environment?: string;
	/** open: not ended; dead: all attempts used up; undeployed: those that no deployment shows. */
	which?: 'all' | 'open' | 'dead' | 'undeployed';
	/** Those that compare what this deployment was made of. */
	verifies?: string;
	limit: number;
	before?: number;
}

const ID_CHARACTERS = 8;
const MAX_WAITING = 10_000;

export class BuildTable implements Builds {
	private readonly db: Database;
	private readonly clock: Clock;
	private readonly events: EventFeed;
	private readonly turns: Turns;

	constructor(db: Database, clock: Clock, events: EventFeed) {
		this.db = db;
		this.clock = clock;
		this.events = events;
		this.turns = new Turns(db, events);
	}

	enqueue(job: NewBuild): Promise<{ id: string; already: boolean }> {
		const id = `dpl_${randomId(ID_CHARACTERS)}`;
		const parameter = { id, at: this.clock.now(), priority: PRIORITIES[job.priority], limit: MAX_WAITING, job };
		return this.turns.ask('enqueues', parameter);
	}

	claim(of: Parameters<Builds['claim']>[0]): Promise<ClaimedBuild | null> {
		return this.turns.ask('claims', of);
	}

	beat({ id, attempt, worker }: Fence, leaseMs: number): Promise<Stop> {
		return this.db.call('jibe_beat_build', `select jibe.beat_build($1, $2, $3, $4 * interval '1 ms')`, [id, attempt, worker, leaseMs]);
	}

	async doubt({ id, attempt, worker }: Fence, leaseMs: number): Promise<void> {
		await this.db.call('jibe_doubt_build', `select jibe.doubt_build($1, $2, $3, $4 * interval '1 ms')`, [id, attempt, worker, leaseMs]);
	}

	report(of: Fence, report: Parameters<Builds['report']>[1]): Promise<Stop> {
		return this.told(this.db.call('jibe_report_build', 'select jibe.report_build($1)', [toJson({ ...of, ...report })]));
	}

	log({ id, attempt, worker }: Fence, { first, count, bytes, packed }: Parameters<Builds['log']>[1]): Promise<LogAnswer> {
		const values = [id, attempt, worker, first, count, bytes, this.clock.now(), packed];
		return this.db.call('jibe_log_build', 'select jibe.log_build($1, $2, $3, $4, $5, $6, $7, $8)', values);
	}

	logged(of: Fence): Promise<LogAnswer> {
		return this.log(of, { first: 0, count: 0, bytes: 0, packed: Buffer.alloc(0) });
	}

	async lines({ id, attempt, from, limit }: Parameters<Builds['lines']>[0]): Promise<StoredLines[]> {
		const rows = await this.db.rows(
			this.db.build
				.selectFrom('jibe.build_log')
				.select(['attempt', 'first', 'next', 'lines as packed'])
				.where('build', '=', id)
				.where((of) => of.or([of('attempt', '>', attempt), of.and([of('attempt', '=', attempt), of('next', '>', from)])]))
				.orderBy('attempt')
				.orderBy('first')
				.limit(limit),
		);
		return rows;
	}

	finish(of: Fence, end: BuildFinish): ReturnType<Builds['finish']> {
		return this.turns.ask('ends', { ...of, ...end });
	}

	halt(id: string, why: 'cancelled' | 'superseded', by: string | null): Promise<BuildRow> {
		return this.told(this.db.call('jibe_halt_build', 'select jibe.halt_build($1, $2, $3, $4)', [id, why, by, this.clock.now()]));
	}

	async sweep(attempts: number): Promise<Swept[]> {
		const swept = await this.db.call<Swept[]>('jibe_sweep_builds', 'select jibe.sweep_builds($1, $2)', [attempts, this.clock.now()]);
		if (swept.length > 0) this.events.hint();
		return swept;
	}

	queue(): Promise<QueueNumbers> {
		return this.db.call('jibe_build_queue', 'select jibe.build_queue()', []);
	}

	build(id: string): Promise<BuildRow | null> {
		return this.db.call('jibe_build', 'select (select jibe.build_view(b) from jibe.build b where id = $1)', [id]);
	}

	phase({ id, attempt, worker }: Fence): Promise<BuildPhase | null> {
		const text = 'select (select phase from jibe.build where id = $1 and attempt = $2 and worker = $3)';
		return this.db.call('jibe_build_phase', text, [id, attempt, worker]);
	}

	async job(id: string): Promise<NewBuild | null> {
		const [row] = await this.db.rows(this.db.build.selectFrom('jibe.build_job').select('job').where('id', '=', id));
		return row?.job ?? null;
	}

	list({ app, environment, which = 'all', verifies, limit, before }: BuildQuery): Promise<BuildRow[]> {
		return this.db.call(
			'jibe_builds',
			`select coalesce(jsonb_agg(jibe.build_view(b) order by created_at desc, seq desc), '[]') from (
				select * from jibe.build
				where ($1::text is null or app = $1) and ($2::text is null or environment = $2) and ($3::bigint is null or created_at < $3)
					and ($4::text is null or verifies = $4)
					and case $5 when 'open' then phase <> 'ended' when 'dead' then dead when 'undeployed' then not deployed and kind = 'deploy' else true end
				order by created_at desc, seq desc limit $6) b`,
			[app ?? null, environment ?? null, before ?? null, verifies ?? null, which, limit],
		);
	}

	async retried(id: string, as: string): Promise<void> {
		await this.db.rows(
			this.db.build.updateTable('jibe.build').set({ retried: as, dead: false }).where('id', '=', id).where('retried', 'is', null),
		);
	}

	/** Events came of it. */
	private async told<T>(change: Promise<T>): Promise<T> {
		const answer = await change;
		this.events.hint();
		return answer;
	}
}

import type { Clock } from '#clock/clock.ts';
import type { Digest } from '#digest/digest.ts';
import { toJson, type Database } from './database.ts';

/** Repositories that were pushed here, as every control on this database finds them; their bytes are in the store. */
export interface Pushed {
	/** null: nothing was ever pushed. */
	get(repository: string): Promise<PushedRepository | null>;
	/**
	 * false: it is no longer what `before` (an id; null: nothing) names, and nothing was written. `untold`: what is to come of it,
	 * which is looked at later should nobody say `told` until then.
	 */
	put(of: PushedRepository & { repository: string; before: string | null; untold?: Untold }): Promise<boolean>;
	told(repository: string, id: string): Promise<void>;
	/** Commits that builds of it were made of since, whether or not a branch still has them. */
	builtSince(repository: string, at: number): Promise<string[]>;
}

export interface PushedRepository {
	/** Another one after each change. */
	id: string;
	/** `refs/heads/main` → its commit. */
	refs: Record<string, string>;
	/** In the order in which they came: each has what the refs of its time needed beyond the ones before it. */
	packs: PushedPack[];
}

export interface Untold {
	/** Branches, and where they were. */
	branches: { ref: string; before: string | null }[];
	by: string;
	afterMs: number;
}

/** Of the deliveries that stand for what nobody was told. */
export const PUSHED_EVENT = 'pushed';

export interface PushedPack {
	/** The pack, cut into blobs. */
	parts: Digest[];
	/** It took the place of all the packs of this id: whoever has those has it. null: it brought something new. */
	replaces: string | null;
}

export class PushedTable implements Pushed {
	private readonly db: Database;
	private readonly clock: Clock;

	constructor(db: Database, clock: Clock) {
		this.db = db;
		this.clock = clock;
	}

	get(repository: string): Promise<PushedRepository | null> {
		return this.db.call(
			'jibe_pushed',
			`select (select jsonb_build_object('id', id, 'refs', refs, 'packs', packs) from jibe.pushed_repository where repository = $1)`,
			[repository],
		);
	}

	/** Sent again because its answer was lost, it finds what it wrote. */
	put({ repository, before, id, refs, packs, untold }: Parameters<Pushed['put']>[0]): Promise<boolean> {
		return this.db.call(
			'jibe_put_pushed',
			`with written as (
				insert into jibe.pushed_repository as p (repository, id, refs, packs, changed_at)
				select $1, $3, $4, $5, $6
				where $2::text is null or exists (select from jibe.pushed_repository where repository = $1 and id = $2)
				on conflict (repository) do update set id = excluded.id, refs = excluded.refs, packs = excluded.packs, changed_at = excluded.changed_at
				where p.id = $2
				returning 1), noted as (
				insert into jibe.delivery (repository, id, at, event, ref, detail, state, next_at)
				select $1, $3 || ':' || b.ref, $6, $7, b.ref, jsonb_build_object('by', $8::text, 'before', b.before), 'waiting', $6 + $9::bigint
				from written, jsonb_to_recordset($10) b (ref text, before text))
			select exists (select from written) or exists (select from jibe.pushed_repository where repository = $1 and id = $3)`,
			[
				repository,
				before,
				id,
				toJson(refs),
				toJson(packs),
				this.clock.now(),
				PUSHED_EVENT,
				untold?.by ?? null,
				untold?.afterMs ?? 0,
				toJson(untold?.branches ?? []),
			],
		);
	}

	async told(repository: string, id: string): Promise<void> {
		await this.db.call(
			'jibe_told_pushed',
			`with gone as (delete from jibe.delivery where repository = $1 and starts_with(id, $2 || ':') returning 1) select count(*) from gone`,
			[repository, id],
		);
	}

	builtSince(repository: string, at: number): Promise<string[]> {
		return this.db.call(
			'jibe_pushed_built',
			`select coalesce(jsonb_agg(distinct commit), '[]') from jibe.build where lane = $1 and commit is not null and created_at > $2`,
			[repository, at],
		);
	}
}

/** All that the store has to keep for them. */
export function pushedBlobs(db: Database): Promise<Digest[]> {
	return db.call('jibe_pushed_blobs', `select coalesce(jsonb_agg(distinct part), '[]') from (${PUSHED_PARTS}) as one`, []);
}

/** Digests as text, one a row. */
export const PUSHED_PARTS = `select part #>> '{}' as part from jibe.pushed_repository r,
	jsonb_array_elements(r.packs) pack, jsonb_array_elements(pack -> 'parts') part`;

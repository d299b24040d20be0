import type { Clock } from '#clock/clock.ts';
import { randomId, type Digest } from '#digest/digest.ts';
import type { Deployment } from '#wire/api.ts';
import type { ReleaseSpec, Want } from '#wire/region.ts';
import { packDigests, unpackDigests } from './digests.ts';
import { toJson, type Database } from './database.ts';
import type { EventFeed } from './events.ts';
import {
	StateError,
	type Advance,
	type Deployments,
	type Held,
	type LaneRow,
	type NewDeployment,
	type NewRelease,
	type PointerWrite,
	type Recovery,
	type StoredRelease,
} from './state.ts';

/** Each other deployment of the app that is created at the same moment costs at most one more try. */
const MAX_CREATE_TRIES = 50;
/** Apps whose last release's digests are remembered, to check only what is new. */
const MAX_REMEMBERED = 16;
const ID_CHARACTERS = 8;

type HeldWith<T> = Held & { wants: Want[] } & T;
type Created = HeldWith<{ spec: ReleaseSpec }> | { retry: number } | { recheck: true };

export class DeploymentTable implements Deployments {
	private readonly db: Database;
	private readonly clock: Clock;
	private readonly events: EventFeed;
	/** What the next release of an app probably gets as its number; the database decides. */
	private readonly nextNumbers = new Map<string, number>();
	/** Digests that the app's last release pins: they can't be collected while its row is there. */
	private readonly pinned = new Map<string, { release: number; digests: Set<Digest> }>();

	constructor(db: Database, clock: Clock, events: EventFeed) {
		this.db = db;
		this.clock = clock;
		this.events = events;
	}

	async create(input: NewDeployment): Promise<Held & { spec: ReleaseSpec; wants: Want[] }> {
		const id = input.build?.id ?? `dpl_${randomId(ID_CHARACTERS)}`;
		for (let tries = 0; tries < MAX_CREATE_TRIES; tries++) {
			const answer = await this.tryCreate(id, input);
			if ('retry' in answer) this.nextNumbers.set(input.app, answer.retry);
			else if ('recheck' in answer) this.pinned.delete(input.app);
			else return this.created(input, answer);
		}
		throw new StateError('stale', `${MAX_CREATE_TRIES} other deployments of ${input.app} came first: try again`);
	}

	async advance(step: Advance): Promise<{ version: number; wants: Want[]; deployment: Deployment }> {
		const { writes, ...rest } = step;
		const parameter = { ...rest, request: randomId(), writes: flatWrites(writes) };
		const [name, text] = step.floor === undefined ? ADVANCE : ADVANCE_PAST_MIGRATION;
		const held = await this.db.call<HeldWith<object>>(name, text, [toJson(parameter)]);
		this.events.hint();
		return { version: held.version, wants: held.wants, deployment: held.deployment };
	}

	async take(deployment: string, owner: string, from?: readonly string[]): Promise<Held> {
		return this.db.call<Held>('jibe_take_over', 'select jibe.take_over($1, $2, $3)', [deployment, owner, from ?? null]);
	}

	lanes(of: { app?: string; environment?: string }): Promise<LaneRow[]> {
		return this.db.call('jibe_lanes', 'select jibe.lanes($1, $2)', [of.app ?? null, of.environment ?? null]);
	}

	async floor(app: string, environment: string): Promise<number | null> {
		const [row] = await this.db.rows(
			this.db.build.selectFrom('jibe.schema_floor').select('release').where('app', '=', app).where('environment', '=', environment),
		);
		return row?.release ?? null;
	}

	/** See `State.recover`. */
	async recover({ releases, environments, ...of }: Recovery): Promise<{ epoch: number; wants: Want[] }> {
		const rows = releases.map((release) => ({ ...release, blobs: undefined }));
		const written = environments.map(({ writes, ...where }) => ({ ...where, writes: flatWrites(writes) }));
		const parameter = toJson({ ...of, at: this.clock.now(), releases: rows, environments: written });
		const pins = releases.map(({ blobs }) => packDigests(blobs));
		const done = await this.db.call<{ epoch: number; wants: Want[] }>('jibe_recover', 'select jibe.recover_app($1, $2)', [parameter, pins]);
		this.nextNumbers.delete(of.app);
		this.events.hint();
		return done;
	}

	open(): Promise<Held[]> {
		return this.db.call(
			'jibe_open',
			`select coalesce(jsonb_agg(jibe.held_json(d, '[]') order by created_at, id), '[]')
			from jibe.deployment d where ended_at is null or watch_until is not null`,
			[],
		);
	}

	async deployment(id: string): Promise<Deployment | null> {
		return this.db.call('jibe_deployment', 'select (select jibe.deployment_json(d) from jibe.deployment d where id = $1)', [id]);
	}

	history(of: { app?: string; environment?: string; limit: number; before?: number }): Promise<Deployment[]> {
		return this.db.call(
			'jibe_history',
			`select coalesce(jsonb_agg(jibe.deployment_json(d) order by created_at desc, id desc), '[]') from (
				select * from jibe.deployment
				where ($1::text is null or app = $1) and ($2::text is null or environment = $2) and ($3::bigint is null or created_at < $3)
				order by created_at desc, id desc limit $4) d`,
			[of.app ?? null, of.environment ?? null, of.before ?? null, of.limit],
		);
	}

	wants(of: { app?: string; environment?: string }): Promise<Want[]> {
		return this.db.call(
			'jibe_wants',
			`select coalesce(jsonb_agg(jibe.want_json(w) order by app, environment, region), '[]') from jibe.want w
			where ($1::text is null or app = $1) and ($2::text is null or environment = $2)`,
			[of.app ?? null, of.environment ?? null],
		);
	}

	async write(of: { app: string; environment: string; writes: PointerWrite[]; removed?: boolean }): Promise<Want[]> {
		const values = [of.app, of.environment, of.removed ?? false, this.clock.now(), toJson(flatWrites(of.writes)), randomId()];
		const wants = await this.db.call<Want[]>('jibe_write', 'select jibe.write_alone($1, $2, $3, $4, $5, $6)', values);
		this.events.hint();
		return wants;
	}

	async releases(app: string, numbers: readonly number[]): Promise<Awaited<ReturnType<Deployments['releases']>>> {
		const rows = await this.db.rows(
			this.db.build
				.selectFrom('jibe.release')
				.select(['spec', 'git', 'config', 'created_at'])
				.where('app', '=', app)
				.where('number', 'in', [0, ...numbers])
				.orderBy('number'),
		);
		return rows.map(({ spec, git, config, created_at }) => ({ ...spec, commit: git?.commit ?? null, createdAt: created_at, config }));
	}

	async release(app: string, number: number): Promise<StoredRelease | null> {
		const [row] = await this.db.rows(
			this.db.build.selectFrom('jibe.release').selectAll().where('app', '=', app).where('number', '=', number),
		);
		if (!row) return null;
		const { release: _release, deployment, ...spec } = row.spec;
		const [artifact, vendor] = [spec.artifact, spec.vendor];
		const { environment, config, git, created_at: createdAt } = row;
		return { app, environment, number, deployment, artifact, vendor, config, spec, blobs: unpackDigests(row.pins), git, createdAt };
	}

	/** The app was removed: its releases are gone. */
	forget(app: string): void {
		this.pinned.delete(app);
		this.nextNumbers.delete(app);
	}

	private async tryCreate(id: string, input: NewDeployment): Promise<Created> {
		const isNew = typeof input.release !== 'number';
		const number = typeof input.release === 'number' ? input.release : await this.nextNumber(input.app);
		const { rollout, regions, writes } = input.plan(number, id);
		const at = this.clock.now();
		const parameter: Record<string, unknown> = {
			deployment: {
				id,
				release: number,
				rollout,
				regions,
				created_at: at,
				stages: stagesOf(input, at),
				timings: NO_TIMINGS,
				...columnsOf(input),
			},
			supersedes: input.supersedes,
			writes: flatWrites(writes),
			...(input.build ? { build: input.build } : {}),
		};
		let [pins, unseen]: Buffer[] = [NOTHING, NOTHING];
		if (isNew) {
			const release = input.release as NewRelease;
			const basis = this.pinned.get(input.app);
			pins = packDigests(release.blobs);
			unseen = basis ? packDigests(release.blobs.filter((digest) => !basis.digests.has(digest))) : pins;
			parameter['basis'] = basis?.release;
			parameter['release'] = releaseRow(release, input, number, id, at);
		}
		return this.db.call('jibe_create', 'select jibe.create_deployment($1, $2, $3)', [toJson(parameter), pins, unseen]);
	}

	private created(input: NewDeployment, answer: Exclude<Created, { retry: number } | { recheck: true }>): HeldWith<{ spec: ReleaseSpec }> {
		if (typeof input.release !== 'number') {
			this.nextNumbers.set(input.app, answer.deployment.release + 1);
			this.pinned.delete(input.app);
			this.pinned.set(input.app, { release: answer.deployment.release, digests: new Set(input.release.blobs) });
			const [oldest] = this.pinned.keys();
			if (this.pinned.size > MAX_REMEMBERED && oldest !== undefined) this.pinned.delete(oldest);
		}
		this.events.hint();
		return answer;
	}

	private async nextNumber(app: string): Promise<number> {
		const known = this.nextNumbers.get(app);
		if (known !== undefined) return known;
		const [row] = await this.db.rows(this.db.build.selectFrom('jibe.app').select('last_release').where('name', '=', app));
		return (row?.last_release ?? 0) + 1;
	}
}

const ADVANCE = ['jibe_advance', 'select jibe.advance($1)'] as const;
const ADVANCE_PAST_MIGRATION = ['jibe_advance_past_migration', 'select jibe.advance_past_migration($1)'] as const;
const NOTHING = Buffer.alloc(0);
const NO_TIMINGS: Deployment['timings'] = { prepareMs: null, canaryMs: null, rolloutMs: null };

function columnsOf(input: NewDeployment) {
	const { app, environment, kind, previous, state, cause, by, why, modules, url, host = null, owner } = input;
	return { app, environment, kind, previous, state, cause, by, why, modules, url, host, owner };
}

function stagesOf(input: NewDeployment, at: number): NewDeployment['stages'] {
	return input.stages.at(-1)?.state === input.state ? input.stages : [...input.stages, { state: input.state, at }];
}

function releaseRow(release: NewRelease, input: NewDeployment, number: number, deployment: string, at: number) {
	const { artifact, vendor, config } = release;
	const spec = { ...release.spec, release: number, deployment };
	return {
		app: input.app,
		number,
		environment: input.environment,
		deployment,
		artifact,
		vendor,
		config,
		spec,
		git: input.git,
		created_at: at,
	};
}

function flatWrites(writes: readonly PointerWrite[] | undefined) {
	return (writes ?? []).map(({ region, expect, pointer, run }) => ({
		region,
		epoch: expect?.epoch,
		version: expect?.version,
		pointer,
		run,
	}));
}

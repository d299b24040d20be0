import type { Clock } from '#clock/clock.ts';
import { toJson, type Database } from './database.ts';
import type { EventFeed } from './events.ts';
import type { AppRow, Apps, Environments, RegionRow, Regions } from './state.ts';

export class AppTable implements Apps {
	private readonly db: Database;
	private readonly clock: Clock;
	private readonly events: EventFeed;
	private readonly removed: (app: string) => void;

	constructor(db: Database, clock: Clock, events: EventFeed, removed: (app: string) => void) {
		this.db = db;
		this.clock = clock;
		this.events = events;
		this.removed = removed;
	}

	list(): Promise<AppRow[]> {
		return this.db.call(
			'jibe_apps',
			`select coalesce(jsonb_agg(jsonb_build_object('app', name, 'createdAt', created_at, 'readOnly', read_only,
				'environments', (select coalesce(jsonb_agg(distinct environment order by environment), '[]') from jibe.want where app = name))
				order by name), '[]')
			from jibe.app where removed_at is null`,
			[],
		);
	}

	async remove(app: string, by: string): Promise<void> {
		const at = this.clock.now();
		await this.db.call('jibe_remove_app', 'select jibe.remove_app($1, $2, $3)', [app, by, at]);
		this.removed(app);
		this.events.hint();
	}

	async forgotten(): Promise<{ epoch: number; versions: ReadonlyMap<string, number> }> {
		const [apps, [installation]] = await Promise.all([
			this.db.rows(this.db.build.selectFrom('jibe.app').select(['name', 'forgotten_version']).where('forgotten_version', '>', 0)),
			this.db.rows(this.db.build.selectFrom('jibe.installation').select('epoch')),
		]);
		return { epoch: installation?.epoch ?? 0, versions: new Map(apps.map((app) => [app.name, app.forgotten_version])) };
	}

	async setReadOnly(app: string, reason: string | null, by: string): Promise<void> {
		await this.db.call('jibe_set_read_only', 'select jibe.set_read_only($1, $2, $3, $4)', [app, reason, by, this.clock.now()]);
		this.events.hint();
	}
}

export class EnvironmentTable implements Environments {
	private readonly db: Database;
	private readonly clock: Clock;
	private readonly events: EventFeed;

	constructor(db: Database, clock: Clock, events: EventFeed) {
		this.db = db;
		this.clock = clock;
		this.events = events;
	}

	async get(app: string, environment: string): Promise<{ values: Record<string, string>; staged: string[] }> {
		const rows = await this.db.rows(
			this.db.build
				.selectFrom('jibe.env')
				.select(['name', 'value', 'staged'])
				.where('app', '=', app)
				.where('environment', '=', environment)
				.orderBy('name'),
		);
		return {
			values: Object.fromEntries(rows.flatMap(({ name, value }) => (value === null ? [] : [[name, value]]))),
			staged: rows.filter(({ staged }) => staged).map(({ name }) => name),
		};
	}

	async change(of: Parameters<Environments['change']>[0]): ReturnType<Environments['change']> {
		const { app, environment, set, unset, by } = of;
		// Values are not in the audit, nor in events: they may be what should have been a secret.
		const change = { app, environment, set, unset, by, at: this.clock.now() };
		await this.db.call('jibe_change_env', 'select jibe.change_env($1)', [toJson(change)]);
		this.events.hint();
		return this.get(app, environment);
	}
}

export class RegionTable implements Regions {
	private readonly db: Database;

	constructor(db: Database) {
		this.db = db;
	}

	async set(regions: readonly { name: string; edgePort: number }[], home?: string): Promise<void> {
		const rows = regions.map(({ name, edgePort }, position) => ({ name, position, edge_port: edgePort }));
		await this.db.call('jibe_set_local_regions', 'select jibe.set_local_regions($1, $2)', [JSON.stringify(rows), home ?? null]);
	}

	async list(): Promise<RegionRow[]> {
		const rows = await this.db.rows(
			this.db.build.selectFrom('jibe.region').selectAll().where('retired', '=', false).orderBy('position').orderBy('name'),
		);
		return rows.map(({ name, position, edge_port }) => ({ name, position, edgePort: edge_port }));
	}
}

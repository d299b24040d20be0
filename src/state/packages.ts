import { sql, type Compilable } from 'kysely';
import type { Clock } from '#clock/clock.ts';
import { sha256, type Digest } from '#digest/digest.ts';
import { auditEntry } from './audit.ts';
import type { Database } from './database.ts';
import type { EventFeed } from './events.ts';
import { StateError } from './state.ts';

/** Packages of Jibe for joined servers: which there are, which each is to run, and what it says that it runs. */
export interface Packages {
	/** The tarball of one; its digest. Only the newest two are kept. */
	add(version: string, bytes: Buffer): Promise<Digest>;
	bytes(digest: Digest): Promise<Buffer | null>;
	/** Told to the server with the list of its region. @throws StateError */
	want(server: string, digest: Digest, by: string): Promise<void>;
	says(server: string, of: { version: string; runs: string | null; problem: string | null }): Promise<void>;
	servers(): Promise<ServerPackage[]>;
}

export interface ServerPackage {
	server: string;
	/** Null: whatever it has. */
	wanted: Digest | null;
	/** The first digits of the digest of what it runs; null: it did not come from here. */
	runs: string | null;
	version: string | null;
	/** Why it does not run what it is to. */
	problem: string | null;
	saidAt: number | null;
}

/** The one that servers go over to, and the one before, which they may have to go back to. */
const KEPT = 2;

export class PackageTable implements Packages {
	private readonly db: Database;
	private readonly clock: Clock;
	private readonly events: EventFeed;

	constructor(db: Database, clock: Clock, events: EventFeed) {
		this.db = db;
		this.clock = clock;
		this.events = events;
	}

	async add(version: string, bytes: Buffer): Promise<Digest> {
		const digest = sha256(bytes);
		const { build } = this.db;
		await this.db.transaction(async (rows) => {
			const row = { digest, version, bytes, added_at: this.clock.now() };
			await rows(
				build
					.insertInto('jibe.package')
					.values(row)
					.onConflict((conflict) => conflict.column('digest').doUpdateSet({ added_at: row.added_at })),
			);
			const newest = build.selectFrom('jibe.package').select('digest').orderBy('added_at', 'desc').limit(KEPT);
			await rows(build.deleteFrom('jibe.package').where('digest', 'not in', newest));
		});
		return digest;
	}

	async bytes(digest: Digest): Promise<Buffer | null> {
		const [row] = await this.db.rows(this.db.build.selectFrom('jibe.package').select('bytes').where('digest', '=', digest));
		return row?.bytes ?? null;
	}

	async want(server: string, digest: Digest, by: string): Promise<void> {
		const at = this.clock.now();
		const { build } = this.db;
		await this.db.transaction(async (rows) => {
			const [known] = await rows(build.selectFrom('jibe.package').select('version').where('digest', '=', digest));
			if (!known) throw new StateError('blob_missing', `there is no package ${digest}: it has to be sent first`);
			const [there] = await rows(build.selectFrom('jibe.server').select('name').where('name', '=', server).where('removed_at', 'is', null));
			if (!there) throw new StateError('server_unknown', `there is no server ${server}`);
			const row = { server, wanted: digest, problem: null };
			await rows(
				build
					.insertInto('jibe.server_package')
					.values({ ...row, runs: null, version: null, said_at: null })
					.onConflict((conflict) => conflict.column('server').doUpdateSet(row)),
			);
			// Told to it with the list of its region, which has to be a newer one for that.
			await rows(build.updateTable('jibe.installation').set((of) => ({ servers_version: of('servers_version', '+', 1) })));
			const detail = { server, package: digest, version: known.version };
			const event = { at, type: 'server.upgrade', app: null, environment: null, deployment: null, data: detail };
			await rows(statement(this.db, sql`select jibe.publish(${JSON.stringify([event])}::jsonb)`));
			await rows(auditEntry(this.db, { at, by, action: 'server.upgrade', app: null, environment: null, detail }));
		});
		this.events.hint();
	}

	async says(server: string, of: { version: string; runs: string | null; problem: string | null }): Promise<void> {
		const said = { ...of, said_at: this.clock.now() };
		await this.db.rows(
			this.db.build
				.insertInto('jibe.server_package')
				.values({ server, wanted: null, ...said })
				.onConflict((conflict) => conflict.column('server').doUpdateSet(said)),
		);
	}

	async servers(): Promise<ServerPackage[]> {
		const rows = await this.db.rows(this.db.build.selectFrom('jibe.server_package').selectAll().orderBy('server'));
		return rows.map(({ server, wanted, runs, version, problem, said_at: saidAt }) => ({ server, wanted, runs, version, problem, saidAt }));
	}
}

function statement(db: Database, raw: ReturnType<typeof sql>): Compilable<unknown> {
	return { compile: () => raw.compile(db.build) };
}

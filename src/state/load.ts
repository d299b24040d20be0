import pg from 'pg';
import type { Clock } from '#clock/clock.ts';
import { newSigningKey } from '#wire/credential.ts';
import { copyIn } from './copy.ts';
import { quoted, type Dump } from './dump.ts';
import { LEFT_OUT } from './dump-tables.ts';
import { migrate, readMigrations } from './migrate.ts';
import type { Connection } from './state.ts';

/** `not_empty`: there is an installation in this database. `newer_version`, `another_build`: its schema is not one of ours. */
export class LoadError extends Error {
	readonly code: 'not_empty' | 'newer_version' | 'another_build' | 'bad_table';
	constructor(code: LoadError['code'], message: string) {
		super(message);
		this.code = code;
	}
}

/** Fills an empty database from a dump: everything appears at once, with `finish`, or nothing. */
export interface Load {
	installation(row: Readonly<Record<string, unknown>>): Promise<void>;
	table(table: string, columns: readonly string[], rows: AsyncIterable<Buffer>): Promise<void>;
	/** The epoch, one above the dump's: what regions hold of the time after it is older than what is written from now on. */
	finish(): Promise<number>;
	/** Leaves the database as it was; after `finish` nothing. */
	close(): Promise<void>;
}

/** Numbers of releases that were made after the dump, and may still lie on servers, are not given again. */
const NUMBERS_SKIPPED = 100;

/** @throws LoadError */
export async function openLoad(database: Connection, migrations: Dump['migrations'], clock: Clock): Promise<Load> {
	checkKnown(migrations);
	const client = new pg.Client(typeof database === 'string' ? { connectionString: database } : database);
	client.on('error', () => {}); // told by the statement under way
	await client.connect();
	try {
		// The schema that the rows were in; what has changed since is done to them like everywhere, at the end.
		await migrate(client, migrations.length);
		await checkEmpty(client);
		await client.query('begin');
		await client.query('set local statement_timeout = 0');
		await client.query('set local idle_in_transaction_session_timeout = 0');
	} catch (error) {
		await client.end();
		throw error;
	}
	return new Filling(client, clock);
}

/** @throws LoadError newer_version, another_build */
export function checkKnown(migrations: Dump['migrations']): void {
	const known = readMigrations();
	for (const { number, name, checksum } of migrations) {
		const ours = known[number - 1];
		if (!ours) {
			throw new LoadError(
				'newer_version',
				`the backup was made by a newer Jibe (migration ${name}): restore it with that version, or a later one`,
			);
		}
		if (ours.checksum !== checksum) {
			throw new LoadError('another_build', `the backup was made by another build of Jibe, whose migration ${name} is not this one's`);
		}
	}
}

async function checkEmpty(client: pg.Client): Promise<void> {
	const { rows } = await client.query<{ found: string | null }>(
		`select coalesce((select 'the installation ' || id from jibe.installation), (select 'the app ' || name from jibe.app limit 1)) as found`,
	);
	const found = rows[0]?.found ?? null;
	if (found === null) return;
	throw new LoadError('not_empty', `there is ${found} in this database: a backup is restored into an empty one`);
}

class Filling implements Load {
	private readonly client: pg.Client;
	private readonly clock: Clock;

	constructor(client: pg.Client, clock: Clock) {
		this.client = client;
		this.clock = clock;
	}

	async installation(row: Readonly<Record<string, unknown>>): Promise<void> {
		// A backup without keys: this becomes the same installation, with new ones.
		const keys = 'private_pem' in row ? {} : signingKey();
		const whole = { ...row, ...keys };
		// What was added to the table since has its default.
		const columns = Object.keys(whole).map(quoted).join(', ');
		const from = `select ${columns} from jsonb_populate_record(null::jibe.installation, $1)`;
		await this.client.query(`insert into jibe.installation (${columns}) ${from}`, [JSON.stringify(whole)]);
	}

	async table(table: string, columns: readonly string[], rows: AsyncIterable<Buffer>): Promise<void> {
		const found = await this.client.query('select from pg_tables where schemaname = $1 and tablename = $2', ['jibe', table]);
		if (found.rowCount === 0 || LEFT_OUT.has(table)) throw new LoadError('bad_table', `a backup has no rows for a table ${table}`);
		await copyIn(this.client, `copy jibe.${quoted(table)} (${columns.map(quoted).join(', ')}) from stdin`, rows);
	}

	async finish(): Promise<number> {
		const identities = await this.client.query<{ table: string; column: string }>(
			`select table_name as table, column_name as column from information_schema.columns where table_schema = 'jibe' and is_identity = 'YES'`,
		);
		for (const { table, column } of identities.rows) {
			const name = `jibe.${quoted(table)}`;
			await this.client.query(
				`select setval(pg_get_serial_sequence('${name}', '${column}'), m) from (select max(${quoted(column)}) as m from ${name}) x where m is not null`,
			);
		}
		// Whichever server this is now, it is the one that control knows from its next start on.
		const raised = await this.client.query<{ epoch: number }>(
			'update jibe.installation set epoch = epoch + 1, timeline = null returning epoch',
		);
		const epoch = raised.rows[0]!.epoch;
		await this.client.query('update jibe.app set last_release = last_release + $1 where last_release > 0', [NUMBERS_SKIPPED]);
		await this.client.query(
			`insert into jibe.audit (at, by, action, app, environment, detail) values ($1, 'jibe', 'backup.restored', null, null, $2)`,
			[this.clock.now(), JSON.stringify({ epoch })],
		);
		await this.client.query('commit');
		await migrate(this.client);
		await this.client.query('analyze');
		return epoch;
	}

	async close(): Promise<void> {
		await this.client.end();
	}
}

function signingKey(): { private_pem: string; public_pem: string } {
	const { privatePem, publicPem } = newSigningKey();
	return { private_pem: privatePem, public_pem: publicPem };
}

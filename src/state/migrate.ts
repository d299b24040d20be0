import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type pg from 'pg';
import { sha256 } from '#digest/digest.ts';
import { StateError } from './state.ts';

/** `sql/0001_….sql` and on: numbered, up only, each applied once in a transaction of its own, never edited afterwards. */
interface Migration {
	number: number;
	name: string;
	text: string;
	checksum: string;
}

/** Two controls that start at once: the second waits, and finds the work done. */
const LOCK = 7104300;

/** `upTo`: no further than that number. */
export async function migrate(client: pg.Client, upTo?: number): Promise<number> {
	await client.query('select pg_advisory_lock($1)', [LOCK]);
	try {
		await client.query(
			'create schema if not exists jibe; create table if not exists jibe.migration (number integer primary key, name text not null, checksum text not null, applied_at timestamptz not null default now()); alter table jibe.migration add column if not exists program text',
		);
		const { rows } = await client.query<Applied>('select number, checksum, program from jibe.migration order by number');
		const known = readMigrations();
		for (const row of rows) refuseUnknown(row, known, rows.at(-1)?.program ?? null);
		const pending = known.slice(rows.length, upTo);
		for (const migration of pending) await apply(client, migration);
		return pending.length;
	} finally {
		await client.query('select pg_advisory_unlock($1)', [LOCK]);
	}
}

async function apply(client: pg.Client, migration: Migration): Promise<void> {
	await client.query('begin');
	try {
		await client.query(migration.text);
		await client.query('insert into jibe.migration (number, name, checksum, program) values ($1, $2, $3, $4)', [
			migration.number,
			migration.name,
			migration.checksum,
			programVersion(),
		]);
		await client.query('commit');
	} catch (cause) {
		await client.query('rollback');
		throw new StateError('schema_unknown', `migration ${migration.name} failed; the database is as it was before it`, { cause });
	}
}

interface Applied {
	number: number;
	checksum: string;
	/** The version of Jibe that applied it; null before that was written down. */
	program: string | null;
}

function refuseUnknown(row: Applied, known: readonly Migration[], newest: string | null): void {
	const migration = known[row.number - 1];
	if (!migration) {
		const by = newest === null ? 'a newer Jibe' : `Jibe ${newest}`;
		throw new StateError(
			'schema_unknown',
			`this database was migrated by ${by} (to migration ${row.number}), and Jibe ${programVersion()} knows ${known.length}: ` +
				`a database is never taken back. Go on with ${newest ?? 'that version'}, or restore a backup made before it with jibe restore FILE into a new directory`,
		);
	}
	if (migration.checksum !== row.checksum) {
		throw new StateError(
			'schema_unknown',
			`migration ${migration.name} is not the one that this database was made with: another build of Jibe made it; use that one, or a new --data directory`,
		);
	}
}

export function readMigrations(directory = findMigrations()): Migration[] {
	const names = readdirSync(directory)
		.filter((name) => /^\d{4}_.+\.sql$/.test(name))
		.toSorted();
	return names.map((name, i) => {
		const number = Number(name.slice(0, 4));
		if (number !== i + 1) throw new StateError('schema_unknown', `${name} is not number ${i + 1}: migrations are numbered without gaps`);
		const text = readFileSync(join(directory, name), 'utf8');
		return { number, name, text, checksum: sha256(text) };
	});
}

/** The package's `sql/`: beside `src/`, or beside `dist/` when bundled. */
function findMigrations(): string {
	for (let at = import.meta.dirname; at !== dirname(at); at = dirname(at)) {
		if (existsSync(join(at, 'sql', '0001_foundation.sql'))) return join(at, 'sql');
	}
	throw new StateError(
		'schema_unknown',
		`there is no sql/ with migrations above ${import.meta.dirname}: this installation of Jibe is not whole`,
	);
}

/** Of the package that this belongs to. */
function programVersion(): string {
	for (let at = dirname(findMigrations()); at !== dirname(at); at = dirname(at)) {
		const file = join(at, 'package.json');
		if (existsSync(file)) return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
	}
	return 'unknown';
}

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
			'create schema if not exists jibe; create table if not exists jibe.migration (number integer primary key, name text not null, checksum text not null, applied_at timestamptz not null default now())',
		);
		const { rows } = await client.query<{ number: number; checksum: string }>(
			'select number, checksum from jibe.migration order by number',
		);
		const known = readMigrations();
		for (const row of rows) refuseUnknown(row, known);
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
		await client.query('insert into jibe.migration (number, name, checksum) values ($1, $2, $3)', [
			migration.number,
			migration.name,
			migration.checksum,
		]);
		await client.query('commit');
	} catch (cause) {
		await client.query('rollback');
		throw new StateError('schema_unknown', `migration ${migration.name} failed; the database is as it was before it`, { cause });
	}
}

function refuseUnknown(row: { number: number; checksum: string }, known: readonly Migration[]): void {
	const migration = known[row.number - 1];
	if (!migration) {
		throw new StateError(
			'schema_unknown',
			`this database was migrated by a newer Jibe (migration ${row.number}): install that version, or restore a backup made by this one`,
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

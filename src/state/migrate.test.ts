import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { systemClock } from '#clock/clock.ts';
import { startCluster, testLog, type TestCluster } from '../../test/fixtures/database.ts';
import { migrate, readMigrations } from './migrate.ts';
import { openState } from './open.ts';
import type { Connection } from './state.ts';

let cluster: TestCluster;
before(async () => {
	cluster = await startCluster();
});
after(() => cluster.stop());

async function withClient<T>(database: Connection, work: (client: pg.Client) => Promise<T>): Promise<T> {
	const client = new pg.Client(database);
	await client.connect();
	try {
		return await work(client);
	} finally {
		await client.end();
	}
}

test('applies what is missing, once, also when two controls start at the same moment', async () => {
	const database = await cluster.database();
	await withClient(database, (client) => client.query('drop schema jibe cascade'));
	const applied = await Promise.all([withClient(database, migrate), withClient(database, migrate)]);
	assert.deepEqual(
		applied.toSorted((a, b) => a - b),
		[0, readMigrations().length],
	);
});

test('a database of a newer Jibe, and one made by an edited migration, are refused untouched', async () => {
	const database = await cluster.database();
	await withClient(database, migrate);
	const number = readMigrations().length + 1;
	await withClient(database, (client) =>
		client.query(`insert into jibe.migration (number, name, checksum, program) values ($1, 'future', 'x', '9.8.7')`, [number]),
	);
	await assert.rejects(cluster.state({ database }), {
		code: 'schema_unknown',
		message: /migrated by Jibe 9\.8\.7 .*Go on with 9\.8\.7, .*jibe restore FILE/,
	});
	await withClient(database, (client) =>
		client.query(`delete from jibe.migration where name = 'future'; update jibe.migration set checksum = 'other'`),
	);
	await assert.rejects(cluster.state({ database }), { code: 'schema_unknown', message: /another build of Jibe/ });
});

/**
 * While a version takes the place of the one before, programs of both work with one database; and a control of the one
 * before may be put back as long as nothing was migrated. So a migration adds, and never takes away or narrows.
 */
const NARROWING: readonly [what: string, pattern: RegExp][] = [
	['drops something', /\bdrop\s+(?!not\s+null|default|constraint|expression|identity|trigger)/],
	['renames something', /\brename\b/],
	['changes a type', /\balter\s+(column\s+)?\w+\s+(set\s+data\s+)?type\b/],
	['makes a column necessary', /\bset\s+not\s+null\b/],
	['adds a necessary column without a default', /\badd\s+column\s+(?![^,;]*\b(default|generated)\b)[^,;]*\bnot\s+null\b/],
	['empties a table', /\b(truncate|delete\s+from)\b/],
];

function narrowings(text: string): string[] {
	// What functions do when they are called is not what the migration does.
	const statements = text
		.replaceAll(/--.*$/gm, '')
		.replaceAll(/\$(\w*)\$[\s\S]*?\$\1\$/g, "''")
		.toLowerCase();
	return NARROWING.filter(([, pattern]) => pattern.test(statements)).map(([what]) => what);
}

test('migrations only add: the version before works with the database while this one takes its place', () => {
	for (const { name, text, number } of readMigrations()) if (number > 1) assert.deepEqual(narrowings(text), [], name);
	const bad = [
		'alter table a drop column b',
		'DROP TABLE a;',
		'alter table a rename column b to c;',
		'alter table a alter column b type text',
		'alter table a alter b set data type bigint',
		'alter table a alter b set not null',
		'alter table a add column b integer not null',
		'alter table a add column b integer default 1, add column c text not null;',
		'delete from jibe.token',
	];
	for (const text of bad) assert.equal(narrowings(text).length, 1, text);
	const good = [
		'alter table a add column b integer not null default 1',
		'alter table a add column b integer generated always as (1) stored not null',
		'alter table a alter b drop not null; alter table a drop constraint c;',
		'create function f() returns void language plpgsql as $$ begin delete from a; drop table b; end $$; -- drop table c',
		'create table b (c text not null)',
	];
	for (const text of good) assert.deepEqual(narrowings(text), [], text);
});

test('migrations are numbered without gaps', async () => {
	const dir = await mkdtemp(join(tmpdir(), 'jibe-sql-'));
	try {
		await writeFile(join(dir, '0001_first.sql'), 'select 1');
		await writeFile(join(dir, '0003_third.sql'), 'select 3');
		assert.throws(() => readMigrations(dir), {
			code: 'schema_unknown',
			message: '0003_third.sql is not number 2: migrations are numbered without gaps',
		});
	} finally {
		await rm(dir, { recursive: true });
	}
});

test('a server restored to another timeline raises the epoch', async () => {
	const database = await cluster.database();
	const first = await (await cluster.state({ database })).installation();
	const again = await (await cluster.state({ database })).installation();
	assert.equal(again.epoch, first.epoch);
	await withClient(database, (client) => client.query(`update jibe.installation set timeline = '1/1'`));
	const restored = await (await cluster.state({ database })).installation();
	assert.deepEqual(restored, { ...first, epoch: first.epoch + 1 });
});

test('an address where nothing answers is said so', async () => {
	const database = 'postgres://nobody@127.0.0.1:1/none';
	await assert.rejects(openState({ database, log: testLog, clock: systemClock, retryForMs: 20 }), {
		code: 'database_unavailable',
		message: 'PostgreSQL does not answer: is DATABASE_URL right, and the server up?',
	});
});

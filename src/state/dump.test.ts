import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { systemClock as clock } from '#clock/clock.ts';
import { sha256 } from '#digest/digest.ts';
import { startCluster, testLog as log, type TestCluster } from '../../test/fixtures/database.ts';
import { noDebianPostgres, startDebianPostgres, type DebianPostgres } from '../../test/fixtures/debian-postgres.ts';
import { BLOBS, newDeployment, prepared } from '../../test/fixtures/release.ts';
import type { DumpOptions, DumpPart } from './dump.ts';
import { LEFT_OUT } from './dump-tables.ts';
import { openLoad } from './load.ts';
import { openState } from './open.ts';
import type { Connection, State } from './state.ts';

let cluster: TestCluster;
let debian: DebianPostgres | null = null;
/** Of an installation that others do not touch. */
let original: State;
let dumped: Awaited<ReturnType<typeof everything>>;
before(async () => {
	cluster = await startCluster();
	original = await lived(await cluster.database());
	dumped = await everything(original);
	if (!noDebianPostgres) debian = await startDebianPostgres();
});
after(async () => {
	await cluster.stop();
	await debian?.stop();
});

/** An installation with history: releases, variables with everything that a row of text must escape, tokens, events. */
async function lived(database: Connection): Promise<State> {
	const state = await cluster.state({ database });
	await state.regions.set([{ name: 'ams', edgePort: 8080 }, { name: 'fra', edgePort: 8081 }, { name: 'lhr', edgePort: 8082 }]); // prettier-ignore
	for (const app of ['notes', 'shop']) {
		await state.blobs.own(app, BLOBS);
		await state.deployments.create(newDeployment(app));
	}
	const set = { A: 'tab\tnew\nline\\.\\N "quotes" \u{1f600}', EMPTY: '', BIG: 'x'.repeat(1_200_000) };
	await state.env.change({ app: 'notes', environment: 'production', set, unset: ['GONE'], by: 'token:admin' });
	const { token } = await state.tokens.create({ name: 'ann', role: 'viewer', apps: null, environments: null, expiresAt: null, by: 'jibe' });
	await state.logins.createCode(token.id);
	return state;
}

async function everything(state: State, options: DumpOptions = { all: true, keys: true }) {
	const { migrations, parts } = await state.dump(options);
	const all: DumpPart[] = [];
	for await (const part of parts) all.push(part);
	return { migrations, parts: all };
}

async function loadInto(database: Connection, { migrations, parts }: Awaited<ReturnType<typeof everything>>) {
	const load = await openLoad(database, migrations, clock);
	for (const [i, part] of parts.entries()) {
		if (part.kind === 'installation') await load.installation(part.row);
		if (part.kind !== 'table') continue;
		const end = parts.findIndex(({ kind }, at) => at > i && kind !== 'rows');
		await load.table(part.table, part.columns, rows(parts.slice(i + 1, end)));
	}
	return load;
}

async function* rows(parts: DumpPart[]): AsyncGenerator<Buffer> {
	for (const part of parts) if (part.kind === 'rows') yield part.rows;
}

async function query<T extends pg.QueryResultRow>(database: Connection, text: string): Promise<T[]> {
	const client = new pg.Client(typeof database === 'string' ? { connectionString: database } : database);
	await client.connect();
	try {
		return (await client.query<T>(text)).rows;
	} finally {
		await client.end();
	}
}

/** All rows of all tables that a backup carries, but for what a restore changes. */
async function content(database: Connection): Promise<Record<string, unknown[]>> {
	const tables = await query<{ name: string }>(database, `select tablename as name from pg_tables where schemaname = 'jibe' order by 1`);
	const found: Record<string, unknown[]> = {};
	for (const { name } of tables) {
		if (LEFT_OUT.has(name) && name !== 'installation') continue;
		const text = `select to_jsonb(t) - 'epoch' - 'timeline' - 'last_release' as row from jibe.${name} t ${name === 'audit' ? `where action <> 'backup.restored'` : ''}`;
		found[name] = (await query<{ row: unknown }>(database, text)).map(({ row }) => JSON.stringify(row)).sort();
	}
	return found;
}

test('everything comes back, from our PostgreSQL into the team’s and from there into ours', { skip: noDebianPostgres }, async () => {
	const first = await cluster.database();
	const state = await lived(first);
	const second = await debian!.database();
	const load = await loadInto(second, await everything(state));
	assert.equal(await load.finish(), 2, 'the epoch is raised');
	await load.close();
	const before = await content(first);
	assert.ok(before['event']!.length > 2 && before['env']!.length > 2 && before['want']!.length === 6);
	assert.deepEqual(await content(second), before);

	const theirs = await openState({ database: second, log, clock });
	const third = await cluster.database();
	const again = await loadInto(third, await everything(theirs));
	assert.equal(await again.finish(), 3);
	await again.close();
	await theirs.close();
	assert.deepEqual((await content(third))['release'], before['release']);

	const opened = await cluster.state({ database: third });
	assert.equal((await opened.installation()).epoch, 3, 'a server that it does not know is no reason to raise it again');
	assert.equal((await opened.installation()).privatePem, (await state.installation()).privatePem);
	const cursor = await opened.events.latest();
	assert.ok(cursor >= (await state.events.latest()));
	await opened.blobs.own('notes', BLOBS);
	const plan = (release: number) => ({ rollout: null, regions: [], writes: prepared(release, { epoch: 1, version: 1 }) });
	await opened.deployments.create(newDeployment('notes', { plan }));
	assert.ok((await opened.events.latest()) > cursor, 'numbers go on after those that came');
	const numbers = await query<{ n: number }>(third, `select number as n from jibe.release where app = 'notes' order by 1`);
	assert.deepEqual(numbers.map(({ n }) => n > 100), [false, true], 'releases of the time after the backup may lie on servers'); // prettier-ignore
	assert.deepEqual(await query(third, 'select 1 from jibe.login_code'), []);
});

test('a dump is of one moment, whatever is written while it is read', async () => {
	const database = await cluster.database();
	const state = await lived(database);
	const before = await content(database);
	const { parts } = await state.dump({ all: true, keys: true });
	const taken: string[] = [];
	for await (const part of parts) {
		if (part.kind === 'rows') taken.push(part.rows.toString());
		if (part.kind !== 'installation') continue;
		await state.env.change({ app: 'notes', environment: 'production', set: { LATER: 'later-than-that' }, unset: [], by: 'x' });
		await state.blobs.own('late', BLOBS);
		await state.deployments.create(newDeployment('late'));
	}
	assert.ok(!taken.join('').includes('later-than-that'));
	const { installation, ...tables } = before;
	assert.equal(installation?.length, 1);
	assert.equal(taken.join('').match(/\n/g)?.length, Object.values(tables).flat().length);
});

test('without --all it needs the blobs of what runs, with it those of all', async () => {
	const database = await cluster.database();
	const state = await lived(database);
	const other = sha256('only in an old release');
	await state.blobs.own('notes', [other]);
	await query(
		database,
		`insert into jibe.release select (jsonb_populate_record(r, '{"number": 900}')).* from jibe.release r where app = 'notes'`,
	);
	await query(database, `update jibe.release set pins = '\\x${other.slice(7)}' where number = 900`);
	const blobs = async (all: boolean) => (await everything(state, { all, keys: true })).parts.find(({ kind }) => kind === 'blobs');
	assert.deepEqual((await blobs(false) as { digests: Buffer }).digests.length, 32 * BLOBS.length); // prettier-ignore
	assert.deepEqual((await blobs(true) as { digests: Buffer }).digests.length, 32 * (BLOBS.length + 1)); // prettier-ignore
	const { parts } = await everything(state, { all: false, keys: true });
	const text = parts.flatMap((part) => (part.kind === 'rows' ? [part.rows.toString()] : [])).join('');
	assert.ok(!text.includes(other.slice(7)), 'nobody owns what is not there');
});

test('without keys it becomes the same installation with new ones', async () => {
	const database = await cluster.database();
	const load = await loadInto(database, await everything(original, { all: true, keys: false }));
	await load.finish();
	await load.close();
	const [ours, theirs] = [await original.installation(), await (await cluster.state({ database })).installation()];
	assert.equal(theirs.id, ours.id);
	assert.notEqual(theirs.privatePem, ours.privatePem);
	assert.match(theirs.publicPem, /PUBLIC KEY/);
});

test('given up before its end, a load leaves nothing, and the next one goes', async () => {
	const database = await cluster.database();
	await (await loadInto(database, dumped)).close();
	assert.deepEqual(await query(database, 'select 1 from jibe.deployment'), []);
	const load = await loadInto(database, dumped);
	await load.finish();
	await load.close();
	assert.equal((await query(database, 'select 1 from jibe.deployment')).length, 2);
	await assert.rejects(openLoad(database, dumped.migrations, clock), {
		code: 'not_empty',
		message: /the installation \w+ in this database/,
	});
});

test('rows that do not fit are refused by PostgreSQL, and by their source when it fails', async () => {
	const { migrations } = dumped;
	for (const [source, error] of [
		[async function* () { yield Buffer.from('not\ta row\n'); }, /extra data|missing data|invalid input/], // prettier-ignore
		[async function* () { yield Buffer.from(''); throw new Error('the file broke off'); }, /the file broke off/], // prettier-ignore
	] as const) {
		const load = await openLoad(await cluster.database(), migrations, clock);
		await assert.rejects(load.table('region', ['name', 'position'], source()), error);
		await load.close();
	}
	const load = await openLoad(await cluster.database(), migrations, clock);
	await assert.rejects(load.table('session', ['hash'], rows([])), { code: 'bad_table' });
	await assert.rejects(load.table('nothing', ['hash'], rows([])), { code: 'bad_table' });
	await load.close();
});

test('a backup of a newer version, or of another build, is refused before anything is written', async () => {
	const { migrations } = dumped;
	const newer = [...migrations, { number: migrations.length + 1, name: '0099_later.sql', checksum: 'x' }];
	await assert.rejects(openLoad(await cluster.database(), newer, clock), { code: 'newer_version', message: /0099_later/ });
	const other = [{ ...migrations[0]!, checksum: 'x' }, ...migrations.slice(1)];
	await assert.rejects(openLoad(await cluster.database(), other, clock), { code: 'another_build' });
});

test('a backup of an older version: its rows are brought up to date', { skip: noDebianPostgres }, async () => {
	const database = await debian!.database();
	// As the first version made it: without what was added since.
	const first = dumped.migrations.slice(0, 1);
	const load = await openLoad(database, first, clock);
	const columns = await query<{ name: string }>(
		database,
		`select column_name as name from information_schema.columns where table_schema = 'jibe' and table_name = 'installation'`,
	);
	const part = dumped.parts.find(({ kind }) => kind === 'installation') as { row: Record<string, unknown> };
	await load.installation(Object.fromEntries(Object.entries(part.row).filter(([name]) => columns.some((column) => column.name === name))));
	await load.finish();
	await load.close();
	const state = await openState({ database, log, clock });
	assert.equal((await state.installation()).id, part.row['id']);
	await state.close();
});

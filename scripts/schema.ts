import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { createLog } from '#log/log.ts';
import { runDirectory } from '#process/directory.ts';
import { startPostgres } from '#state/embedded.ts';
import { migrate } from '#state/migrate.ts';

/**
 * `node scripts/schema.ts` writes sql/schema.sql: what a database looks like after all migrations, so that a reviewer
 * sees what one changed. `--check` only compares. Made from the catalogue, for pg_dump is not among the binaries.
 */
const FILE = join(import.meta.dirname, '../sql/schema.sql');

async function main(): Promise<void> {
	const dump = await inNewDatabase(describeSchema);
	if (!process.argv.includes('--check')) {
		writeFileSync(FILE, dump);
	} else if (readFileSync(FILE, 'utf8') !== dump) {
		console.error('sql/schema.sql is not what the migrations make: run `node scripts/schema.ts` and commit the result');
		process.exitCode = 1;
	}
}

async function inNewDatabase<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
	const data = mkdtempSync(join(tmpdir(), 'jibe-schema-'));
	const runDir = runDirectory(data);
	const log = createLog({}, { level: 'warn' });
	const postgres = await startPostgres({ data, runDir, log });
	const client = new pg.Client(postgres.connection);
	try {
		await client.connect();
		await migrate(client);
		return await work(client);
	} finally {
		await client.end();
		await postgres.stop();
		rmSync(data, { recursive: true, force: true });
		rmSync(runDir, { recursive: true, force: true });
	}
}

async function describeSchema(client: pg.Client): Promise<string> {
	const column = async (text: string) => (await client.query<{ text: string }>(text)).rows.map((row) => row.text);
	const tables = await column(TABLES);
	const indexes = await column(INDEXES);
	const rows = await column(TRANSITIONS);
	const functions = await column(FUNCTIONS);
	return [
		'-- Made by scripts/schema.ts from the migrations beside it. Not to be edited, and never run.',
		...tables,
		indexes.join('\n'),
		`-- jibe.transition\n${rows.join('\n')}`,
		...functions,
	].join('\n\n') + '\n'; // prettier-ignore
}

const TABLES = `
	select format(E'create table jibe.%I (\\n%s\\n);', c.relname, string_agg(E'\\t' || line, E',\\n' order by kind, place)) as text
	from pg_class c, lateral (
		select 1 as kind, a.attnum::text::integer as place, format('%I %s%s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
			case when a.attnotnull then ' not null' else '' end,
			case when a.attidentity <> '' then ' generated always as identity'
				else coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '') end,
			case when a.attstorage <> t.typstorage then ' storage ' || case a.attstorage when 'e' then 'external' when 'p' then 'plain' when 'm' then 'main' else 'extended' end else '' end) as line
		from pg_attribute a join pg_type t on t.oid = a.atttypid left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
		where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		union all
		select 2, row_number() over (order by contype, conname)::integer, pg_get_constraintdef(oid)
		from pg_constraint where conrelid = c.oid and contype in ('p', 'u', 'f', 'c')
	) as lines
	where c.relnamespace = 'jibe'::regnamespace and c.relkind = 'r'
	group by c.relname order by c.relname`;

const INDEXES = `
	select pg_get_indexdef(i.indexrelid) || ';' as text
	from pg_index i join pg_class c on c.oid = i.indexrelid
	where c.relnamespace = 'jibe'::regnamespace and not i.indisprimary order by c.relname`;

const TRANSITIONS = `
	select format('--   %s → %s', from_state, string_agg(to_state, ', ' order by to_state)) as text
	from jibe.transition group by from_state order by from_state`;

const FUNCTIONS = `
	select pg_get_functiondef(p.oid) as text from pg_proc p
	where p.pronamespace = 'jibe'::regnamespace order by p.proname, pg_get_function_identity_arguments(p.oid)`;

await main();

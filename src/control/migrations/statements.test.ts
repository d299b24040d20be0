import assert from 'node:assert/strict';
import { test } from 'node:test';
import { unsafeStatements } from './statements.ts';

const rules = async (text: string) =>
	(await unsafeStatements([{ path: 'm.sql', text }])).map((line) => /\(([a-z-]+)\)$/.exec(line)?.[1] ?? line);

test('what locks, or breaks the release before, is found by its rule', async () => {
	const cases: [string, string[]][] = [
		['alter table notes drop column body', ['drop-column']],
		['alter table notes rename column body to words', ['rename']],
		['alter table notes rename to papers', ['rename']],
		['drop table notes', ['drop-table']],
		['drop materialized view m', ['drop-materialized-view']],
		['alter table notes add column x int not null', ['not-null']],
		['alter table notes add column x uuid default gen_random_uuid()', ['volatile-default']],
		['alter table notes add column x bigserial', ['volatile-default']],
		['alter table notes add column x int unique', ['unique']],
		['alter table notes alter column body type text', ['column-type']],
		['alter table notes alter column body set not null, alter column n drop default', ['set-not-null', 'drop-default']],
		['alter table notes add constraint c check (n > 0)', ['constraint']],
		['alter table notes add foreign key (owner) references people (id)', ['constraint']],
		['alter table notes add primary key (id)', ['unique']],
		['alter table notes set unlogged', ['rewrite']],
		['create index i on notes (body)', ['index']],
		['drop index i', ['drop-index']],
		['reindex table notes; vacuum full notes; cluster notes', ['reindex', 'vacuum-full', 'cluster']],
		['refresh materialized view m', ['refresh']],
		['truncate notes; lock table notes', ['truncate', 'lock']],
		['update notes set n = 1; delete from notes', ['update-all', 'delete-all']],
		["alter type mood rename value 'sad' to 'blue'", ['rename-value']],
	];
	for (const [text, expected] of cases) assert.deepEqual(await rules(text), expected, text);
});

test('a do block is read like what stands outside of one; what it puts together as text is said to be unread', async () => {
	const block = (body: string) => rules(`do $$ declare r record; begin ${body} end $$`);
	assert.deepEqual(await block('alter table notes drop column body;'), ['drop-column']);
	assert.deepEqual(await block("if exists (select 1 from notes) then begin drop table notes; exception when others then null; end; end if;"), ['drop-table']); // prettier-ignore
	assert.deepEqual(await block("execute 'drop table notes';"), ['drop-table']);
	assert.deepEqual(await block("for r in select * from notes loop execute format('drop table %I', r.a); end loop;"), ['unread']);
	assert.deepEqual(await block('create table a (id int); alter table a drop column id; update notes set n = 1 where n is null;'), []);
	assert.deepEqual(await rules('do language plperl $$ spi_exec_query("drop table notes") $$'), ['unread']);
	assert.deepEqual(await rules('-- jibe:allow: nobody reads it\ndo $$ begin drop table notes; end $$'), []);
});

test('what a release of before does not notice is left alone', async () => {
	const quiet = [
		'create table papers (id int primary key, body text not null); create index on papers (body); alter table papers drop column body',
		'alter table notes add column x int; alter table notes add column y int not null default 3; alter table notes add column z timestamptz default now()',
		'alter table notes add column at timestamptz not null default current_timestamp',
		'create index concurrently i on notes (body); drop index concurrently j; reindex (concurrently) table notes; vacuum notes',
		'alter table notes add constraint c check (n > 0) not valid; alter table notes validate constraint c',
		'create unique index concurrently u on notes (n); alter table notes add constraint u unique using index u',
		'update notes set n = 1 where n is null; delete from notes where n < 0; insert into notes values (1)',
		"alter type mood add value 'glad'; alter table notes alter column n set default 3",
		'refresh materialized view concurrently m; create view v as select 1; begin; commit',
		'-- looked at, jibe:allow: nobody reads it any more\nalter table notes drop column old',
	];
	for (const text of quiet) assert.deepEqual(await rules(text), [], text);
});

test('a finding tells its file and line; a table of another file of the same deploy counts as new', async () => {
	const text = '-- Überschrift\ncreate table a (id int);\n\n/* two\nlines */ alter table notes\n\tdrop column body;\n';
	assert.deepEqual(await unsafeStatements([{ path: 'one.sql', text }]), [
		'one.sql:5: drops notes.body, which the code of before uses: do that in migrate.after (drop-column)',
	]);
	assert.deepEqual(await unsafeStatements([{ path: '1.sql', text: 'create table a (id int)' }, { path: '2.sql', text: 'create index on a (id)' }]), []); // prettier-ignore
});

test('what PostgreSQL would not read is said, whatever it is, and the next file is read all the same', async () => {
	const found = await unsafeStatements([
		{ path: 'a.sql', text: 'select 1;\nalter tabel notes drop column body' },
		{ path: 'b.sql', text: `select ${'('.repeat(100_000)}1${')'.repeat(100_000)}` },
		{ path: 'c.sql', text: `select ${'1+'.repeat(100_000)}1` },
		{ path: 'd.sql', text: '\0\u{1F600}' },
		{ path: 'e.sql', text: 'drop table notes' },
		{ path: 'f.sql', text: '' },
	]);
	assert.match(found[0]!, /^a\.sql:2: PostgreSQL would not read it: syntax error at or near "tabel"$/);
	assert.match(found.at(-1)!, /^e\.sql:1: drops a table/);
	assert.ok(found.some((line) => line.startsWith('b.sql:1: PostgreSQL would not read it')));
	assert.ok(found.some((line) => line.startsWith('c.sql:1: PostgreSQL would not read it')));
});

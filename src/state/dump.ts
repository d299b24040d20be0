import type pg from 'pg';
import { copyOut } from './copy.ts';
import type { Database } from './database.ts';
import { keysLeftOut, LEFT_OUT } from './dump-tables.ts';
import { PUSHED_PARTS } from './pushed.ts';

/** All that the database holds, as of one moment, for a backup: the rows of each table, and which blobs they need. */
export interface Dump {
	/** What made the schema: whoever restores must know all of it. */
	migrations: { number: number; name: string; checksum: string }[];
	parts: AsyncGenerator<DumpPart, void>;
}

export type DumpPart =
	| { kind: 'installation'; row: Record<string, unknown> }
	| { kind: 'table'; table: string; columns: string[] }
	| { kind: 'rows'; rows: Buffer }
	/** Digests of 32 bytes, one after the other: the last part. */
	| { kind: 'blobs'; digests: Buffer };

export interface DumpOptions {
	/** All releases that are kept, not only those that run or serve somewhere. */
	all: boolean;
	/** Without: what only this installation may know stays here. */
	keys: boolean;
}

/** One transaction that sees one moment; while it lasts nothing waits for it. Closed with the generator, however that ends. */
export async function dump(db: Database, options: DumpOptions): Promise<Dump> {
	const client = db.client();
	const lost = Promise.withResolvers<never>();
	client.on('error', lost.reject);
	lost.promise.catch(() => {}); // told by the query under way
	try {
		await client.connect();
		await client.query('begin isolation level repeatable read read only');
		await client.query('set local statement_timeout = 0');
		await client.query('set local idle_in_transaction_session_timeout = 0');
		const { rows } = await client.query<Dump['migrations'][number]>('select number, name, checksum from jibe.migration order by number');
		return { migrations: rows, parts: parts(client, options) };
	} catch (error) {
		await client.end();
		throw error;
	}
}

async function* parts(client: pg.Client, { all, keys }: DumpOptions): AsyncGenerator<DumpPart, void> {
	try {
		const { rows } = await client.query<{ row: Record<string, unknown> }>('select to_jsonb(i) as row from jibe.installation i');
		yield { kind: 'installation', row: keys ? rows[0]!.row : keysLeftOut(rows[0]!.row) };
		for (const { table, columns } of await tablesOf(client)) {
			yield { kind: 'table', table, columns };
			for await (const piece of copyOut(client, copyText(table, columns, all))) yield { kind: 'rows', rows: piece };
		}
		const found = await client.query<{ digests: Buffer | null }>(
			`select string_agg(digest, ''::bytea) as digests from (
				select digest from (${RELEASES(all)}) r, jibe.unpack(r.pins) digest
				union select decode(substr(part, 8), 'hex') from (${PUSHED_PARTS}) p) as one`,
		);
		yield { kind: 'blobs', digests: found.rows[0]?.digests ?? Buffer.alloc(0) };
		await client.query('commit');
	} finally {
		await client.end();
	}
}

/** Those that something is to run or may fall back to without a fetch; or all. */
function RELEASES(all: boolean): string {
	if (all) return 'select * from jibe.release';
	return `select * from jibe.release r where exists (
		select from jibe.want w where w.app = r.app and (
			(w.pointer ->> 'primary')::integer = r.number or (w.pointer -> 'candidate' ->> 'release')::integer = r.number
			or exists (select from jsonb_array_elements(w.run) one where (one ->> 'release')::integer = r.number)))
		or exists (select from jibe.deployment d where d.app = r.app and r.number in (d.release, d.previous)
			and (d.ended_at is null or d.watch_until is not null))`;
}

function copyText(table: string, columns: readonly string[], all: boolean): string {
	const list = columns.map(quoted).join(', ');
	if (table === 'release') return `copy (select ${list} from (${RELEASES(all)}) r) to stdout`;
	// An app owns what the backup holds; the rest is sent again by whoever needs it.
	if (table === 'blob') {
		return `copy (select ${list} from jibe.blob b where exists (
			select from pinned p where p.app = b.app and p.digest = b.digest)) to stdout`.replace(
			'copy (',
			`copy (with pinned as materialized (select distinct r.app, digest from (${RELEASES(all)}) r, jibe.unpack(r.pins) digest) `,
		);
	}
	return `copy jibe.${quoted(table)} (${list}) to stdout`;
}

/** In an order in which each can be filled: what is referred to first. */
async function tablesOf(client: pg.Client): Promise<{ table: string; columns: string[] }[]> {
	const { rows } = await client.query<{ table: string; columns: string[]; needs: string[] }>(`
		select c.relname as table,
			(select array_agg(a.attname::text order by a.attnum) from pg_attribute a
				where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '') as columns,
			(select coalesce(array_agg(f.relname::text), '{}') from pg_constraint k join pg_class f on f.oid = k.confrelid
				where k.conrelid = c.oid and k.contype = 'f' and f.oid <> c.oid) as needs
		from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname = 'jibe' and c.relkind = 'r' order by c.relname`);
	const left = rows.filter(({ table }) => !LEFT_OUT.has(table));
	const sorted: { table: string; columns: string[] }[] = [];
	while (left.length > 0) {
		const names = new Set(left.map(({ table }) => table));
		const next = left.findIndex(({ needs }) => !needs.some((name) => names.has(name)));
		if (next < 0) throw new Error(`the tables ${[...names].join(', ')} refer to one another in a circle`);
		const [{ table, columns }] = left.splice(next, 1) as [(typeof left)[number]];
		sorted.push({ table, columns });
	}
	return sorted;
}

export function quoted(name: string): string {
	return `"${name.replaceAll('"', '""')}"`;
}

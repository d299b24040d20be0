import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { ChangedNote, NewNote } from './schema.ts';

/** While a release goes live, the one before it has the same file open: writers wait for each other this long. */
const BUSY_TIMEOUT_MS = 5000;

export interface Note {
	id: number;
	title: string;
	text: string;
	tags: string[];
	changedAt: string;
}

export type Notes = ReturnType<typeof openNotes>;

/** Notes in SQLite below `directory`. The schema only ever grows, so that an older release can still read it after a rollback. */
export function openNotes(directory: string) {
	mkdirSync(directory, { recursive: true });
	const database = new DatabaseSync(join(directory, 'notes.sqlite'), { timeout: BUSY_TIMEOUT_MS });
	database.exec('pragma journal_mode = wal; pragma synchronous = normal');
	database.exec(readFileSync(new URL('./schema.sql', import.meta.url), 'utf8'));
	const rows = {
		add: database.prepare('insert into note (title, text, tags) values (?, ?, ?) returning *'),
		get: database.prepare('select * from note where id = ?'),
		change: database.prepare(`update note set title = ?, text = ?, tags = ?, changed_at = ${NOW} where id = ? returning *`),
		remove: database.prepare('delete from note where id = ?'),
		list: database.prepare('select * from note where id < ? order by id desc limit ?'),
		search: database.prepare(`select * from note where title like ?1 escape '\\' or text like ?1 escape '\\' order by id desc limit ?2`),
		count: database.prepare('select count(*) as count from note'),
	};
	const get = (id: number) => noteOf(rows.get.get(id));
	return {
		add: ({ title, text, tags }: NewNote): Note => noteOf(rows.add.get(title, text, JSON.stringify(tags)))!,
		get,
		change(id: number, change: ChangedNote): Note | null {
			const note = get(id);
			if (!note) return null;
			const { title, text, tags } = { ...note, ...change };
			return noteOf(rows.change.get(title, text, JSON.stringify(tags), id));
		},
		remove: (id: number): boolean => rows.remove.run(id).changes > 0,
		list: (before: number | null, limit: number): Note[] => notesOf(rows.list.all(before ?? Number.MAX_SAFE_INTEGER, limit)),
		search: (q: string, limit: number): Note[] => notesOf(rows.search.all(`%${q.replaceAll(/[\\%_]/g, '\\$&')}%`, limit)),
		count: (): number => Number(rows.count.get()!['count']),
		close: () => database.close(),
	};
}

const NOW = `strftime('%Y-%m-%dT%H:%M:%fZ', 'now')`;

type Row = Record<string, unknown>;

function notesOf(rows: Row[]): Note[] {
	return rows.map((row) => noteOf(row)!);
}

function noteOf(row: Row | undefined): Note | null {
	if (!row) return null;
	return {
		id: Number(row['id']),
		title: String(row['title']),
		text: String(row['text']),
		tags: JSON.parse(String(row['tags'])) as string[],
		changedAt: String(row['changed_at']),
	};
}

import { appendFileSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Log } from '#log/log.ts';
import type { Cgroup } from '#process/cgroup.ts';
import type { Identity } from '#process/identity.ts';
import type { Known, ReleaseSpec, Want } from '#wire/region.ts';

/** What an agent needs to go on after a restart, on its own disk: it never asks control what already runs. */

/** One process of ours. */
export interface InstanceRecord {
	id: string;
	app: string;
	environment: string;
	identity: Identity;
	cgroup: Cgroup | null;
	uid: number | null;
	/** What an idle process was born with; one is taken only for a release that agrees. */
	pool: string;
	/** Null while idle. */
	bound: Bound | null;
}

export interface Bound {
	region: string;
	release: number;
	slot: number;
	cold: boolean;
	state: 'starting' | 'prepared' | 'serving' | 'draining' | 'warm';
	startedAt: number;
}

/** All that control said last. */
export interface Memory {
	wants: Want[];
	releases: ReleaseSpec[];
	settled: Known[];
}

export interface Records {
	instances(): InstanceRecord[];
	/** @throws when the disk is full */
	save(record: InstanceRecord): void;
	/** What changed of one that was saved. On a full disk it waits for `retry`. */
	update(record: InstanceRecord): void;
	/** The same, once this turn's work is done: others wait to be told, and nobody for the disk. */
	updateSoon(record: InstanceRecord): void;
	forget(id: string): void;
	memory(): Memory;
	/** On a full disk it waits for `retry`. */
	remember(memory: Memory): void;
	/** Writes what a full disk, or the work of this turn, has kept from being written. */
	retry(): void;
}

export function openRecords(home: string, log: Log): Records {
	const directory = join(home, 'instances');
	mkdirSync(directory, { recursive: true, mode: 0o700 });
	const memoryFile = join(home, 'wants.json');
	const unwritten = new Map<string, () => void>();
	const tryTo = (file: string, put: () => void) => {
		try {
			put();
			unwritten.delete(file);
		} catch (error) {
			if (!unwritten.has(file)) log.error('records.unwritten', { file, error });
			unwritten.set(file, put);
		}
	};
	const fileOf = (id: string) => join(directory, `${id}.json`);
	const written = new Map<string, { lines: number; bytes: number; last: string }>();
	const put = (file: string, value: object) => {
		const text = JSON.stringify(value);
		const before = written.get(file);
		if (before?.last === text) return;
		const whole = !before || before.lines === MAX_LINES || before.bytes + text.length > MAX_BYTES;
		if (whole) write(file, text);
		else appendFileSync(file, `\n${text}`);
		written.set(file, { lines: whole ? 1 : before.lines + 1, bytes: whole ? text.length : before.bytes + text.length, last: text });
	};
	let flush: NodeJS.Immediate | null = null;
	const retry = () => {
		if (flush) clearImmediate(flush);
		flush = null;
		for (const [file, again] of unwritten) tryTo(file, again);
	};
	return {
		instances: () => readdirSync(directory).filter((name) => name.endsWith('.json')).flatMap((name) => read<InstanceRecord>(join(directory, name), log) ?? []), // prettier-ignore
		save: (record) => put(fileOf(record.id), record),
		update: (record) => tryTo(fileOf(record.id), () => put(fileOf(record.id), record)),
		updateSoon(record) {
			unwritten.set(fileOf(record.id), () => put(fileOf(record.id), record));
			flush ??= setImmediate(retry);
		},
		forget(id) {
			unwritten.delete(fileOf(id));
			written.delete(fileOf(id));
			rmSync(fileOf(id), { force: true });
		},
		memory: () => read<Memory>(memoryFile, log) ?? { wants: [], releases: [], settled: [] },
		remember: (memory) => tryTo(memoryFile, () => put(memoryFile, memory)),
		retry,
	};
}

/**
 * What changes is added as a line, and the last whole line counts. To replace a file by another makes ext4 write the new
 * one to the disk first: 1 to 2 ms for each of the 48 instances that a rollback over 24 regions moves, measured.
 */
const MAX_LINES = 64;
/** Or when the file gets larger than this. */
const MAX_BYTES = 4 * 1024 * 1024;

function write(file: string, text: string): void {
	writeFileSync(`${file}.draft`, text, { mode: 0o600 });
	renameSync(`${file}.draft`, file);
}

function read<T>(file: string, log: Log): T | null {
	try {
		const lines = readFileSync(file, 'utf8').split('\n');
		while (lines.length > 1) {
			const value = parse<T>(lines.pop()!);
			if (value !== null) return value;
		}
		return JSON.parse(lines[0]!) as T;
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'ENOENT') log.error('records.unreadable', { file, error });
		return null;
	}
}

/** Null for a line that was cut off while it was written: the one before counts. */
function parse<T>(line: string): T | null {
	try {
		return JSON.parse(line) as T;
	} catch {
		return null;
	}
}

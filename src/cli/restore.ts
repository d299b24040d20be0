import { spawn } from 'node:child_process';
import { readdirSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { isoTime, systemClock } from '#clock/clock.ts';
import { readPidFile, removePidFile } from '#process/pid-file.ts';
import { programTitle } from '#process/title.ts';
import { storePlace } from '#store/store-place.ts';
import { BackupError, BackupParser } from '#wire/backup-file.ts';
import { readHeader, type BackupHeader } from '#wire/backup-header.ts';
import { size } from './backup.ts';
import { EXIT, Failure, usage, type Exit } from './failure.ts';
import { count, done, seconds, type Output } from './output.ts';
import { deriveKey, readPassphrase } from './passphrase.ts';
import { claim, refuseWhenRunning } from './up/claim.ts';
import { openData, remember, remembered } from './up/installation.ts';
import { programEnvironment, scriptOf } from './up/programs.ts';
import type { Invocation, Verb } from './verbs.ts';

/** `jibe restore FILE`: has control fill an empty installation from the file, and end. `jibe up` starts it then. */
export const verb: Verb = {
	syntax: { options: { 'passphrase-file': 'value', store: 'value' }, positionals: ['FILE'], optional: 1 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const file = resolve(args.positionals[0]!);
		const header = await headerOf(file);
		const key = await keyFor(header, args.value('passphrase-file'));
		const store = storeFor(args.value('store'), data);
		openData(data);
		refuseWhenRunning(data);
		if (readPidFile(data, 'control')?.alive) {
			throw new Failure('already_running', EXIT.usage, `control of ${data} is running`, {
				hint: 'jibe down stops it; or restore into another --data DIR',
			});
		}
		claim(data);
		try {
			const before = systemClock.monotonic();
			const restored = await fill({ data, file, key, store, out });
			settle(data, header, store);
			const ms = Math.round(systemClock.monotonic() - before);
			out.result({ ...restored, file, data, ms }, [
				done(`Restored to ${data}`, `${count(restored.blobs, 'blob')}, ${size(restored.bytes)}, epoch ${restored.epoch}, ${seconds(ms)}`),
				`  as it was at ${isoTime(header.createdAt)}; jibe up starts it`,
				...(header.keys ? [] : ['  the backup had no keys: servers must join again, and secrets need the master.key of where it was made']),
			]);
			return EXIT.done;
		} finally {
			removePidFile(data, 'up');
		}
	},
};

const HEADER_MAX_BYTES = 1024 * 1024;

async function headerOf(file: string): Promise<BackupHeader> {
	const parser = new BackupParser();
	try {
		const handle = await open(file, 'r');
		try {
			const { bytesRead, buffer } = await handle.read(Buffer.alloc(HEADER_MAX_BYTES), 0, HEADER_MAX_BYTES, 0);
			for (const record of parser.push(buffer.subarray(0, bytesRead))) return readHeader(record.payload);
			parser.finish();
		} finally {
			await handle.close();
		}
	} catch (cause) {
		throw told(cause, file);
	}
	throw told(new BackupError('backup_unreadable', 'this file is no backup of Jibe'), file);
}

function told(cause: unknown, file: string): Failure {
	if (cause instanceof BackupError)
		return new Failure(cause.code, EXIT.usage, `${file}: ${cause.message}`, { hint: HINTS[cause.code] ?? null, cause });
	return new Failure('unreadable', EXIT.usage, `${file} can't be read: ${(cause as Error).message}`, { cause });
}

/** What to do about each, by the codes that control and the file's own checks tell. */
const HINTS: Readonly<Record<string, string>> = {
	backup_truncated: 'copy it again from where it was made, or take another backup',
	backup_damaged: 'copy it again from where it was made, or take another backup',
	backup_unreadable: 'name a file that jibe backup wrote',
	backup_newer: 'install that version of Jibe first',
	newer_version: 'install that version of Jibe first',
	another_build: 'restore it with the build that made it, then upgrade',
	backup_sealed: 'set JIBE_BACKUP_PASSPHRASE, or give --passphrase-file FILE',
	backup_passphrase: 'give the passphrase that it was made with; without it nobody can read it',
	not_empty: 'name a new directory with --data DIR, or an empty database with DATABASE_URL',
};

async function keyFor({ seal }: BackupHeader, passphraseFile: string | null): Promise<Buffer | null> {
	if (!seal) return null;
	const passphrase = readPassphrase(passphraseFile);
	if (passphrase !== null) return deriveKey(passphrase, seal.kdf);
	throw new Failure('backup_sealed', EXIT.usage, 'the backup is sealed with a passphrase', { hint: HINTS['backup_sealed'] ?? null });
}

function storeFor(asked: string | null, data: string): string | null {
	if (asked === null) return remembered(data)?.store ?? null;
	try {
		storePlace(asked);
		return asked;
	} catch (error) {
		throw usage((error as Error).message);
	}
}

interface Filled {
	epoch: number;
	blobs: number;
	bytes: number;
	installation: string;
}

type Told =
	| { progress: { bytes: number; of: number; blobs: number; blobsOf: number | null } }
	| { restored: Filled }
	| { failed: { code: string; message: string } };

/** By control, which alone knows the database. The key goes through a pipe: neither arguments nor environment show it. */
async function fill(of: { data: string; file: string; key: Buffer | null; store: string | null; out: Output }): Promise<Filled> {
	const { data, file, key, store, out } = of;
	const databaseUrl = process.env['DATABASE_URL'];
	const settings = { data, restore: { file }, ...(databaseUrl ? { databaseUrl } : {}), ...(store ? { store } : {}) };
	const child = spawn(process.execPath, [...scriptOf('control'), data], {
		argv0: programTitle('control'),
		cwd: data,
		env: programEnvironment(data, 'control', settings),
		stdio: ['pipe', 'pipe', 'pipe'],
	});
	const ended = new Promise<string>((done) => child.once('close', (code, signal) => done(signal ?? `exit code ${code}`)));
	child.stdin.on('error', () => {}); // it ended before it read the key: its end says more
	child.stdin.end(`${key?.toString('base64') ?? ''}\n`);
	let last = '';
	child.stderr.setEncoding('utf8').on('data', (text: string) => (last = (last + text).slice(-2_000)));
	for await (const line of createInterface({ input: child.stdout })) {
		const told = JSON.parse(line) as Told;
		if ('restored' in told) {
			await ended;
			return told.restored;
		}
		if ('failed' in told) {
			await ended;
			throw failure(told.failed, file);
		}
		const { bytes, of: whole, blobs, blobsOf } = told.progress;
		out.now(`Restoring… ${size(bytes)} of ${size(whole)}${blobsOf === null ? '' : `, ${blobs} of ${count(blobsOf, 'blob')}`}`);
	}
	throw new Failure('restore_failed', EXIT.jibe, `the restore ended (${await ended}); the last it said:\n${last.trim()}`, {
		hint: 'the database is as empty as before; try again',
	});
}

function failure({ code, message }: { code: string; message: string }, file: string): Failure {
	const ofFile = code.startsWith('backup_');
	const exit = ofFile || code in HINTS ? EXIT.usage : EXIT.jibe;
	return new Failure(code, exit, ofFile ? `${file}: ${message}` : message, {
		hint: HINTS[code] ?? 'the database is as empty as before; try again',
	});
}

/** What was of another installation goes; what `jibe up` was told where the backup was made is remembered here. */
function settle(data: string, { up }: BackupHeader, store: string | null): void {
	for (const name of readdirSync(join(data, 'credentials'))) rmSync(join(data, 'credentials', name), { force: true });
	if (remembered(data) === null && up.regions.length > 0) remember({ data, ...up, separate: false, store }, {});
}

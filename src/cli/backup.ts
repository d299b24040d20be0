import { existsSync } from 'node:fs';
import { open as openFile, rename, rm, type FileHandle } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { resolve } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import { BackupError, BackupParser, fileKey, RECORD, Seal, type BackupRecord } from '#wire/backup-file.ts';
import { blobsRecord, endRecord, failedRecord, readHeader, type BackupHeader } from '#wire/backup-header.ts';
import { EXIT, Failure, type Exit } from './failure.ts';
import { count, done, seconds, type Output } from './output.ts';
import { deriveKey, newKdf, readPassphrase } from './passphrase.ts';
import { findServer, open } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

/** Longer than control waits for us. */
const SILENT_AFTER_MS = 300_000;
/** The file is written this much at a time. */
const WRITE_BYTES = 1024 * 1024;

/** `jibe backup FILE`: asks control for it, and writes what comes once each record was checked. The file is whole or not there. */
export const verb: Verb = {
	syntax: { options: { all: 'flag', 'passphrase-file': 'value', 'without-keys': 'flag' }, positionals: ['FILE'], optional: 1 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const file = resolve(args.positionals[0]!);
		const passphrase = readPassphrase(args.value('passphrase-file'));
		checkWish(file, passphrase, args.flag('without-keys'));
		const before = systemClock.monotonic();
		const kdf = newKdf();
		const key = passphrase === null ? null : await deriveKey(passphrase, kdf);
		const seal = key && { kdf, key: key.toString('base64') };
		const server = findServer(data);
		out.now('Backing up…');
		const response = await open(server, {
			method: 'POST',
			path: '/api/v1/backups',
			json: { all: args.flag('all'), seal },
			idleMs: SILENT_AFTER_MS,
		});
		const made = await receive(response, file, key, out);
		const ms = Math.round(systemClock.monotonic() - before);
		const { header, fileBytes, held } = made;
		const how = header.seal ? 'sealed' : 'without keys, not sealed';
		out.result({ file, fileBytes, ...held, all: header.all, keys: header.keys, sealed: header.seal !== null, ms }, [
			done(`Backed up to ${file}`, `${size(fileBytes)}, ${count(held.blobs, 'blob')}, ${how}, ${seconds(ms)}`),
			header.keys
				? '  restore it with: jibe restore FILE, and the same passphrase'
				: '  restored, it has new keys: servers must join again',
		]);
		return EXIT.done;
	},
};

function checkWish(file: string, passphrase: string | null, withoutKeys: boolean): void {
	if (existsSync(file)) {
		throw new Failure('file_exists', EXIT.usage, `${file} is there already, and a backup replaces nothing`, { hint: 'name another file' });
	}
	if (passphrase === null && !withoutKeys) {
		throw new Failure(
			'no_passphrase',
			EXIT.usage,
			"a backup holds the installation's private keys, and there is no passphrase to seal it with",
			{
				hint: 'set JIBE_BACKUP_PASSPHRASE, or give --passphrase-file FILE\n--without-keys leaves the keys out: after a restore servers must join again',
			},
		);
	}
	if (passphrase !== null && withoutKeys) {
		throw new Failure('usage', EXIT.usage, '--without-keys is for backups without a passphrase', { hint: 'unset JIBE_BACKUP_PASSPHRASE' });
	}
}

interface Made {
	header: BackupHeader;
	fileBytes: number;
	/** What its end says: bytes of rows, blobs, and their bytes unpacked. */
	held: { rows: number; blobs: number; bytes: number };
}

async function receive(response: IncomingMessage, file: string, key: Buffer | null, out: Output): Promise<Made> {
	const draft = `${file}.partial`;
	const handle = await create(draft);
	try {
		const made = await copy(response, handle, key, out);
		await handle.sync();
		await handle.close();
		await rename(draft, file);
		return made;
	} catch (error) {
		await handle.close().catch(() => {}); // closed before
		await rm(draft, { force: true });
		throw told(error, file);
	}
}

async function create(file: string): Promise<FileHandle> {
	try {
		return await openFile(file, 'w', 0o600);
	} catch (cause) {
		throw new Failure('unwritable', EXIT.usage, `${file} can't be written: ${(cause as Error).message}`, { cause });
	}
}

async function copy(response: IncomingMessage, handle: FileHandle, key: Buffer | null, out: Output): Promise<Made> {
	const parser = new BackupParser();
	const seen = new Seen(key);
	let fileBytes = 0;
	let waiting: Buffer[] = [];
	let waitingBytes = 0;
	for await (const chunk of response as AsyncIterable<Buffer>) {
		for (const record of parser.push(chunk)) seen.take(record);
		waiting.push(chunk);
		waitingBytes += chunk.length;
		fileBytes += chunk.length;
		if (waitingBytes < WRITE_BYTES) continue;
		await handle.appendFile(Buffer.concat(waiting));
		[waiting, waitingBytes] = [[], 0];
		out.now(`Backing up… ${size(fileBytes)}${seen.blobs === null ? '' : `, ${count(seen.blobs, 'blob')} in all`}`);
	}
	parser.finish();
	await handle.appendFile(Buffer.concat(waiting));
	if (!seen.header || !seen.held) throw new BackupError('backup_unreadable', 'control sent no backup');
	return { header: seen.header, held: seen.held, fileBytes };
}

/** What the records that pass tell of the backup. Those of rows and blobs are checked, and stay sealed. */
class Seen {
	header: BackupHeader | null = null;
	held: Made['held'] | null = null;
	blobs: number | null = null;
	readonly #key: Buffer | null;
	#seal: Seal | null = null;

	constructor(key: Buffer | null) {
		this.#key = key;
	}

	take(record: BackupRecord): void {
		if (record.kind === RECORD.header) {
			this.header = readHeader(record.payload);
			if (this.#key && this.header.seal) this.#seal = Seal.of(fileKey(this.#key, this.header.seal.fileSalt), record.payload);
		} else if (record.kind === RECORD.blobs) this.blobs = blobsRecord.parse(this.#plain(record)).blobs;
		else if (record.kind === RECORD.end) this.held = endRecord.parse(this.#plain(record));
		else if (record.kind === RECORD.failed) {
			const { code, message } = failedRecord.parse(this.#plain(record));
			throw new Failure(code, EXIT.jibe, `the backup failed: ${message}`, { hint: 'nothing of it was kept; try again' });
		}
	}

	#plain(record: BackupRecord): unknown {
		return JSON.parse((this.#seal ? this.#seal.open(record) : record.payload).toString());
	}
}

function told(error: unknown, file: string): unknown {
	const hint = `nothing was left at ${file}; try again`;
	if (error instanceof BackupError) return new Failure(error.code, EXIT.jibe, error.message, { hint, cause: error });
	if (error instanceof Failure || !(error instanceof Error)) return error;
	const { code } = error as NodeJS.ErrnoException;
	if (code === 'ENOSPC' || code === 'EDQUOT')
		return new Failure('disk_full', EXIT.jibe, `no room for the backup at ${file}`, { hint, cause: error });
	return new Failure('interrupted', EXIT.jibe, `the backup broke off: ${error.message}`, { hint, cause: error });
}

const MIB = 1024 * 1024;

/** `12.3 MiB`, `2.05 GiB`. */
export function size(bytes: number): string {
	return bytes >= 1024 * MIB ? `${(bytes / (1024 * MIB)).toFixed(2)} GiB` : `${(bytes / MIB).toFixed(1)} MiB`;
}

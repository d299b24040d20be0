import { open } from 'node:fs/promises';
import { promisify } from 'node:util';
import { zstdDecompress } from 'node:zlib';
import type { z } from 'zod';
import type { Clock } from '#clock/clock.ts';
import { BIG_BLOB_BYTES, decodeBig, decodeBlob, decodePackIndex, type EncodedBlob } from '#store/blob-pack.ts';
import type { SweptStore } from '#store/blob-store.ts';
import { checkKnown, openLoad, type Load } from '#state/load.ts';
import type { Connection } from '#state/state.ts';
import { MASTER_KEY_MEMBER } from './backup.ts';
import { BackupError, BackupParser, checkProof, fileKey, RECORD, Seal, type BackupRecord } from '#wire/backup-file.ts';
import { blobsRecord, endRecord, failedRecord, readHeader, tableRecord, type BackupHeader } from '#wire/backup-header.ts';

/**
 * A backup back into an empty database and a store. Rows appear all at once, after the last record was there and right:
 * a file that turns out to be damaged leaves an empty database, and blobs that nobody wants.
 */

const READ_BYTES = 4 * 1024 * 1024;
const CHECKED_AT_ONCE = 4;
/** Blobs are written this many at a time: each write waits for the disk once. */
const WRITE_BYTES = 32 * 1024 * 1024;
/** Of one record of rows; they are cut at a mebibyte, but for a row that is longer. */
const MAX_ROWS_BYTES = 1024 * 1024 * 1024;

export interface RestoreOptions {
	file: string;
	/** Opened once it is sure that the file can be restored here. */
	places: () => Promise<{ database: Connection; store: SweptStore }>;
	/** From the passphrase, for a file with this header. */
	key: Buffer | null;
	/** The master key of secrets, as the backup has it: called once all the rest is there. */
	masterKey: (text: string) => void;
	clock: Clock;
	progress: (done: { bytes: number; of: number; blobs: number; blobsOf: number | null }) => void;
}

export interface Restored {
	header: BackupHeader;
	epoch: number;
	blobs: number;
	bytes: number;
}

/** @throws BackupError, LoadError, and what database and store throw */
export async function restore(options: RestoreOptions): Promise<Restored> {
	const records = new Records(options);
	try {
		const header = await records.open(options.key);
		checkKnown(header.migrations);
		const { database, store } = await options.places();
		await store.claim(header.installation);
		const load = await openLoad(database, header.migrations, options.clock);
		try {
			const masterKey = await fill(records, load);
			const blobs = await fillStore(records, store);
			const epoch = await load.finish();
			if (masterKey !== null) options.masterKey(masterKey);
			return { header, epoch, ...blobs };
		} finally {
			await load.close();
		}
	} finally {
		await records.close();
	}
}

/** The database's rows, up to the record that says how many blobs follow. Answers the master key, if there is one in it. */
async function fill(records: Records, load: Load): Promise<string | null> {
	let masterKey: string | null = null;
	for (;;) {
		const record = await records.next();
		if (record.kind === RECORD.installation) {
			const { [MASTER_KEY_MEMBER]: key, ...row } = JSON.parse(record.payload.toString()) as Record<string, unknown>;
			if (typeof key === 'string') masterKey = key;
			await load.installation(row);
		} else if (record.kind === RECORD.table) {
			const { table, columns } = records.parse(record, tableRecord);
			await load.table(table, columns, rowsOf(records));
		} else if (record.kind === RECORD.blobs) {
			records.blobsOf = records.parse(record, blobsRecord).blobs;
			return masterKey;
		} else throw records.misplaced(record);
	}
}

/** Those of one table: up to the first record that is something else. */
async function* rowsOf(records: Records): AsyncGenerator<Buffer> {
	for (;;) {
		if ((await records.peek()).kind !== RECORD.rows) return;
		const record = await records.next();
		try {
			yield await promisify(zstdDecompress)(record.payload, { maxOutputLength: MAX_ROWS_BYTES });
		} catch (cause) {
			throw new BackupError('backup_damaged', `record ${record.index + 1} of the backup, at byte ${record.at}, does not unpack`, { cause });
		}
	}
}

/** Every blob is compared with its digest before it is stored, and stored as it lies in the file. */
async function fillStore(records: Records, store: SweptStore): Promise<{ blobs: number; bytes: number }> {
	const filling = new FillingStore(store);
	/** Large blobs are unpacked on other threads, while the next records are read. */
	const checking: Promise<Checked[]>[] = [];
	const takeOldest = async () => {
		for (const one of await checking.shift()!) await filling.take(one);
		records.blobs = filling.blobs;
	};
	try {
		for (;;) {
			const record = await records.next();
			if (record.kind === RECORD.pack) {
				const check = blobsIn(record);
				check.catch(() => {}); // told when its turn comes
				checking.push(check);
				if (checking.length >= CHECKED_AT_ONCE) await takeOldest();
				continue;
			}
			if (record.kind !== RECORD.end) throw records.misplaced(record);
			while (checking.length > 0) await takeOldest();
			const said = records.parse(record, endRecord);
			const { blobs, bytes } = await filling.finish();
			if (said.blobs === blobs && said.bytes === bytes && said.blobs === records.blobsOf) return { blobs, bytes };
			throw new BackupError('backup_damaged', `the backup says that it holds ${said.blobs} blobs, and it holds ${blobs}`);
		}
	} finally {
		await Promise.allSettled(checking);
		await filling.settle();
	}
}

/** Blobs on their way into the store: one batch goes to the disk while the next is read. */
class FillingStore {
	blobs = 0;
	private bytes = 0;
	private readonly store: SweptStore;
	private waiting: EncodedBlob[] = [];
	private waitingBytes = 0;
	private writing: Promise<void> = Promise.resolve();

	constructor(store: SweptStore) {
		this.store = store;
	}

	async take({ blob, rawBytes }: Checked): Promise<void> {
		this.waiting.push(blob);
		this.waitingBytes += blob.stored.length;
		this.blobs++;
		this.bytes += rawBytes;
		if (this.waitingBytes >= WRITE_BYTES) await this.write();
	}

	async finish(): Promise<{ blobs: number; bytes: number }> {
		await this.write();
		await this.writing;
		return { blobs: this.blobs, bytes: this.bytes };
	}

	/** Nothing is under way any more. */
	async settle(): Promise<void> {
		await this.writing.catch(() => {}); // told before
	}

	private async write(): Promise<void> {
		await this.writing;
		this.writing = this.store.writeStored(this.waiting);
		this.writing.catch(() => {}); // told by the next wait
		[this.waiting, this.waitingBytes] = [[], 0];
	}
}

interface Checked {
	blob: EncodedBlob;
	rawBytes: number;
}

async function blobsIn({ payload, index, at }: BackupRecord): Promise<Checked[]> {
	const where = `in record ${index + 1} of the backup, at byte ${at}`;
	const entries = decodePackIndex(payload);
	if (!entries) throw new BackupError('backup_damaged', `the list of blobs ${where} was damaged`);
	const blobs: Checked[] = [];
	for (const entry of entries) {
		const stored = payload.subarray(entry.offset, entry.offset + entry.storedBytes);
		const raw = entry.rawBytes > BIG_BLOB_BYTES ? await decodeBig(entry, stored) : decodeBlob(entry, stored);
		if (raw?.length !== entry.rawBytes) throw new BackupError('backup_damaged', `${entry.digest}, ${where}, does not have that digest`);
		blobs.push({ blob: { digest: entry.digest, stored, rawBytes: entry.rawBytes, encoding: entry.encoding }, rawBytes: entry.rawBytes });
	}
	return blobs;
}

/** The records of the file, unsealed, one at a time. */
class Records {
	blobs = 0;
	blobsOf: number | null = null;
	private readonly options: RestoreOptions;
	private readonly parser = new BackupParser();
	private file: Awaited<ReturnType<typeof open>> | null = null;
	private size = 0;
	private read = 0;
	private ready: BackupRecord[] = [];
	private seal: Seal | null = null;

	constructor(options: RestoreOptions) {
		this.options = options;
	}

	/** @throws BackupError when this file can't be read by us, or not with this key */
	async open(passphraseKey: Buffer | null): Promise<BackupHeader> {
		this.file = await open(this.options.file, 'r');
		this.size = (await this.file.stat()).size;
		const first = await this.next();
		if (first.kind !== RECORD.header) throw this.misplaced(first);
		const header = readHeader(first.payload);
		if (!header.seal) return header;
		if (!passphraseKey) throw new BackupError('backup_sealed', 'the backup is sealed with a passphrase');
		const key = fileKey(passphraseKey, header.seal.fileSalt);
		checkProof(key, header.seal);
		this.seal = Seal.of(key, first.payload);
		return header;
	}

	/** Still sealed. */
	async peek(): Promise<BackupRecord> {
		while (this.ready.length === 0) await this.fill();
		return this.ready[0]!;
	}

	async next(): Promise<BackupRecord> {
		const sealed = await this.peek();
		this.ready.shift();
		const record = this.seal ? { ...sealed, payload: this.seal.open(sealed) } : sealed;
		if (record.kind !== RECORD.failed) return record;
		const { message } = this.parse(record, failedRecord);
		throw new BackupError('backup_truncated', `this backup failed when it was made: ${message}`);
	}

	parse<T>({ payload, index, at }: BackupRecord, schema: z.ZodType<T>): T {
		try {
			return schema.parse(JSON.parse(payload.toString()));
		} catch (cause) {
			throw new BackupError('backup_unreadable', `record ${index + 1} of the backup, at byte ${at}, is not as it must be`, { cause });
		}
	}

	misplaced({ kind, index, at }: BackupRecord): BackupError {
		return new BackupError(
			'backup_unreadable',
			`record ${index + 1} of the backup, at byte ${at}, is of kind ${kind}, which has no place there`,
		);
	}

	async close(): Promise<void> {
		await this.file?.close();
	}

	private async fill(): Promise<void> {
		const { bytesRead, buffer } = await this.file!.read(Buffer.allocUnsafe(READ_BYTES), 0, READ_BYTES, this.read);
		if (bytesRead === 0) {
			this.parser.finish();
			throw new BackupError('backup_truncated', 'the backup goes on after its last record said that it is whole');
		}
		this.read += bytesRead;
		this.ready.push(...this.parser.push(buffer.subarray(0, bytesRead)));
		this.options.progress({ bytes: this.read, of: this.size, blobs: this.blobs, blobsOf: this.blobsOf });
	}
}

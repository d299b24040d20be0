import { randomBytes } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import { promisify } from 'node:util';
import { constants, zstdCompress } from 'node:zlib';
import type { Clock } from '#clock/clock.ts';
import type { Digest } from '#digest/digest.ts';
import { encodePack, type EncodedBlob } from '#store/blob-pack.ts';
import type { SweptStore } from '#store/blob-store.ts';
import type { Dump } from '#state/dump.ts';
import type { State } from '#state/state.ts';
import { BACKUP_FORMAT, BackupWriter, fileKey, proofOf, RECORD } from '#wire/backup-file.ts';
import type { BackupHeader, Kdf } from '#wire/backup-header.ts';

/** A backup as it is made: the state of one moment first, then the blobs that it needs. */

/** Blobs are gathered into packs of about this size: one is in memory at a time. */
const PACK_BYTES = 4 * 1024 * 1024;
const PACK_BLOBS = 16_384;
/** Reading and checking this much takes about 3 ms; then others get their turn. */
const YIELD_EACH_BYTES = 1024 * 1024;
/** Whoever takes nothing for this long is gone: the database's snapshot must not wait for them. */
const STALLED_AFTER_MS = 120_000;
const READ_AT_ONCE = 4;
const DIGEST_BYTES = 32;
/** Of the record of the installation. */
export const MASTER_KEY_MEMBER = 'master_key';

export interface BackupSource {
	state: State;
	store: SweptStore;
	/** Of the header: what is not in the database. */
	about: Pick<BackupHeader, 'version' | 'installation' | 'up'>;
	clock: Clock;
	/** What a sealed one carries of secrets beside the database: the master key, where it lies in a file. */
	masterKey: () => Promise<string | null>;
	/** What whoever reads it is told of an error in the middle. */
	failed: (error: unknown) => { code: string; message: string };
}

export interface BackupWish {
	all: boolean;
	seal: { kdf: Kdf; key: Buffer } | null;
}

/** Pieces of the file, in order. Ended early, it closes what it holds. */
export async function* makeBackup(
	{ state, store, about, clock, masterKey, failed }: BackupSource,
	{ all, seal }: BackupWish,
): AsyncGenerator<Buffer> {
	const dump = await state.dump({ all, keys: seal !== null });
	const writer = new BackupWriter();
	const fileSalt = randomBytes(32).toString('base64');
	const key = seal && fileKey(seal.key, fileSalt);
	const header: BackupHeader = {
		format: BACKUP_FORMAT,
		...about,
		createdAt: clock.now(),
		all,
		keys: seal !== null,
		seal: seal && key && { kdf: seal.kdf, fileSalt, proof: proofOf(key) },
		migrations: dump.migrations,
	};
	yield* writer.begin(header, key);
	try {
		const counted = { rows: 0, blobs: 0, bytes: 0 };
		const digests = yield* writeState(dump, writer, counted, seal === null ? null : await masterKey());
		yield* writer.json(RECORD.blobs, { blobs: digests.length });
		yield* writeBlobs(store, digests, writer, counted);
		yield* writer.json(RECORD.end, counted);
	} catch (error) {
		yield* writer.json(RECORD.failed, failed(error));
	} finally {
		await dump.parts.return();
	}
}

interface Counted {
	/** Bytes of rows. */
	rows: number;
	blobs: number;
	/** Of blobs, unpacked. */
	bytes: number;
}

async function* writeState(dump: Dump, writer: BackupWriter, counted: Counted, masterKey: string | null): AsyncGenerator<Buffer, Digest[]> {
	let digests: Digest[] = [];
	for await (const part of dump.parts) {
		if (part.kind === 'installation')
			yield* writer.json(RECORD.installation, masterKey === null ? part.row : { ...part.row, [MASTER_KEY_MEMBER]: masterKey });
		else if (part.kind === 'table') yield* writer.json(RECORD.table, { table: part.table, columns: part.columns });
		else if (part.kind === 'rows') {
			counted.rows += part.rows.length;
			yield* writer.record(RECORD.rows, await compress(part.rows));
		} else digests = digestsIn(part.digests);
	}
	return digests;
}

async function* writeBlobs(store: SweptStore, digests: Digest[], writer: BackupWriter, counted: Counted): AsyncGenerator<Buffer> {
	let pack: EncodedBlob[] = [];
	let packBytes = 0;
	let sinceYieldBytes = 0;
	for await (const blob of readInOrder(store, digests)) {
		if (packBytes > 0 && (packBytes + blob.stored.length > PACK_BYTES || pack.length >= PACK_BLOBS)) {
			yield* writer.record(RECORD.pack, encodePack(pack).file);
			[pack, packBytes] = [[], 0];
		}
		pack.push(blob);
		packBytes += blob.stored.length;
		counted.blobs++;
		counted.bytes += blob.rawBytes;
		sinceYieldBytes += blob.rawBytes;
		if (sinceYieldBytes < YIELD_EACH_BYTES) continue;
		await new Promise((resolve) => setImmediate(resolve));
		sinceYieldBytes = 0;
	}
	if (pack.length > 0) yield* writer.record(RECORD.pack, encodePack(pack).file);
}

/** Large ones are read and unpacked on other threads, a few at once, while small ones, which are there at once, go by. */
async function* readInOrder(store: SweptStore, digests: Digest[]): AsyncGenerator<EncodedBlob> {
	const reading = new Set<Promise<void>>();
	const ready: EncodedBlob[] = [];
	try {
		for (const digest of store.inOrder(digests)) {
			const one = store.readStored(digest).then((blob) => {
				ready.push(blob);
				reading.delete(one);
			});
			one.catch(() => {}); // told by the next wait
			reading.add(one);
			await Promise.resolve();
			if (reading.size >= READ_AT_ONCE) await Promise.race(reading);
			while (ready.length > 0) yield ready.shift()!;
		}
		await Promise.all(reading);
		yield* ready;
	} finally {
		await Promise.allSettled(reading);
	}
}

function compress(bytes: Buffer): Promise<Buffer> {
	return promisify(zstdCompress)(bytes, { params: { [constants.ZSTD_c_compressionLevel]: 3 } });
}

function digestsIn(packed: Buffer): Digest[] {
	return Array.from({ length: packed.length / DIGEST_BYTES }, (_, i): Digest => {
		const at = i * DIGEST_BYTES;
		return `sha256:${packed.toString('hex', at, at + DIGEST_BYTES)}`;
	});
}

/** Sends pieces as fast as they are taken. false: whoever asked is gone. */
export async function sendPieces(pieces: AsyncIterable<Buffer>, response: ServerResponse, clock: Clock): Promise<boolean> {
	for await (const piece of pieces) {
		if (response.destroyed) return false;
		if (!response.write(piece) && !(await drained(response, clock))) return false;
	}
	return true;
}

function drained(response: ServerResponse, clock: Clock): Promise<boolean> {
	return new Promise((resolve) => {
		const settle = (taken: boolean) => {
			timer.cancel();
			response.off('drain', onDrain).off('close', onClose);
			resolve(taken);
		};
		const onDrain = () => settle(true);
		const onClose = () => settle(false);
		const timer = clock.after(STALLED_AFTER_MS, () => settle(false));
		response.once('drain', onDrain).once('close', onClose);
		if (response.destroyed) onClose();
	});
}

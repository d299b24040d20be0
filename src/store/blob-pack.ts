import { hash } from 'node:crypto';
import { promisify } from 'node:util';
import { zstdCompress, zstdCompressSync, zstdDecompress, zstdDecompressSync } from 'node:zlib';
import { sha256, sha256Aside, type Digest } from '#digest/digest.ts';

/**
 * A pack: many small blobs in one file, so that a deploy costs one fsync instead of one a blob.
 * `magic | u32 count | 16 bytes of the index's sha256 | index | bytes`; the index stands in front, so that opening a
 * store reads one page of most packs. Entries of the index: digest, offset, stored and raw length, encoding.
 */
const MAGIC = Buffer.from('JIBEPK1\n');
const CHECK_BYTES = 16;
export const PACK_HEADER_BYTES = MAGIC.length + 4 + CHECK_BYTES;
const ENTRY_BYTES = 32 + 4 + 4 + 4 + 1;
export const MAX_PACK_BLOBS = 65_536;
/** A pack is closed once it holds this much. */
export const MAX_PACK_BYTES = 32 * 1024 * 1024;
/** Blobs below this are stored as they are: a zstd frame's own overhead eats the gain. */
const MIN_COMPRESS_BYTES = 128;
/** Stored compressed only when that saves a tenth; else reading would pay for nothing. */
const WORTHWHILE_RATIO = 0.9;

/** Above this a blob is stored by itself, and handled on other threads than ours. */
export const BIG_BLOB_BYTES = 1024 * 1024;
/** Limit of what a big blob may unpack to: an artifact's. */
const MAX_BIG_BYTES = 2 * 1024 * 1024 * 1024;

/** The least that zlib takes. */
const MIN_CHUNK_BYTES = 64;

export const PLAIN = 0;
export const ZSTD = 1;
type Encoding = typeof PLAIN | typeof ZSTD;

/** Where a blob's stored bytes lie within its pack's file. */
export interface PackEntry {
	digest: Digest;
	/** From the start of the file. */
	offset: number;
	storedBytes: number;
	rawBytes: number;
	encoding: Encoding;
}

export interface EncodedBlob {
	digest: Digest;
	stored: Uint8Array;
	rawBytes: number;
	encoding: Encoding;
}

export function encodeBlob(digest: Digest, raw: Uint8Array): EncodedBlob {
	if (raw.length >= MIN_COMPRESS_BYTES) {
		const compressed = zstdCompressSync(raw);
		if (compressed.length < raw.length * WORTHWHILE_RATIO) {
			return { digest, stored: compressed, rawBytes: raw.length, encoding: ZSTD };
		}
	}
	return { digest, stored: raw, rawBytes: raw.length, encoding: PLAIN };
}

/** The blob, or null when the bytes are not those that the digest names. Never unpacks more than was declared. */
export function decodeBlob(of: { digest: Digest; rawBytes: number; encoding: number }, stored: Buffer): Buffer | null {
	const raw = of.encoding === ZSTD ? inflate(stored, of.rawBytes) : stored;
	return raw !== null && raw.length === of.rawBytes && sha256(raw) === of.digest ? raw : null;
}

/** As `encodeBlob`, for a big one. */
export async function encodeBig(digest: Digest, raw: Uint8Array): Promise<EncodedBlob> {
	const compressed = await promisify(zstdCompress)(raw);
	const pays = compressed.length < raw.length * WORTHWHILE_RATIO;
	return { digest, stored: pays ? compressed : raw, rawBytes: raw.length, encoding: pays ? ZSTD : PLAIN };
}

/** The big blob, or null when the bytes are not those that the digest names. */
export async function decodeBig(of: { digest: Digest; encoding: number }, stored: Buffer): Promise<Buffer | null> {
	const raw = of.encoding === ZSTD ? await inflateBig(stored) : stored;
	return raw !== null && (await sha256Aside(raw)) === of.digest ? raw : null;
}

/** The whole file, and where each blob lies in it. */
export function encodePack(blobs: readonly EncodedBlob[]): { file: Buffer; entries: PackEntry[] } {
	const index = Buffer.alloc(blobs.length * ENTRY_BYTES);
	let offset = PACK_HEADER_BYTES + index.length;
	const entries = blobs.map((blob, i): PackEntry => {
		const entry = { digest: blob.digest, offset, storedBytes: blob.stored.length, rawBytes: blob.rawBytes, encoding: blob.encoding };
		writeEntry(index, i * ENTRY_BYTES, entry);
		offset += blob.stored.length;
		return entry;
	});
	const count = Buffer.alloc(4);
	count.writeUInt32LE(blobs.length);
	return { file: Buffer.concat([MAGIC, count, checkOf(index), index, ...blobs.map((blob) => blob.stored)]), entries };
}

/** How many bytes header and index take, or null when this is not the start of a pack. */
export function packIndexEnd(header: Buffer): number | null {
	if (header.length < PACK_HEADER_BYTES || !header.subarray(0, MAGIC.length).equals(MAGIC)) return null;
	const count = header.readUInt32LE(MAGIC.length);
	return count > MAX_PACK_BLOBS ? null : PACK_HEADER_BYTES + count * ENTRY_BYTES;
}

/** The entries of a pack from its first bytes (`packIndexEnd` of them or more), or null when the index was damaged. */
export function decodePackIndex(start: Buffer): PackEntry[] | null {
	const end = packIndexEnd(start);
	if (end === null || start.length < end) return null;
	const index = start.subarray(PACK_HEADER_BYTES, end);
	if (!checkOf(index).equals(start.subarray(PACK_HEADER_BYTES - CHECK_BYTES, PACK_HEADER_BYTES))) return null;
	return Array.from({ length: index.length / ENTRY_BYTES }, (_, i) => readEntry(index, i * ENTRY_BYTES));
}

function checkOf(index: Buffer): Buffer {
	return hash('sha256', index, 'buffer').subarray(0, CHECK_BYTES);
}

function writeEntry(into: Buffer, at: number, entry: PackEntry): void {
	into.write(entry.digest.slice('sha256:'.length), at, 'hex');
	into.writeUInt32LE(entry.offset, at + 32);
	into.writeUInt32LE(entry.storedBytes, at + 36);
	into.writeUInt32LE(entry.rawBytes, at + 40);
	into.writeUInt8(entry.encoding, at + 44);
}

function readEntry(from: Buffer, at: number): PackEntry {
	return {
		digest: `sha256:${from.toString('hex', at, at + 32)}`,
		offset: from.readUInt32LE(at + 32),
		storedBytes: from.readUInt32LE(at + 36),
		rawBytes: from.readUInt32LE(at + 40),
		encoding: from.readUInt8(at + 44) === ZSTD ? ZSTD : PLAIN,
	};
}

function inflate(stored: Buffer, rawBytes: number): Buffer | null {
	try {
		// In one piece: the usual 64 KiB for each of many small blobs are work for the garbage collector.
		return zstdDecompressSync(stored, { maxOutputLength: Math.max(rawBytes, 1), chunkSize: Math.max(rawBytes + 1, MIN_CHUNK_BYTES) });
	} catch {
		// Damaged or larger than declared: the caller reports the blob as corrupt, by its digest.
		return null;
	}
}

async function inflateBig(stored: Buffer): Promise<Buffer | null> {
	try {
		return await promisify(zstdDecompress)(stored, { maxOutputLength: MAX_BIG_BYTES });
	} catch {
		// Not a whole zstd frame: the caller reports the blob as corrupt.
		return null;
	}
}

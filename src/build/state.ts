import { crc32 } from 'node:zlib';
import type { Digest } from '#digest/digest.ts';
import type { CompileOptions } from './compile.ts';
import type { Facts } from './facts.ts';

/**
 * What the last build of a directory saw and made, as one binary file: at 10,000 modules parsing JSON would cost more
 * than the build. Columns of fixed width, then paths, directory nodes, meta, and facts, each decoded only when asked for.
 */

export const KIND = { folder: 0, module: 1, file: 2, both: 3, special: 4 } as const;
export type Kind = (typeof KIND)[keyof typeof KIND];

/** In the folder that the builds of one directory share. */
export const STATE_FILE = 'state';
export const STAT_WORDS = 4;
const DIGEST_BYTES = 32;
export const SIGNATURE_BYTES = 16;
const MAGIC = 'JIBEST02';
/** magic 8 · key 32 · started i64 · count u32 · section lengths 4 × u32 · crc u32, padded to a multiple of 8. */
const HEADER_BYTES = 72;

export interface Meta {
	root: Digest;
	modules: number;
	warnings: string[];
	vendorKey: string | null;
	vendorRoot: Digest | null;
	/** Folders walked: the app's own, and workspaces outside it. */
	roots: { dir: string; prefix: string }[];
	options: CompileOptions;
}

export interface StateTable {
	/** 32 bytes: everything but the files that decides the build. */
	key: Buffer;
	/** When the scan began, ns since 1970: what is not older than this may have changed unseen. */
	startedNs: bigint;
	/** size, mtime, ctime, inode of each entry. */
	stats: BigInt64Array;
	/** SHA-256 of each file's content, or of each folder's listing. */
	contents: Buffer;
	/** Of each module's facts. */
	signatures: Buffer;
	kinds: Uint8Array;
	paths: string[];
	/** `digest json\n` a directory node of the artifact. */
	nodes: string | Buffer;
	meta: Meta;
	/** Facts of each entry, null where it is no module. */
	facts: () => (Facts | null)[];
}

export function encodeState(table: Omit<StateTable, 'facts'> & { facts: string | Buffer }): Buffer {
	const count = table.paths.length;
	const sections = [table.paths.join('\0'), table.nodes, JSON.stringify(table.meta), table.facts].map((text) =>
		typeof text === 'string' ? Buffer.from(text) : text,
	);
	const header = Buffer.alloc(HEADER_BYTES);
	header.write(MAGIC, 0, 'latin1');
	table.key.copy(header, 8);
	header.writeBigInt64LE(table.startedNs, 40);
	header.writeUInt32LE(count, 48);
	for (const [i, section] of sections.entries()) header.writeUInt32LE(section.length, 52 + i * 4);
	const body = [
		Buffer.from(table.stats.buffer, table.stats.byteOffset, table.stats.byteLength),
		table.contents,
		table.signatures,
		Buffer.from(table.kinds.buffer, table.kinds.byteOffset, table.kinds.byteLength),
		...sections,
	];
	let crc = crc32(header.subarray(0, 68));
	for (const part of body) crc = crc32(part, crc);
	header.writeUInt32LE(crc, 68);
	return Buffer.concat([header, ...body]);
}

/** null: not a state of this version, damaged, or of other settings. */
export function decodeState(bytes: Buffer, key: Buffer): (StateTable & { factsBytes: Buffer }) | null {
	if (bytes.length < HEADER_BYTES || bytes.toString('latin1', 0, 8) !== MAGIC || key.compare(bytes, 8, 40) !== 0) return null;
	const count = bytes.readUInt32LE(48);
	const lengths = [0, 1, 2, 3].map((i) => bytes.readUInt32LE(52 + i * 4));
	const fixed = count * (STAT_WORDS * 8 + DIGEST_BYTES + SIGNATURE_BYTES + 1);
	if (HEADER_BYTES + fixed + lengths.reduce((sum, length) => sum + length, 0) !== bytes.length) return null;
	if (crc32(bytes.subarray(HEADER_BYTES), crc32(bytes.subarray(0, 68))) !== bytes.readUInt32LE(68)) return null;
	let at = HEADER_BYTES;
	const take = (length: number) => bytes.subarray(at, (at += length));
	const statBytes = take(count * STAT_WORDS * 8);
	// A copy is aligned whatever the buffer's own offset is.
	const stats = new BigInt64Array(statBytes.buffer.slice(statBytes.byteOffset, statBytes.byteOffset + statBytes.length) as ArrayBuffer);
	const contents = take(count * DIGEST_BYTES);
	const signatures = take(count * SIGNATURE_BYTES);
	const kinds = new Uint8Array(take(count));
	const [paths, nodes, meta, facts] = lengths.map((length) => take(length)) as [Buffer, Buffer, Buffer, Buffer];
	return {
		key,
		startedNs: bytes.readBigInt64LE(40),
		stats,
		contents,
		signatures,
		kinds,
		paths: count === 0 ? [] : paths.toString().split('\0'),
		nodes,
		meta: JSON.parse(meta.toString()) as Meta,
		facts: () => JSON.parse(facts.toString()) as (Facts | null)[],
		factsBytes: facts,
	};
}

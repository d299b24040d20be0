import {
	closeSync,
	mkdirSync,
	openSync,
	readdirSync,
	readFileSync,
	readSync,
	renameSync,
	statSync,
	unlinkSync,
	writeFileSync,
	fstatSync,
} from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { systemClock } from '#clock/clock.ts';
import { randomId, sha256, type Digest } from '#digest/digest.ts';
import type { Compiled } from './compile.ts';
import type { Facts } from './facts.ts';

/**
 * What was compiled before, by action key. Kept in segments, each written once under a temporary name and renamed, so
 * that a killed run leaves nothing half-written and runs at the same time never see each other's. A segment that is
 * gone or damaged is a miss. Layout: records · index (keys, then rows) · trailer.
 */

const MAGIC = 0x6a_69_62_65;
const KEY_BYTES = 32;
/** code digest 32 · map digest 32 · offset f64 · facts, code, map lengths u32 · crc u32 */
const ROW_BYTES = 32 + 32 + 8 + 12 + 4;
/** count u32 · index offset f64 · crc of the index u32 · magic u32 */
const TRAILER_BYTES = 20;
const MAX_SMALL_SEGMENTS = 16;
const SMALL_SEGMENT_BYTES = 1024 * 1024;
const MAX_CACHE_BYTES = 512 * 1024 * 1024;
/** A temporary file this old belongs to nobody any more. */
const DRAFT_LIMIT_MS = 60 * 60 * 1000;

interface Segment {
	path: string;
	count: number;
	keys: Buffer;
	rows: Buffer;
	bytes: number;
}

interface Pending extends Compiled {
	codeDigest: Digest;
	mapDigest: Digest;
}

export interface CachedOutput extends Compiled {
	codeDigest: Digest;
	mapDigest: Digest;
}

export class ActionCache {
	readonly #dir: string;
	#segments: Segment[] | undefined;
	readonly #pending = new Map<Digest, Pending>();
	/** What this run compiled, pending or not: most likely asked for again. */
	readonly #own = new Map<Digest, Buffer>();

	constructor(dir: string) {
		this.#dir = dir;
	}

	get(key: Digest): CachedOutput | null {
		const pending = this.#pending.get(key);
		if (pending) return pending;
		const wanted = Buffer.from(key.slice(7), 'hex');
		for (const segment of this.#load()) {
			const at = search(segment, wanted);
			if (at < 0) continue;
			const found = readRecord(segment, at);
			if (found) return found;
		}
		return null;
	}

	put(key: Digest, compiled: Compiled): CachedOutput {
		const output = { ...compiled, codeDigest: sha256(compiled.code), mapDigest: sha256(compiled.map) };
		this.#pending.set(key, output);
		this.#own.set(output.codeDigest, output.code).set(output.mapDigest, output.map);
		return output;
	}

	/** The code or map with this digest, if any run left it here. */
	blob(digest: Digest): Buffer | null {
		const own = this.#own.get(digest);
		if (own) return own;
		const wanted = Buffer.from(digest.slice(7), 'hex');
		for (const segment of this.#load()) {
			for (let at = segment.rows.indexOf(wanted); at >= 0; at = segment.rows.indexOf(wanted, at + 1)) {
				const column = at % ROW_BYTES;
				if (column !== 0 && column !== 32) continue;
				const found = readRecord(segment, Math.floor(at / ROW_BYTES));
				if (found) return column === 0 ? found.code : found.map;
			}
		}
		return null;
	}

	/** Writes what this run compiled. */
	flush(): void {
		if (this.#pending.size === 0) return;
		mkdirSync(this.#dir, { recursive: true });
		const segments = this.#load();
		const small = segments.filter((segment) => segment.bytes < SMALL_SEGMENT_BYTES);
		const merge = small.length >= MAX_SMALL_SEGMENTS ? small : [];
		const records = new Map<string, Buffer[]>();
		for (const segment of merge) {
			for (let at = 0; at < segment.count; at++) {
				const found = readRecord(segment, at);
				if (found) records.set(segment.keys.toString('hex', at * KEY_BYTES, (at + 1) * KEY_BYTES), encodeRecord(found));
			}
		}
		for (const [key, output] of this.#pending) records.set(key.slice(7), encodeRecord(output));
		const path = join(this.#dir, `${randomId(12)}.pack`);
		writeWhole(path, encodeSegment(records));
		sweepDrafts(this.#dir);
		for (const segment of merge) removeFile(segment.path);
		this.#pending.clear();
		this.#segments = undefined;
		this.#prune();
	}

	#prune(): void {
		const segments = this.#load();
		let bytes = segments.reduce((sum, segment) => sum + segment.bytes, 0);
		// Newest first, so the last is the oldest.
		for (const segment of segments.toReversed()) {
			if (bytes <= MAX_CACHE_BYTES) break;
			removeFile(segment.path);
			bytes -= segment.bytes;
		}
	}

	#load(): Segment[] {
		this.#segments ??= listSegments(this.#dir).flatMap((path) => loadSegment(path) ?? []);
		return this.#segments;
	}
}

function listSegments(dir: string): string[] {
	let names: string[];
	try {
		names = readdirSync(dir);
	} catch {
		return []; // Nothing was ever cached.
	}
	return names
		.filter((name) => name.endsWith('.pack'))
		.map((name) => ({ path: join(dir, name), stat: statSync(join(dir, name), { throwIfNoEntry: false }) }))
		.filter(({ stat }) => stat !== undefined)
		.sort((a, b) => b.stat!.mtimeMs - a.stat!.mtimeMs)
		.map(({ path }) => path);
}

/** null: gone, or damaged. */
function loadSegment(path: string): Segment | null {
	let file: number;
	try {
		file = openSync(path, 'r');
	} catch {
		return null; // Another run merged it away.
	}
	try {
		const bytes = fstatSync(file).size;
		if (bytes < TRAILER_BYTES) return null;
		const trailer = readAt(file, bytes - TRAILER_BYTES, TRAILER_BYTES);
		const count = trailer.readUInt32LE(0);
		const offset = trailer.readDoubleLE(4);
		const length = count * (KEY_BYTES + ROW_BYTES);
		if (trailer.readUInt32LE(16) !== MAGIC || offset + length + TRAILER_BYTES !== bytes) return null;
		const index = readAt(file, offset, length);
		if (crc32(index) !== trailer.readUInt32LE(12)) return null;
		return { path, count, bytes, keys: index.subarray(0, count * KEY_BYTES), rows: index.subarray(count * KEY_BYTES) };
	} finally {
		closeSync(file);
	}
}

function readAt(file: number, offset: number, length: number): Buffer {
	const buffer = Buffer.allocUnsafeSlow(length);
	let done = 0;
	while (done < length) {
		const read = readSync(file, buffer, done, length - done, offset + done);
		if (read === 0) break;
		done += read;
	}
	return buffer.subarray(0, done);
}

function search(segment: Segment, key: Buffer): number {
	let low = 0;
	let high = segment.count - 1;
	while (low <= high) {
		const middle = (low + high) >> 1;
		const order = segment.keys.compare(key, 0, KEY_BYTES, middle * KEY_BYTES, (middle + 1) * KEY_BYTES);
		if (order === 0) return middle;
		if (order < 0) low = middle + 1;
		else high = middle - 1;
	}
	return -1;
}

function readRecord(segment: Segment, at: number): CachedOutput | null {
	const row = segment.rows.subarray(at * ROW_BYTES, (at + 1) * ROW_BYTES);
	const [facts, code, map] = [row.readUInt32LE(72), row.readUInt32LE(76), row.readUInt32LE(80)];
	let file: number;
	try {
		file = openSync(segment.path, 'r');
	} catch {
		return null; // Merged away since.
	}
	try {
		const bytes = readAt(file, row.readDoubleLE(64), facts + code + map);
		if (bytes.length !== facts + code + map || crc32(bytes) !== row.readUInt32LE(84)) return null;
		return {
			facts: JSON.parse(bytes.toString('utf8', 0, facts)) as Facts,
			code: bytes.subarray(facts, facts + code),
			map: bytes.subarray(facts + code),
			codeDigest: `sha256:${row.toString('hex', 0, 32)}`,
			mapDigest: `sha256:${row.toString('hex', 32, 64)}`,
		};
	} finally {
		closeSync(file);
	}
}

/** Facts, code, map and a row whose offset is still to be set. */
function encodeRecord(output: Pending): Buffer[] {
	const facts = Buffer.from(JSON.stringify(output.facts));
	const row = Buffer.alloc(ROW_BYTES);
	row.write(output.codeDigest.slice(7), 0, 'hex');
	row.write(output.mapDigest.slice(7), 32, 'hex');
	row.writeUInt32LE(facts.length, 72);
	row.writeUInt32LE(output.code.length, 76);
	row.writeUInt32LE(output.map.length, 80);
	row.writeUInt32LE(crc32(output.map, crc32(output.code, crc32(facts))), 84);
	return [facts, output.code, output.map, row];
}

function encodeSegment(records: ReadonlyMap<string, Buffer[]>): Buffer {
	const keys = [...records.keys()].sort();
	const parts: Buffer[] = [];
	const rows: Buffer[] = [];
	let offset = 0;
	for (const key of keys) {
		const [facts, code, map, row] = records.get(key) as [Buffer, Buffer, Buffer, Buffer];
		row.writeDoubleLE(offset, 64);
		offset += facts.length + code.length + map.length;
		parts.push(facts, code, map);
		rows.push(row);
	}
	const index = Buffer.concat([...keys.map((key) => Buffer.from(key, 'hex')), ...rows]);
	const trailer = Buffer.alloc(TRAILER_BYTES);
	trailer.writeUInt32LE(keys.length, 0);
	trailer.writeDoubleLE(offset, 4);
	trailer.writeUInt32LE(crc32(index), 12);
	trailer.writeUInt32LE(MAGIC, 16);
	return Buffer.concat([...parts, index, trailer]);
}

function removeFile(path: string): void {
	try {
		unlinkSync(path);
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
	}
}

/** Reads a file, or null when there is none. */
export function readIfThere(path: string): Buffer | null {
	try {
		return readFileSync(path);
	} catch (error) {
		const { code } = error as NodeJS.ErrnoException;
		if (code === 'ENOENT' || code === 'ENOTDIR') return null;
		throw error;
	}
}

/** Whole or not at all. */
export function writeWhole(path: string, data: string | Uint8Array): void {
	const temporary = `${path}.${randomId(8)}.tmp`;
	try {
		writeFileSync(temporary, data);
		renameSync(temporary, path);
	} catch (error) {
		removeFile(temporary);
		throw error;
	}
}

/** What runs that were killed while writing left behind. */
function sweepDrafts(dir: string): void {
	const before = systemClock.now() - DRAFT_LIMIT_MS;
	for (const name of readdirSync(dir)) {
		const path = join(dir, name);
		const stat = name.endsWith('.tmp') ? statSync(path, { throwIfNoEntry: false }) : undefined;
		if (stat && stat.mtimeMs < before) removeFile(path);
	}
}

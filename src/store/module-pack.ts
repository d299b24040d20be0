import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Digest } from '#digest/digest.ts';
import type { AppIndex } from './app-index.ts';

/**
 * All modules of a release in one file, so that an instance reads one file and not hundreds:
 *
 *   u32 magic | u32 length of head | u32 length of index | head (JSON) | index (the artifact's index.json) | bodies
 *
 * The head's table says where each body is. A new pack keeps the bodies of the one before it where they lie and
 * appends what changed (measured: about 1 ms for 217 modules), until less than half of the bytes are in use.
 * The reader trusts nothing: it was written by the agent, but a disk can hold anything.
 */
const MAGIC = 0x314b504a; // "JPK1"
const PREFIX_BYTES = 12;
export const MAX_MODULE_BYTES = 10 * 1024 * 1024;
export const MAX_PACK_BYTES = 1024 * 1024 * 1024;
export const MAX_MODULES = 200_000;

/** Path → [offset from the first body, length, digest]. */
type Table = Record<string, [number, number, Digest]>;

export class PackError extends Error {
	readonly code = 'bad_pack';
}

export interface ModulePack {
	index: AppIndex;
	has(path: string): boolean;
	/** Its bytes; a view, not a copy. Null when the pack has no such path. */
	slice(path: string): Buffer | null;
	digest(path: string): Digest | null;
	paths(): string[];
	/** The file's bytes, for the next pack. */
	readonly bytes: Buffer;
}

/** Makes a pack of `wanted` (path → digest); `previous` saves reading what it has. */
export function buildModulePack(of: {
	indexJson: Buffer;
	wanted: ReadonlyMap<string, Digest>;
	read: (digest: Digest) => Buffer;
	previous: ModulePack | null;
}): Buffer {
	if (of.wanted.size > MAX_MODULES) throw new PackError(`${of.wanted.size} modules are more than the limit of ${MAX_MODULES}`);
	const kept = of.previous && usedBytes(of.previous, of.wanted) * 2 >= bodyBytes(of.previous) ? of.previous : null;
	const bodies: Buffer[] = kept ? [bodiesOf(kept)] : [];
	let at = bodies[0]?.length ?? 0;
	const table: Table = {};
	const old = of.previous ? tableOf(of.previous) : {};
	for (const [path, digest] of of.wanted) {
		const known = old[path];
		if (kept && known?.[2] === digest) {
			table[path] = known;
			continue;
		}
		const body = (known?.[2] === digest ? of.previous?.slice(path) : null) ?? of.read(digest);
		if (body.length > MAX_MODULE_BYTES)
			throw new PackError(`module ${path} has ${body.length} bytes; the limit is ${MAX_MODULE_BYTES} (10 MiB)`);
		table[path] = [at, body.length, digest];
		bodies.push(body);
		at += body.length;
	}
	if (at > MAX_PACK_BYTES) throw new PackError(`the modules have ${at} bytes in all; the limit is ${MAX_PACK_BYTES} (1 GiB)`);
	const head = Buffer.from(JSON.stringify(table));
	const prefix = Buffer.alloc(PREFIX_BYTES);
	prefix.writeUInt32LE(MAGIC, 0);
	prefix.writeUInt32LE(head.length, 4);
	prefix.writeUInt32LE(of.indexJson.length, 8);
	return Buffer.concat([prefix, head, of.indexJson, ...bodies]);
}

/** Atomic: a reader sees the old file or the new one. Not synced: after a power loss it is made again. */
export function writeModulePack(file: string, bytes: Buffer): void {
	mkdirSync(dirname(file), { recursive: true });
	const draft = `${file}.${process.pid}`;
	writeFileSync(draft, bytes, { mode: 0o644 });
	renameSync(draft, file);
}

/** @throws PackError when the bytes are not a whole pack. */
export function readModulePack(file: string): ModulePack {
	return openModulePack(readFileSync(file));
}

const tables = new WeakMap<ModulePack, { table: Table; start: number }>();

export function openModulePack(bytes: Buffer): ModulePack {
	if (bytes.length < PREFIX_BYTES || bytes.readUInt32LE(0) !== MAGIC) throw new PackError('this is not a module pack');
	const headEnd = PREFIX_BYTES + bytes.readUInt32LE(4);
	const start = headEnd + bytes.readUInt32LE(8);
	if (start > bytes.length) throw new PackError('the module pack is cut short within its index');
	const table = parse(bytes.subarray(PREFIX_BYTES, headEnd)) as Table;
	const index = parse(bytes.subarray(headEnd, start)) as AppIndex;
	if (typeof index.modules !== 'object' || index.modules === null) throw new PackError('the index of the module pack lists no modules');
	const find = (path: string) => (Object.hasOwn(table, path) ? table[path] : undefined);
	const pack: ModulePack = {
		index,
		bytes,
		has: (path) => find(path) !== undefined,
		digest: (path) => find(path)?.[2] ?? null,
		paths: () => Object.keys(table),
		slice(path) {
			const place = find(path);
			if (!place) return null;
			const [offset, length] = place;
			// Checked when used, so that opening a pack of 10,000 modules doesn't touch them all.
			const inside = Number.isSafeInteger(offset) && offset >= 0 && length >= 0 && length <= MAX_MODULE_BYTES;
			if (!inside || start + offset + length > bytes.length) throw new PackError(`the module pack is cut short: ${path} is not in it`);
			return bytes.subarray(start + offset, start + offset + length);
		},
	};
	tables.set(pack, { table, start });
	return pack;
}

function parse(json: Buffer): object {
	try {
		const value: unknown = JSON.parse(json.toString());
		if (typeof value === 'object' && value !== null) return value;
	} catch (cause) {
		throw new PackError('the index of the module pack is not JSON', { cause });
	}
	throw new PackError('the index of the module pack is not an object');
}

function tableOf(pack: ModulePack): Table {
	return tables.get(pack)?.table ?? {};
}

function bodiesOf(pack: ModulePack): Buffer {
	return pack.bytes.subarray(tables.get(pack)?.start ?? pack.bytes.length);
}

function bodyBytes(pack: ModulePack): number {
	return bodiesOf(pack).length;
}

function usedBytes(pack: ModulePack, wanted: ReadonlyMap<string, Digest>): number {
	let used = 0;
	for (const [path, [, length, digest]] of Object.entries(tableOf(pack))) if (wanted.get(path) === digest) used += length;
	return used;
}

import { canonicalJson, compareUtf8, isDigest, sha256, type Digest } from '#digest/digest.ts';

/**
 * Trees of blobs. A manifest lists every file of a tree; its Merkle form has one node a directory, canonical JSON
 * `{"d":{name:digest},"f":{name:[digest,size,executable]},"l":{name:target}}`, and the root node's digest names it all.
 */

/** A file's digest, size in bytes and whether it is executable; or the target of a symbolic link. */
export type Entry = readonly [digest: Digest, size: number, executable: boolean] | { readonly link: string };

/** Path → entry, in the order of the paths' UTF-8 bytes. Empty directories are not kept. */
export type Manifest = ReadonlyMap<string, Entry>;

export interface ManifestDelta {
	set: Readonly<Record<string, Entry>>;
	delete: readonly string[];
}

export interface Tree {
	root: Digest;
	/** Every directory node, the root included. */
	nodes: Map<Digest, Buffer>;
}

export const MAX_TREE_FILES = 200_000;
export const MAX_TREE_BYTES = 2 * 1024 * 1024 * 1024;
export const MAX_TREE_DEPTH = 64;
const MAX_DIRECTORIES = 200_000;
const MAX_NODE_BYTES = 32 * 1024 * 1024;
const MAX_NODES_TOTAL_BYTES = 128 * 1024 * 1024;
const MAX_PATH_BYTES = 4096;
const MAX_NAME_BYTES = 255;
/** Directory nodes that `readTree` asks for at a time. */
const READ_AHEAD_NODES = 64;

export class TreeError extends Error {
	readonly code: 'bad_path' | 'bad_tree' | 'tree_too_large' | 'delta_mismatch';
	constructor(code: TreeError['code'], message: string, options?: ErrorOptions) {
		super(message, options);
		this.code = code;
	}
}

/** @throws TreeError when `path` could be anything but a file below the root of the tree, the same on every system. */
export function checkPath(path: string): void {
	const bad = badPath(path);
	if (bad) throw new TreeError('bad_path', `${JSON.stringify(path.slice(0, 200))} can't be a path in an artifact: ${bad}`);
}

function badPath(path: string): string | null {
	if (path === '') return 'it is empty';
	if (path.includes('\0')) return 'it holds a NUL character';
	if (path.startsWith('/')) return 'it is absolute';
	if (path.includes('\\')) return 'it holds a backslash';
	if (!isAscii(path)) {
		if (!path.isWellFormed()) return 'it is not well-formed Unicode';
		if (path !== path.normalize('NFC')) return 'it is not in Unicode normal form C; rename the file';
	}
	if (Buffer.byteLength(path) > MAX_PATH_BYTES) return `it is longer than ${MAX_PATH_BYTES} bytes`;
	const names = path.split('/');
	if (names.length > MAX_TREE_DEPTH) return `it is nested deeper than ${MAX_TREE_DEPTH} directories`;
	for (const name of names) {
		if (name === '') return 'it has an empty name';
		if (name === '.' || name === '..') return `it has "${name}" in it`;
		if (name === '__proto__') return 'it has "__proto__" in it';
		if (Buffer.byteLength(name) > MAX_NAME_BYTES) return `a name in it is longer than ${MAX_NAME_BYTES} bytes`;
	}
	return null;
}

function isAscii(text: string): boolean {
	for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 127) return false;
	return true;
}

/** A link may only point to something inside the tree. */
function checkLink(path: string, target: string): void {
	const depth = path.split('/').length - 1;
	let level = depth;
	const refuse = (why: string) => {
		throw new TreeError('bad_path', `the link ${path} → ${JSON.stringify(target.slice(0, 200))} can't be in an artifact: ${why}`);
	};
	if (target === '' || target.includes('\0') || target.startsWith('/') || target.includes('\\'))
		refuse('its target is not a relative path');
	if (!target.isWellFormed() || Buffer.byteLength(target) > MAX_PATH_BYTES) refuse('its target is not a usable path');
	for (const name of target.split('/')) {
		if (name === '..') level--;
		else if (name !== '.' && name !== '') level++;
		if (level < 0) refuse('it leads out of the tree');
	}
}

/** Sorts, checks paths, links and limits. @throws TreeError */
export function manifestOf(entries: Iterable<readonly [string, Entry]>): Manifest {
	const sorted = [...entries].sort(([a], [b]) => compareUtf8(a, b));
	if (sorted.length > MAX_TREE_FILES)
		throw new TreeError('tree_too_large', `an artifact may hold ${MAX_TREE_FILES} files, this has ${sorted.length}`);
	let bytes = 0;
	for (const [path, entry] of sorted) {
		checkPath(path);
		checkEntry(path, entry);
		if (!('link' in entry)) bytes += entry[1];
	}
	if (bytes > MAX_TREE_BYTES) throw new TreeError('tree_too_large', `an artifact may hold 2 GiB, this has ${bytes} bytes`);
	const manifest = new Map(sorted);
	if (manifest.size !== sorted.length) throw new TreeError('bad_tree', 'a path is listed twice');
	return manifest;
}

function checkEntry(path: string, entry: Entry): void {
	if ('link' in entry) {
		if (typeof entry.link !== 'string') throw new TreeError('bad_tree', `the link ${path} has no target`);
		checkLink(path, entry.link);
		return;
	}
	const [digest, size, executable] = entry;
	if (typeof digest !== 'string' || !isDigest(digest) || !Number.isSafeInteger(size) || size < 0 || typeof executable !== 'boolean') {
		throw new TreeError('bad_tree', `the entry of ${path} is not [digest, size, executable]`);
	}
}

/** @throws TreeError when a deleted path is not in `base`, or the result breaks a rule. */
export function applyDelta(base: Manifest, delta: ManifestDelta): Manifest {
	const next = new Map<string, Entry>(base);
	for (const path of delta.delete) {
		if (!next.delete(path)) throw new TreeError('delta_mismatch', `the delta deletes ${path.slice(0, 200)}, which its base does not have`);
	}
	for (const [path, entry] of Object.entries(delta.set)) {
		next.set(path, 'link' in entry ? { link: entry.link } : [entry[0], entry[1], entry[2]]);
	}
	return manifestOf(next);
}

/** What turns `base` into `next`. */
export function diffManifests(base: Manifest, next: Manifest): { set: Record<string, Entry>; delete: string[] } {
	const set: Record<string, Entry> = {};
	for (const [path, entry] of next) {
		const old = base.get(path);
		if (!old || !sameEntry(old, entry)) set[path] = entry;
	}
	return { set, delete: [...base.keys()].filter((path) => !next.has(path)) };
}

export function sameEntry(a: Entry, b: Entry): boolean {
	if ('link' in a) return 'link' in b && a.link === b.link;
	return !('link' in b) && a[0] === b[0] && a[1] === b[1] && a[2] === b[2];
}

/** Every distinct blob that the manifest's files name. */
export function blobsOf(manifest: Manifest): Set<Digest> {
	const digests = new Set<Digest>();
	for (const entry of manifest.values()) if (!('link' in entry)) digests.add(entry[0]);
	return digests;
}

interface Directory {
	directories: Map<string, Directory>;
	entries: Map<string, Entry>;
}

/** The Merkle form. @throws TreeError when a path is both a file and a directory. */
export function treeOf(manifest: Manifest): Tree {
	const top: Directory = { directories: new Map(), entries: new Map() };
	let lastPrefix = '';
	let last = top;
	for (const [path, entry] of manifest) {
		const slash = path.lastIndexOf('/');
		const prefix = path.slice(0, slash + 1);
		if (prefix !== lastPrefix) {
			last = directoryAt(top, prefix);
			lastPrefix = prefix;
		}
		last.entries.set(path.slice(slash + 1), entry);
	}
	const nodes = new Map<Digest, Buffer>();
	const root = writeDirectory(top, nodes);
	return { root, nodes };
}

function directoryAt(top: Directory, prefix: string): Directory {
	let at = top;
	for (const name of prefix.split('/').slice(0, -1)) {
		let child = at.directories.get(name);
		if (!child) {
			child = { directories: new Map(), entries: new Map() };
			at.directories.set(name, child);
		}
		at = child;
	}
	return at;
}

function writeDirectory(directory: Directory, nodes: Map<Digest, Buffer>): Digest {
	const children = new Map<string, Digest>();
	for (const [name, child] of directory.directories) {
		if (directory.entries.has(name)) throw new TreeError('bad_tree', `${name} is both a file and a directory`);
		children.set(name, writeDirectory(child, nodes));
	}
	const node = Buffer.from(nodeJson(children, directory.entries));
	const digest = sha256(node);
	nodes.set(digest, node);
	return digest;
}

/** The one way to write a directory node; equal to `canonicalJson`, several times quicker. */
export function nodeJson(directories: ReadonlyMap<string, Digest>, entries: ReadonlyMap<string, Entry>): string {
	const files: string[] = [];
	const links: string[] = [];
	for (const name of sortedNames(entries)) {
		const entry = entries.get(name)!;
		if ('link' in entry) links.push(`${JSON.stringify(name)}:${JSON.stringify(entry.link)}`);
		else files.push(`${JSON.stringify(name)}:["${entry[0]}",${entry[1]},${entry[2]}]`);
	}
	const below = sortedNames(directories).map((name) => `${JSON.stringify(name)}:"${directories.get(name)!}"`);
	return `{"d":{${below.join(',')}},"f":{${files.join(',')}},"l":{${links.join(',')}}}`;
}

function sortedNames(map: ReadonlyMap<string, unknown>): string[] {
	return [...map.keys()].sort(compareUtf8);
}

/** A directory node's content. @throws TreeError unless `bytes` are exactly what `treeOf` would have written. */
export function parseNode(bytes: Uint8Array): { directories: Map<string, Digest>; entries: Map<string, Entry> } {
	if (bytes.length > MAX_NODE_BYTES) throw new TreeError('tree_too_large', `a directory node is ${bytes.length} bytes long`);
	const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString();
	const node = parseObject(text);
	const directories = new Map<string, Digest>();
	const entries = new Map<string, Entry>();
	for (const [name, digest] of members(node['d'])) {
		if (typeof digest !== 'string' || !isDigest(digest)) throw new TreeError('bad_tree', `the directory ${name} in a node has no digest`);
		directories.set(name, digest);
	}
	for (const [name, file] of members(node['f'])) {
		checkEntry(name, file as Entry);
		entries.set(name, file as Entry);
	}
	for (const [name, link] of members(node['l'])) {
		if (typeof link !== 'string') throw new TreeError('bad_tree', `the link ${name} in a node has no target`);
		if (entries.has(name)) throw new TreeError('bad_tree', `${name} is both a file and a link`);
		entries.set(name, { link });
	}
	for (const name of directories.keys()) if (entries.has(name)) throw new TreeError('bad_tree', `${name} is both a file and a directory`);
	if (nodeJson(directories, entries) !== text) throw new TreeError('bad_tree', 'a directory node is not in canonical form');
	return { directories, entries };
}

function parseObject(text: string): Record<string, unknown> {
	try {
		const value: unknown = JSON.parse(text);
		if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
	} catch (cause) {
		throw new TreeError('bad_tree', 'a directory node is not JSON', { cause });
	}
	throw new TreeError('bad_tree', 'a directory node is not an object');
}

function members(value: unknown): [string, unknown][] {
	if (typeof value !== 'object' || value === null) throw new TreeError('bad_tree', 'a directory node lacks one of its three parts');
	return Object.entries(value).map(([name, member]) => {
		if (name === '' || name.includes('/')) throw new TreeError('bad_tree', `${JSON.stringify(name)} can't be a name in a directory node`);
		if (Array.isArray(member) && member.length !== 3) throw new TreeError('bad_tree', `the entry of ${name} has ${member.length} fields`);
		return [name, member];
	});
}

/** The manifest of a stored tree, read level by level. @throws TreeError when it is malformed or beyond a limit. */
export async function readTree(root: Digest, read: (digest: Digest) => Promise<Uint8Array>): Promise<Manifest> {
	const found: [string, Entry][] = [];
	const cost = { directories: 0, bytes: 0 };
	let level: { prefix: string; digest: Digest }[] = [{ prefix: '', digest: root }];
	for (let depth = 0; level.length > 0; depth++) {
		if (depth > MAX_TREE_DEPTH) throw new TreeError('tree_too_large', `the tree ${root} is deeper than ${MAX_TREE_DEPTH} directories`);
		cost.directories += level.length;
		if (cost.directories > MAX_DIRECTORIES)
			throw new TreeError('tree_too_large', `the tree ${root} has more than ${MAX_DIRECTORIES} directories`);
		const next: typeof level = [];
		for (let i = 0; i < level.length; i += READ_AHEAD_NODES) {
			const batch = level.slice(i, i + READ_AHEAD_NODES);
			const nodes = await Promise.all(batch.map(({ digest }) => read(digest)));
			for (const [j, { prefix }] of batch.entries()) {
				const bytes = nodes[j]!;
				cost.bytes += bytes.length;
				if (cost.bytes > MAX_NODES_TOTAL_BYTES) throw new TreeError('tree_too_large', `the directory nodes of ${root} are too large`);
				const { directories, entries } = parseNode(bytes);
				if (prefix !== '' && directories.size + entries.size === 0) throw new TreeError('bad_tree', `${prefix} is an empty directory`);
				for (const [name, entry] of entries) found.push([prefix + name, entry]);
				for (const [name, digest] of directories) next.push({ prefix: `${prefix}${name}/`, digest });
				if (found.length > MAX_TREE_FILES) throw new TreeError('tree_too_large', `the tree ${root} has more than ${MAX_TREE_FILES} files`);
			}
		}
		level = next;
	}
	return manifestOf(found);
}

/** The manifest as the wire's `set` against nothing. */
export function wholeDelta(manifest: Manifest): { set: Record<string, Entry>; delete: string[] } {
	return { set: Object.fromEntries(manifest), delete: [] };
}

/** A manifest as bytes, for a cache on disk. */
export function encodeManifest(manifest: Manifest): Buffer {
	return Buffer.from(canonicalJson([...manifest]));
}

/** @throws TreeError */
export function decodeManifest(bytes: Uint8Array): Manifest {
	const value: unknown = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString());
	if (!Array.isArray(value)) throw new TreeError('bad_tree', 'a manifest is not a list');
	return manifestOf(value as [string, Entry][]);
}

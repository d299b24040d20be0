import { sha256, type Digest } from '#digest/digest.ts';
import { nodeJson, parseNode, sameEntry, TreeError, type Entry } from './manifest.ts';

/** A tree held as its directory nodes, so that changing few of many files costs only the folders above them. */

/** Directory nodes by digest; one map may hold several trees. */
export type Nodes = Map<Digest, string>;

interface Folder {
	directories: Map<string, Digest>;
	entries: Map<string, Entry>;
}

function folderOf(nodes: Nodes, digest: Digest): Folder {
	const json = nodes.get(digest);
	if (json === undefined) throw new TreeError('bad_tree', `the directory node ${digest} is not among those given`);
	return parseNode(Buffer.from(json));
}

interface Changes {
	here: Map<string, Entry | null>;
	below: Map<string, Changes>;
}

/** Sets and deletes (null) files of the tree `root`; adds the new nodes to `nodes` and returns the new root. */
export function updateTree(root: Digest, nodes: Nodes, changes: ReadonlyMap<string, Entry | null>): Digest {
	const top: Changes = { here: new Map(), below: new Map() };
	for (const [path, entry] of changes) {
		const names = path.split('/');
		let at = top;
		for (const name of names.slice(0, -1)) {
			let next = at.below.get(name);
			if (!next) at.below.set(name, (next = { here: new Map(), below: new Map() }));
			at = next;
		}
		at.here.set(names.at(-1)!, entry);
	}
	return update(root, nodes, top) ?? store(nodes, { directories: new Map(), entries: new Map() });
}

/** null: the folder is empty now. */
function update(digest: Digest | undefined, nodes: Nodes, changes: Changes): Digest | null {
	const folder: Folder = digest === undefined ? { directories: new Map(), entries: new Map() } : folderOf(nodes, digest);
	for (const [name, entry] of changes.here) {
		if (entry === null) folder.entries.delete(name);
		else folder.entries.set(name, entry);
	}
	for (const [name, below] of changes.below) {
		const next = update(folder.directories.get(name), nodes, below);
		if (next === null) folder.directories.delete(name);
		else folder.directories.set(name, next);
	}
	for (const name of folder.directories.keys()) {
		if (folder.entries.has(name)) throw new TreeError('bad_tree', `${name} is both a file and a directory`);
	}
	return folder.directories.size + folder.entries.size === 0 ? null : store(nodes, folder);
}

function store(nodes: Nodes, folder: Folder): Digest {
	const json = nodeJson(folder.directories, folder.entries);
	const digest = sha256(json);
	nodes.set(digest, json);
	return digest;
}

/** What turns the one tree into the other; folders of equal digest are not looked into. */
export function diffTrees(
	from: { root: Digest; nodes: Nodes },
	to: { root: Digest; nodes: Nodes },
): { set: Record<string, Entry>; delete: string[] } {
	const delta = { set: {} as Record<string, Entry>, delete: [] as string[] };
	diff('', from, from.root, to, to.root, delta);
	return delta;
}

function diff(
	prefix: string,
	from: { nodes: Nodes },
	old: Digest | undefined,
	to: { nodes: Nodes },
	next: Digest | undefined,
	delta: { set: Record<string, Entry>; delete: string[] },
): void {
	if (old === next) return;
	const empty: Folder = { directories: new Map(), entries: new Map() };
	const before = old === undefined ? empty : folderOf(from.nodes, old);
	const after = next === undefined ? empty : folderOf(to.nodes, next);
	for (const [name, entry] of after.entries) {
		const known = before.entries.get(name);
		if (!known || !sameEntry(known, entry)) delta.set[prefix + name] = entry;
	}
	for (const name of before.entries.keys()) if (!after.entries.has(name)) delta.delete.push(prefix + name);
	for (const name of new Set([...before.directories.keys(), ...after.directories.keys()])) {
		diff(`${prefix}${name}/`, from, before.directories.get(name), to, after.directories.get(name), delta);
	}
}

/** Every file of the tree, in no order. */
export function* entriesOf(root: Digest, nodes: Nodes, prefix = ''): Generator<[string, Entry]> {
	const folder = folderOf(nodes, root);
	for (const [name, entry] of folder.entries) yield [prefix + name, entry];
	for (const [name, digest] of folder.directories) yield* entriesOf(digest, nodes, `${prefix}${name}/`);
}

/** Only the nodes that the tree consists of. */
export function reachable(root: Digest, nodes: Nodes, kept: Nodes = new Map()): Nodes {
	if (kept.has(root)) return kept;
	const json = nodes.get(root);
	if (json === undefined) throw new TreeError('bad_tree', `the directory node ${root} is not among those given`);
	kept.set(root, json);
	for (const digest of foldersIn(json)) reachable(digest, nodes, kept);
	return kept;
}

/** The digests in the first part of a node. Within a name the quotes would be escaped, so its end can't be mistaken. */
function foldersIn(json: string): Digest[] {
	const below = json.slice('{"d":'.length, json.indexOf('},"f":{') + 1);
	return below === '{}' ? [] : Object.values(JSON.parse(below) as Record<string, Digest>);
}

export function nodesOf(tree: { nodes: ReadonlyMap<Digest, Buffer> }): Nodes {
	return new Map([...tree.nodes].map(([digest, bytes]) => [digest, bytes.toString()]));
}

/** One line a node. */
export function encodeNodes(nodes: Nodes): string {
	return [...nodes].map(([digest, json]) => `${digest} ${json}\n`).join('');
}

export function decodeNodes(text: string): Nodes {
	const nodes: Nodes = new Map();
	for (let at = 0; at < text.length;) {
		const end = text.indexOf('\n', at);
		const space = text.indexOf(' ', at);
		if (end < 0 || space < 0) throw new TreeError('bad_tree', 'a list of directory nodes is cut short');
		nodes.set(text.slice(at, space) as Digest, text.slice(space + 1, end));
		at = end + 1;
	}
	return nodes;
}

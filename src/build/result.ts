import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { sha256, type Digest } from '#digest/digest.ts';
import { manifestOf, type Entry, type Manifest } from '#store/manifest.ts';
import { STATE_FILE } from './state.ts';
import { decodeNodes, diffTrees, encodeNodes, entriesOf, reachable, type Nodes } from '#store/tree.ts';
import { readIfThere, writeWhole, type ActionCache } from './action-cache.ts';
import { actionKey, compileModule, type CompileOptions } from './compile.ts';
import { BuildError } from './build-error.ts';
import { loaderOf } from './link.ts';
import { findLockfile } from './lockfile.ts';
import { vendorMap, vendorTree, type VendorTree } from './vendor.ts';

/** What a build gives. Whatever takes time (the manifest, blobs, the vendor tree) is made when it is asked for. */
export interface BuildResult {
	/** Root digest of the artifact's tree. */
	artifact: Digest;
	entry: string;
	manifest: Manifest;
	/** Against the last artifact that `target` accepted; base null: `set` is all of it. */
	delta: { base: Digest | null; set: Record<string, Entry>; delete: string[] };
	/** The whole artifact, for a target that does not know the base after all. */
	whole: { base: null; set: Record<string, Entry>; delete: string[] };
	/** Bytes of what the delta sets and its base did not have. */
	newBlobs: Map<Digest, Buffer>;
	/** Bytes of anything in the artifact. @throws BuildError when a file changed since the scan, or the cache lost what only a whole build makes; the next build is one */
	blob(digest: Digest): Buffer;
	/** null: the app has no packages. `known`: the target accepted this very tree with the last artifact. */
	vendor: (VendorTree & { known: boolean }) | null;
	/** `compiled`: transformed in this run. `cached`: the rest of the app's own modules. */
	modules: { compiled: number; cached: number };
	timings: { scanMs: number; compileMs: number };
	warnings: string[];
	/** Every file on this machine that is read for the artifact or for its packages: whoever builds what others wrote looks where they lie. */
	readFrom(): string[];
	/** Remember that the target has this artifact (and its vendor tree) now. */
	markAccepted(): void;
}

export interface Outcome {
	root: Digest;
	entry: string;
	nodes: () => Nodes;
	options: CompileOptions;
	modules: BuildResult['modules'];
	timings: BuildResult['timings'];
	warnings: string[];
	vendorKey: string | null;
	vendorRoot: Digest | null;
	/** Where a path of the app lies on disk. */
	disk: (path: string) => string;
}

export interface ResultPlaces {
	/** The app's folder. */
	dir: string;
	stateDir: string;
	cacheDir: string;
	/** Which installation and app the artifact goes to: each has its own "last accepted". */
	target: string;
	actions: ActionCache;
}

interface Accepted {
	root: Digest;
	vendor: Digest | null;
	text: string;
	nodes: () => Nodes;
}

export function resultOf(outcome: Outcome, places: ResultPlaces): BuildResult {
	const accepted = readAccepted(places);
	const memo = new Memo();
	const tree = () => memo.of('nodes', outcome.nodes);
	const manifest = () => memo.of('manifest', () => manifestOf(entriesOf(outcome.root, tree())));
	const blob = (digest: Digest) => findBlob(digest, manifest, outcome, places.actions) ?? lost(digest, manifest(), places);
	const delta = () => memo.of('delta', () => deltaOf(accepted, outcome.root, tree, manifest));
	return {
		artifact: outcome.root,
		entry: outcome.entry,
		modules: outcome.modules,
		timings: outcome.timings,
		warnings: outcome.warnings,
		blob,
		get manifest() {
			return manifest();
		},
		get delta() {
			return delta();
		},
		get whole() {
			return { base: null, set: Object.fromEntries(manifest()), delete: [] };
		},
		get newBlobs() {
			return memo.of('newBlobs', () => newBlobs(delta(), accepted, blob));
		},
		get vendor() {
			return memo.of('vendor', () => vendorOf(outcome, places, accepted));
		},
		readFrom() {
			const own = [...manifest().keys()].flatMap((path) => {
				const [, area, file = ''] = /^(modules|files)\/(.*)$/.exec(path) ?? [];
				return area === undefined ? [] : [outcome.disk(file)];
			});
			const vendor = outcome.vendorKey === null ? null : vendorTree(places.cacheDir, outcome.vendorKey);
			return [...own, ...(vendor?.readFrom() ?? [])];
		},
		markAccepted() {
			mkdirSync(places.stateDir, { recursive: true });
			const head = `${outcome.root} ${outcome.vendorRoot ?? '-'}\n`;
			if (accepted?.root === outcome.root && accepted.vendor === outcome.vendorRoot) return;
			writeWhole(acceptedPath(places), head + encodeNodes(reachable(outcome.root, tree())));
		},
	};
}

class Memo {
	readonly #values = new Map<string, unknown>();
	of<T>(name: string, make: () => T): T {
		if (!this.#values.has(name)) this.#values.set(name, make());
		return this.#values.get(name) as T;
	}
}

function acceptedPath(places: ResultPlaces): string {
	return join(places.stateDir, `accepted-${sha256(places.target).slice(7, 23)}`);
}

function readAccepted(places: ResultPlaces): Accepted | null {
	const text = readIfThere(acceptedPath(places))?.toString();
	if (text === undefined) return null;
	const end = text.indexOf('\n');
	const match = /^(sha256:[0-9a-f]{64}) (sha256:[0-9a-f]{64}|-)$/.exec(text.slice(0, end));
	if (!match) return null;
	const vendor = match[2] === '-' ? null : (match[2] as Digest);
	return { root: match[1] as Digest, vendor, text, nodes: () => decodeNodes(text.slice(end + 1)) };
}

function deltaOf(accepted: Accepted | null, root: Digest, tree: () => Nodes, manifest: () => Manifest): BuildResult['delta'] {
	if (accepted?.root === root) return { base: root, set: {}, delete: [] };
	if (accepted) {
		try {
			const nodes = accepted.nodes();
			return { base: accepted.root, ...diffTrees({ root: accepted.root, nodes }, { root, nodes: tree() }) };
		} catch {
			// A damaged file says nothing: the whole is always right.
		}
	}
	return { base: null, set: Object.fromEntries(manifest()), delete: [] };
}

function newBlobs(delta: BuildResult['delta'], accepted: Accepted | null, blob: (digest: Digest) => Buffer): Map<Digest, Buffer> {
	const base = delta.base === null ? '' : (accepted?.text ?? '');
	const found = new Map<Digest, Buffer>();
	for (const entry of Object.values(delta.set)) {
		if ('link' in entry || found.has(entry[0])) continue;
		// A moved file is there already. Nodes name their files' digests, so looking through their text is enough.
		if (!base.includes(`["${entry[0]}"`)) found.set(entry[0], blob(entry[0]));
	}
	return found;
}

function findBlob(digest: Digest, manifest: () => Manifest, outcome: Outcome, actions: ActionCache): Buffer | null {
	const cached = actions.blob(digest);
	if (cached) return cached;
	const paths = [...manifest()].filter(([, entry]) => !('link' in entry) && entry[0] === digest).map(([path]) => path);
	for (const path of paths) {
		const [, area, own] = /^(\w+)\/(.*)$/.exec(path) ?? [];
		if (own === undefined) continue;
		const file = area === 'maps' ? own.replace(/\.map$/, '') : own;
		const bytes = area === 'files' ? readIfThere(outcome.disk(file)) : recompiled(file, area === 'maps', outcome);
		if (bytes && sha256(bytes) === digest) return bytes;
	}
	return null;
}

/** What the last build saw is not to be relied on any more. @throws BuildError */
function lost(digest: Digest, manifest: Manifest, places: ResultPlaces): never {
	rmSync(join(places.stateDir, STATE_FILE), { force: true });
	const [where] = [...manifest].find(([, entry]) => !('link' in entry) && entry[0] === digest) ?? [digest];
	throw new BuildError('changed_meanwhile', `${where} changed while it was being deployed`, { hint: 'Deploy again.' });
}

/** The cache lost it, but the source still makes it. */
function recompiled(path: string, map: boolean, outcome: Outcome): Buffer | null {
	const source = readIfThere(outcome.disk(path));
	if (!source || !/\.[cm]?[jt]sx?$/.test(path)) return source;
	const made = compileModule(path, source.toString(), loaderOf(path), outcome.options);
	return map ? made.map : made.code;
}

function vendorOf(outcome: Outcome, places: ResultPlaces, accepted: Accepted | null): BuildResult['vendor'] {
	if (outcome.vendorKey === null || outcome.vendorRoot === null) return null;
	const root = outcome.vendorRoot;
	let tree: VendorTree | null = null;
	const whole = () => (tree ??= vendorTree(places.cacheDir, outcome.vendorKey!) ?? remakeVendor(places, outcome.vendorKey!, root));
	return {
		root,
		known: accepted?.vendor === root,
		get manifest() {
			return whole().manifest;
		},
		blob: (digest) => whole().blob(digest),
		readFrom: () => whole().readFrom(),
	};
}

/** The cache lost it, but the packages are still installed. */
function remakeVendor(places: ResultPlaces, key: string, root: Digest): VendorTree {
	const lock = findLockfile(places.dir);
	const made = lock && vendorMap(places.dir, places.cacheDir, lock, key);
	const tree = made?.root === root ? vendorTree(places.cacheDir, key) : null;
	if (tree) return tree;
	throw new BuildError('changed_meanwhile', 'what is installed changed while it was being deployed', { hint: 'Deploy again.' });
}

export function sourceKey(source: Digest, path: string, options: CompileOptions): Digest {
	return actionKey(source, loaderOf(path), options);
}

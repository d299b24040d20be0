import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { canonicalJson, sha256, type Digest } from '#digest/digest.ts';
import { manifestOf, treeOf, type Entry, type Manifest } from '#store/manifest.ts';
import { readIfThere, writeWhole } from './action-cache.ts';
import { BuildError } from './build-error.ts';
import { readPackageJson, type Closure, type LockedPackage, type Lockfile } from './closure.ts';
import { closureOf } from './lockfile.ts';
import { patchedFiles } from './patches.ts';

/**
 * The vendor tree: the production closure of a lockfile as plain files in `node_modules/…`, the same bytes whatever
 * the layout on this disk is. Files that production can't read (type declarations, TypeScript, source maps) are left out.
 */

export interface VendorTree {
	root: Digest;
	manifest: Manifest;
	/** A file's bytes, read from where it is installed. @throws BuildError when it changed since. */
	blob(digest: Digest): Buffer;
	/** Where its files lie on this machine. */
	readFrom(): string[];
}

/** What resolving needs: which folder on disk is which in the tree. */
export interface VendorMap {
	key: string;
	root: Digest;
	/** Real folder → place in the tree (`node_modules/hono`). */
	folders: [dir: string, at: string][];
	workspaces: { name: string; dir: string }[];
	install: string;
	/** What changes and leaves no other trace: addons and where `npm rebuild` puts them, files that patches are applied to. */
	watched: [path: string, stamp: string | null][];
}

interface Cached extends VendorMap {
	format: number;
	/** Path, digest, size, executable, path on disk. */
	files: [string, Digest, number, boolean, string][];
	links: [string, string][];
	/** vendor.json */
	about: string;
}

const FORMAT = 4;
/** Of vendor.json. */
const ABOUT_FORMAT = 1;
const MAX_STORE_NAME = 100;

/** Everything that decides the tree, where it is installed, and everything that tells whether something was installed since. */
export function vendorKey(lock: Lockfile, installedStat: string, patches: string): string {
	const content = sha256(readFileSync(lock.path));
	const { path, importer } = lock;
	return sha256(canonicalJson({ format: FORMAT, path, content, importer, installedStat, patches, platform: platform() })).slice(7, 39);
}

function platform(): { os: string; cpu: string; libc: string; abi: string } {
	const report = process.platform === 'linux' ? glibc() : '';
	return { os: process.platform, cpu: process.arch, libc: report, abi: process.versions.modules };
}

function glibc(): string {
	// process.report costs 30 ms; the loader's name tells the same.
	try {
		return readFileSync('/usr/bin/ldd', 'latin1').includes('musl') ? 'musl' : 'glibc';
	} catch {
		return 'unknown';
	}
}

export function vendorMap(dir: string, cacheDir: string, lock: Lockfile, key: string): VendorMap {
	const known = readCached(cacheDir, key);
	if (known && known.watched.every(([path, stamp]) => stampOf(path) === stamp)) return known;
	const manifest = readPackageJson(dir) ?? {};
	const made = makeVendor(key, closureOf(lock, manifest), patchedFiles(lock));
	try {
		mkdirSync(join(cacheDir, 'vendor'), { recursive: true });
		writeWhole(cachePath(cacheDir, key), JSON.stringify(made));
	} catch {
		// The state of the build, written to the same place later, says so.
		remembered.set(cachePath(cacheDir, key), made);
	}
	return made;
}

function stampOf(path: string): string | null {
	const stat = statSync(path, { throwIfNoEntry: false });
	return stat ? `${stat.size} ${stat.mtimeMs} ${stat.ctimeMs} ${stat.ino}` : null;
}

/** What this process made but could not write. */
const remembered = new Map<string, Cached>();

/** The tree that `vendorMap` made under this key; null when the cache lost it. */
export function vendorTree(cacheDir: string, key: string): VendorTree | null {
	const cached = readCached(cacheDir, key);
	return cached && treeFrom(cached);
}

function cachePath(cacheDir: string, key: string): string {
	return join(cacheDir, 'vendor', `${key}.json`);
}

function readCached(cacheDir: string, key: string): Cached | null {
	const bytes = readIfThere(cachePath(cacheDir, key));
	if (!bytes) return remembered.get(cachePath(cacheDir, key)) ?? null;
	try {
		const cached = JSON.parse(bytes.toString()) as Cached;
		return cached.format === FORMAT && cached.key === key ? cached : null;
	} catch {
		return null; // Damaged: made anew.
	}
}

function treeFrom(cached: Cached): VendorTree {
	const about = Buffer.from(cached.about);
	const entries: [string, Entry][] = [
		['vendor.json', [sha256(about), about.length, false]],
		...cached.files.map(([path, digest, size, executable]): [string, Entry] => [path, [digest, size, executable]]),
		...cached.links.map(([path, link]): [string, Entry] => [path, { link }]),
	];
	const places = new Map(cached.files.map(([, digest, , , disk]) => [digest, disk]));
	return {
		root: cached.root,
		manifest: manifestOf(entries),
		readFrom: () => cached.files.map(([, , , , disk]) => disk),
		blob(digest) {
			if (digest === sha256(about)) return about;
			const disk = places.get(digest);
			const bytes = disk === undefined ? null : readIfThere(disk);
			if (bytes && sha256(bytes) === digest) return bytes;
			throw new BuildError('changed_meanwhile', `${disk ?? digest} changed while it was being deployed`, {
				hint: `Run \`${cached.install}\`, then deploy again.`,
			});
		},
	};
}

function makeVendor(key: string, closure: Closure, patched: readonly string[]): Cached {
	const cached: Cached = {
		format: FORMAT,
		key,
		root: 'sha256:',
		folders: [],
		workspaces: closure.workspaces.map(({ name, dir }) => ({ name, dir: realpathSync(dir) })),
		install: closure.install,
		watched: [],
		files: [],
		links: [],
		about: '',
	};
	const packages = [...closure.packages].sort((a, b) => (a.id < b.id ? -1 : 1));
	const keepAll = packages.some(({ name }) => name === COMPILER);
	let native = false;
	const watched = new Set(patched);
	const about: Record<string, string> = {};
	for (const locked of packages) {
		const at = closure.hoisted ? locked.at : storePlace(locked);
		// Where it really is: what led there may be gone by the time its bytes are read.
		const dir = realpathSync(locked.dir);
		const files = packageFiles(dir, at, keepAll);
		native ||= files.native;
		for (const path of whereBuilt(dir)) watched.add(path);
		cached.files.push(...files.files);
		cached.links.push(...files.links);
		cached.folders.push([dir, at]);
		about[at] = `${locked.name}@${locked.version}`;
	}
	if (!closure.hoisted) cached.links.push(...storeLinks(packages));
	for (const [, , , , disk] of cached.files) if (disk.endsWith('.node')) watched.add(disk);
	cached.watched = [...watched].map((path) => [path, stampOf(path)]);
	cached.about = `${canonicalJson({ format: ABOUT_FORMAT, packages: about, platform: native ? platform() : null })}\n`;
	cached.root = treeOf(treeFrom(cached).manifest).root;
	return cached;
}

/** The folders in which an addon appears that is built or fetched after the package was installed. */
function whereBuilt(dir: string): string[] {
	const { scripts = {} } = (readPackageJson(dir) ?? {}) as { scripts?: Record<string, unknown> };
	const builds = existsSync(join(dir, 'binding.gyp')) || ['preinstall', 'install', 'postinstall'].some((name) => name in scripts);
	return builds ? [dir, join(dir, 'build'), join(dir, 'build/Release')].filter((path) => existsSync(path)) : [];
}

/** Where layouts must be made: one folder a package, with links beside it to what it depends on. */
function storePlace(locked: LockedPackage): string {
	return `node_modules/.store/${storeName(locked.id)}/node_modules/${locked.name}`;
}

function storeName(id: string): string {
	const plain = id.replaceAll('/', '+').replaceAll(/[^\w@+.-]/g, '_');
	return plain.replaceAll('+', '/') === id && plain.length <= MAX_STORE_NAME ? plain : `${plain.slice(0, 80)}-${sha256(id).slice(7, 17)}`;
}

function storeLinks(packages: readonly LockedPackage[]): [string, string][] {
	const places = new Map(packages.map((locked) => [locked.id, locked]));
	const links: [string, string][] = [];
	for (const locked of packages) {
		for (const [name, id] of locked.dependencies) {
			if (name === locked.name) continue;
			const path = `node_modules/.store/${storeName(locked.id)}/node_modules/${name}`;
			links.push([path, linkTo(path, storePlace(places.get(id)!))]);
		}
		if (locked.direct === null) continue;
		const path = `node_modules/${locked.direct}`;
		links.push([path, linkTo(path, storePlace(locked))]);
	}
	return links;
}

function linkTo(path: string, target: string): string {
	const from = path.split('/').slice(0, -1);
	const to = target.split('/');
	let same = 0;
	while (same < from.length && from[same] === to[same]) same++;
	return [...from.slice(same).map(() => '..'), ...to.slice(same)].join('/');
}

interface PackageFiles {
	files: Cached['files'];
	links: [string, string][];
	native: boolean;
}

const DECLARATIONS = /\.d\.[cm]?ts$/;
/** Node runs no TypeScript below node_modules, so only a program that opens files can have a use for it. */
const SOURCES = /\.[cm]?tsx?$/;
const OPENS_FILES = ["'fs'", '"fs"', 'node:fs', 'fs/promises'];
/** Reads declarations and sources of the other packages. */
const COMPILER = 'typescript';
const SOURCE_MAPS = /\.map$/;
const BUILD_LEFTOVERS = /(?:^|\/)(?:obj\.target|\.deps)\/|\.o$|\.o\.d$/;

function packageFiles(dir: string, at: string, keepAll: boolean): PackageFiles {
	const found: PackageFiles = { files: [], links: [], native: false };
	const declarations: string[] = [];
	const sources: string[] = [];
	let namesDeclarations = keepAll;
	let opensFiles = keepAll;
	const read = (relative: string, full: string): Buffer => {
		const bytes = readFileSync(full);
		const executable = !/\.(?:[cm]?js|json|[cm]?ts|md|txt)$/.test(relative) && (statSync(full).mode & 0o111) !== 0;
		found.files.push([`${at}/${relative}`, sha256(bytes), bytes.length, executable, full]);
		return bytes;
	};
	const walk = (relative: string): void => {
		for (const entry of readdirSync(join(dir, relative), { withFileTypes: true })) {
			const path = relative === '' ? entry.name : `${relative}/${entry.name}`;
			const full = `${dir}/${path}`;
			if (entry.name === 'node_modules' || entry.name === '.git') continue;
			if (entry.isDirectory()) walk(path);
			else if (entry.isSymbolicLink()) link(path, full);
			else if (!entry.isFile() || SOURCE_MAPS.test(path) || BUILD_LEFTOVERS.test(path)) continue;
			else if (DECLARATIONS.test(path)) declarations.push(path);
			else if (SOURCES.test(path)) sources.push(path);
			else {
				const bytes = read(path, full);
				if (path.endsWith('.node') || entry.name === 'binding.gyp') found.native = true;
				if (!path.endsWith('js')) continue;
				namesDeclarations ||= bytes.includes('.d.ts') || bytes.includes('.d.mts');
				opensFiles ||= OPENS_FILES.some((name) => bytes.includes(name));
			}
		}
	};
	const link = (path: string, full: string): void => {
		const target = readlinkSync(full);
		const inside = !target.startsWith('/') && !join(dirname(path), target).startsWith('..');
		const stat = statSync(full, { throwIfNoEntry: false });
		if (inside && stat) found.links.push([`${at}/${path}`, target]);
		else if (stat?.isFile()) read(path, full);
	};
	walk('');
	for (const path of [...(namesDeclarations ? declarations : []), ...(opensFiles ? sources : [])]) read(path, `${dir}/${path}`);
	return found;
}

import { existsSync, readFileSync, realpathSync, type BigIntStats } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import { canonicalJson, sha256, type Digest } from '#digest/digest.ts';
import { checkPath, manifestOf, treeOf, type Entry } from '#store/manifest.ts';
import { decodeNodes, encodeNodes, nodesOf, type Nodes } from '#store/tree.ts';
import { BuildError } from './build-error.ts';
import { checkEntry } from './entry.ts';
import { NO_FACTS, type Facts } from './facts.ts';
import { contentOf, fileEntry, isRacy, isShipped, sameStat, statOf, writeStat } from './files.ts';
import { globs } from './ignore.ts';
import { isSource, isTest, link, type Linked, type LoadedModule } from './link.ts';
import { readPackageJson, type Lockfile, type PackageJson } from './closure.ts';
import { findLockfile } from './lockfile.ts';
import { patchFiles } from './patches.ts';
import { Resolver } from './resolve.ts';
import type { Outcome } from './result.ts';
import { listed, scan, type Scan } from './scan.ts';
import { checkData, signatureOf, type Session } from './session.ts';
import { KIND, SIGNATURE_BYTES, STAT_WORDS, type Kind, type StateTable } from './state.ts';
import { readTsConfig, type TsConfig } from './tsconfig.ts';
import { vendorKey, vendorMap, type VendorMap } from './vendor.ts';

/** A build that looks at everything: the first one, and whenever files came, went, or link otherwise than before. */

type Old = StateTable & { factsBytes: Buffer };

export function buildWhole(session: Session, old: Old | null): Outcome {
	const { settings } = session;
	const lock = findLockfile(settings.dir);
	const packageJson = readPackageJson(settings.dir) ?? {};
	const patches = lock ? patchFiles(lock) : [];
	const vendor = lock ? vendorOf(session, lock, patches) : null;
	const roots = rootsOf(settings.dir, lock, vendor);
	const include = globs(settings.include);
	const found = scan(roots, include);
	const tsconfig = readTsConfig(settings.dir);
	const scanMs = systemClock.monotonic() - session.startedMs;
	const whole = new Whole(session, old, { found, roots, tsconfig, packageJson, vendor, hasLockfile: lock !== null });
	const linked = whole.link();
	const specials = [
		...found.consulted,
		...tsconfig.consulted,
		...patches,
		...(lock ? [lock.path, lock.installed] : []),
		...(vendor?.watched ?? []).map(([path]) => path),
		...whole.packageFiles(),
	];
	return whole.finish(
		linked,
		specials.filter((path) => existsSync(path)),
		scanMs,
	);
}

function vendorOf(session: Session, lock: Lockfile, patches: readonly string[]): VendorMap | null {
	const stat = existsSync(lock.installed) ? statOf(lock.installed) : null;
	const patched = patches.map((path) => contentOf(path, 0)).join();
	const key = vendorKey(lock, stat ? `${stat.size} ${stat.mtimeNs} ${stat.ctimeNs} ${stat.ino}` : '', patched);
	return vendorMap(session.settings.dir, session.settings.cacheDir, lock, key);
}

function rootsOf(dir: string, lock: Lockfile | null, vendor: VendorMap | null): { dir: string; prefix: string }[] {
	const roots = [{ dir, prefix: '' }];
	for (const workspace of vendor?.workspaces ?? []) {
		if (workspace.dir === dir || workspace.dir.startsWith(`${dir}/`)) continue;
		roots.push({ dir: workspace.dir, prefix: `.workspaces/${relative(realpathSync(lock!.root), workspace.dir)}/` });
	}
	return roots;
}

interface Surroundings {
	found: Scan;
	roots: { dir: string; prefix: string }[];
	tsconfig: TsConfig;
	packageJson: PackageJson;
	vendor: VendorMap | null;
	hasLockfile: boolean;
}

interface Made {
	content: Digest;
	stat: BigIntStats;
	facts: Facts;
	format: LoadedModule['format'];
	/** Entries of modules/ and maps/. */
	code: Entry;
	map: Entry | null;
}

class Whole {
	readonly #session: Session;
	readonly #about: Surroundings;
	readonly #resolver: Resolver;
	readonly #known: Known;
	readonly #made = new Map<string, Made>();
	readonly #packages = new Map<string, PackageJson | null>();

	constructor(session: Session, old: Old | null, about: Surroundings) {
		this.#session = session;
		this.#about = about;
		this.#known = new Known(old);
		this.#resolver = new Resolver({
			dir: session.settings.dir,
			roots: about.roots,
			files: about.found.files,
			vendor: about.vendor,
			hasLockfile: about.hasLockfile,
			tsconfig: about.tsconfig.path === null ? null : { path: about.tsconfig.path, hasPaths: about.tsconfig.hasPaths },
			packageJson: about.packageJson,
		});
	}

	link(): Linked {
		const { entry, dir } = this.#session.settings;
		if (!existsSync(join(dir, entry))) {
			throw new BuildError('no_entry', `the entry ${entry} does not exist`, {
				hint: 'Set "entry" in jibe.json to the module that exports your app.',
			});
		}
		const sources = [...this.#about.found.files.keys()].filter((path) => isSource(path)).sort();
		return link({
			entry,
			resolver: this.#resolver,
			sources: () => sources,
			load: (path) => this.#load(path),
			source: (path) => readFileSync(this.#resolver.disk(path), 'utf8'),
		});
	}

	#load(path: string): LoadedModule {
		checkPath(path);
		const disk = this.#resolver.disk(path);
		const stat = this.#about.found.files.get(path) ?? statOf(disk);
		const content = this.#known.content(path, disk, stat);
		let bytes: Buffer | undefined;
		const source = () => (bytes ??= readChecked(disk, content));
		const made = isSource(path) ? this.#compiled(path, stat, content, source) : this.#data(path, stat, content, source);
		this.#made.set(path, made);
		const code = () => this.#session.output(path, content, source, this.#about.tsconfig.options).code.toString();
		if (path === this.#session.settings.entry) checkEntry(path, made.format, made.facts, code(), source().toString());
		return { format: made.format, facts: made.facts, code };
	}

	#data(path: string, stat: BigIntStats, content: Digest, source: () => Buffer): Made {
		if (!this.#known.has(path, content)) {
			checkData(path, source);
			this.#session.compiled.add(path);
		}
		const format = path.endsWith('.json') ? 'json' : 'text';
		return { content, stat, facts: NO_FACTS, format, code: [content, Number(stat.size), false], map: null };
	}

	#compiled(path: string, stat: BigIntStats, content: Digest, source: () => Buffer): Made {
		const { options } = this.#about.tsconfig;
		const known = this.#known.module(path, content, options);
		if (known) return { content, stat, ...known, format: this.#format(path, known.facts) };
		const output = this.#session.output(path, content, source, options);
		const format = this.#format(path, output.facts);
		if (format === 'commonjs' && output.facts.esm) {
			throw new BuildError('unsupported', `${path} is CommonJS by its name, but has import or export`, {
				file: path,
				hint: 'Rename it to .ts or .mts, or use require() and module.exports.',
			});
		}
		const code: Entry = [output.codeDigest, output.code.length, false];
		return { content, stat, facts: output.facts, format, code, map: [output.mapDigest, output.map.length, false] };
	}

	/** As Node decides, with TypeScript's extensions in their place. */
	#format(path: string, facts: Facts): LoadedModule['format'] {
		if (/\.m[jt]s$/.test(path)) return 'module';
		if (/\.c[jt]s$/.test(path)) return 'commonjs';
		if (facts.esm) return 'module';
		return this.#packageOf(path)?.type === 'module' ? 'module' : 'commonjs';
	}

	#packageOf(path: string): PackageJson | null {
		for (let at = dirname(path); ; at = dirname(at)) {
			const folder = this.#resolver.disk(at === '.' ? 'x' : `${at}/x`).slice(0, -2);
			let known = this.#packages.get(folder);
			if (known === undefined) this.#packages.set(folder, (known = readPackageJson(folder)));
			if (known || at === '.') return known;
		}
	}

	packageFiles(): string[] {
		return [...this.#packages].filter(([, found]) => found !== null).map(([folder]) => join(folder, 'package.json'));
	}

	finish(linked: Linked, specials: readonly string[], scanMs: number): Outcome {
		const table = new Table();
		const entries = new Map<string, Entry>();
		for (const [path, made] of this.#made) {
			if (linked.index.modules[path] === undefined) continue;
			entries.set(`modules/${path}`, made.code);
			if (made.map) entries.set(`maps/${path}.map`, made.map);
		}
		this.#ship(linked, entries, table);
		const index = Buffer.from(`${canonicalJson(linked.index)}\n`);
		entries.set('index.json', [this.#session.keep(index), index.length, false]);
		const tree = treeOf(manifestOf(entries));
		const nodes = nodesOf(tree);
		for (const [path, { stat, listing }] of this.#about.found.folders) table.add(path, KIND.folder, stat, sha256(listing), null);
		for (const path of new Set(specials)) {
			const stat = statOf(path);
			table.add(path, KIND.special, stat, stat.isDirectory() ? listed(path) : contentOf(path, 0), null);
		}
		const warnings = [...this.#about.found.warnings, ...linked.warnings, ...this.#unignored()];
		const count = Object.keys(linked.index.modules).length;
		const { vendor, roots, tsconfig } = this.#about;
		const used = vendor !== null && vendor.folders.length > 0 ? vendor : null;
		const meta = {
			root: tree.root,
			modules: count,
			warnings,
			vendorKey: used?.key ?? null,
			vendorRoot: used?.root ?? null,
			roots,
			options: tsconfig.options,
		};
		const failed = this.#session.save({ ...table.columns(this.#session.startedNs), nodes: encodeNodes(nodes), meta });
		if (failed !== null) warnings.push(failed);
		const compiled = [...this.#session.compiled].filter((path) => linked.index.modules[path] !== undefined).length;
		return {
			root: tree.root,
			entry: linked.index.entry,
			nodes: () => nodes,
			options: tsconfig.options,
			modules: { compiled, cached: count - compiled },
			timings: { scanMs, compileMs: systemClock.monotonic() - this.#session.startedMs - scanMs },
			warnings,
			vendorKey: meta.vendorKey,
			vendorRoot: meta.vendorRoot,
			disk: (path) => this.#resolver.disk(path),
		};
	}

	/** Real files into the artifact, and every file that decides it into the table. */
	#ship(linked: Linked, entries: Map<string, Entry>, table: Table): void {
		const include = globs(this.#session.settings.include);
		const exclude = globs(this.#session.settings.exclude);
		const files = new Map(this.#about.found.files);
		for (const path of [...linked.namedFiles, ...this.#made.keys()])
			if (!files.has(path)) files.set(path, statOf(this.#resolver.disk(path)));
		for (const [path, stat] of files) {
			const made = linked.index.modules[path] === undefined ? undefined : this.#made.get(path);
			const isCode = made !== undefined && made.map !== null;
			const shipped = !isCode && (linked.namedFiles.has(path) || isShipped(path, include, exclude));
			if (!made && !shipped) continue;
			checkPath(path);
			const content = made?.content ?? this.#known.content(path, this.#resolver.disk(path), stat);
			if (shipped) entries.set(`files/${path}`, fileEntry(content, stat));
			table.add(path, made ? (shipped ? KIND.both : KIND.module) : KIND.file, stat, content, isCode ? made.facts : null);
		}
	}

	#unignored(): string[] {
		const paths = [...this.#resolver.unignored].sort();
		return paths.filter((path) => !isTest(path)).map((path) => `${path} is ignored by .gitignore, but imported: it is shipped`);
	}
}

function readChecked(disk: string, content: Digest): Buffer {
	const bytes = readFileSync(disk);
	if (sha256(bytes) === content) return bytes;
	throw new BuildError('changed_meanwhile', `${disk} changed while it was being read`, { hint: 'Deploy again.' });
}

/** What the last build knew, as far as it still holds. */
class Known {
	readonly #old: Old | null;
	readonly #rows: Map<string, number>;
	#facts: (Facts | null)[] | undefined;
	#entries: Map<string, Entry> | undefined;

	constructor(old: Old | null) {
		this.#old = old;
		this.#rows = new Map(old?.paths.map((path, row) => [path, row]));
	}

	/** The digest of a file's content, without reading it where its stat tells that it is the same. */
	content(path: string, disk: string, stat: BigIntStats): Digest {
		const row = this.#rows.get(path);
		if (row === undefined || !sameStat(this.#old!.stats, row, stat) || isRacy(this.#old!.stats, row, this.#old!.startedNs)) {
			return contentOf(disk, Number(stat.size));
		}
		return contentAt(this.#old!, row);
	}

	has(path: string, content: Digest): boolean {
		const row = this.#rows.get(path);
		return row !== undefined && this.#old!.kinds[row] !== KIND.special && contentAt(this.#old!, row) === content;
	}

	/** Facts and outputs of a module that has not changed. */
	module(path: string, content: Digest, options: object): { facts: Facts; code: Entry; map: Entry } | null {
		const row = this.#rows.get(path);
		if (row === undefined || contentAt(this.#old!, row) !== content) return null;
		if (canonicalJson(this.#old!.meta.options) !== canonicalJson(options)) return null;
		this.#facts ??= this.#old!.facts();
		const facts = this.#facts[row];
		const code = this.#entry(`modules/${path}`);
		const map = this.#entry(`maps/${path}.map`);
		return facts && code && map ? { facts, code, map } : null;
	}

	#entry(path: string): Entry | undefined {
		this.#entries ??= flatten(this.#old!.meta.root, decodeNodes(this.#old!.nodes.toString()));
		return this.#entries.get(path);
	}
}

/** Entries of a tree that this program wrote itself: not checked again. */
function flatten(root: Digest, nodes: Nodes, prefix = '', into = new Map<string, Entry>()): Map<string, Entry> {
	const { d, f } = JSON.parse(nodes.get(root) ?? '{}') as { d?: Record<string, Digest>; f?: Record<string, Entry> };
	for (const [name, entry] of Object.entries(f ?? {})) into.set(prefix + name, entry);
	for (const [name, digest] of Object.entries(d ?? {})) flatten(digest, nodes, `${prefix}${name}/`, into);
	return into;
}

export function contentAt(table: Pick<StateTable, 'contents'>, row: number): Digest {
	return `sha256:${table.contents.toString('hex', row * 32, row * 32 + 32)}`;
}

/** Rows of the state to be. */
class Table {
	readonly #rows: { path: string; kind: Kind; stat: BigIntStats; content: Digest; facts: Facts | null }[] = [];

	add(path: string, kind: Kind, stat: BigIntStats, content: Digest, facts: Facts | null): void {
		this.#rows.push({ path, kind, stat, content, facts });
	}

	columns(startedNs: bigint) {
		const count = this.#rows.length;
		const stats = new BigInt64Array(count * STAT_WORDS);
		const contents = Buffer.alloc(count * 32);
		const signatures = Buffer.alloc(count * SIGNATURE_BYTES);
		const kinds = new Uint8Array(count);
		for (const [row, { kind, stat, content, facts }] of this.#rows.entries()) {
			writeStat(stats, row, stat);
			contents.write(content.slice(7), row * 32, 'hex');
			if (facts) signatureOf(facts).copy(signatures, row * SIGNATURE_BYTES);
			kinds[row] = kind;
		}
		const facts = JSON.stringify(this.#rows.map((row) => row.facts));
		return { startedNs, stats, contents, signatures, kinds, paths: this.#rows.map(({ path }) => path), facts };
	}
}

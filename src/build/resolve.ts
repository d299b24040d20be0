import { existsSync, realpathSync, statSync } from 'node:fs';
import { createRequire, isBuiltin } from 'node:module';
import { dirname, join } from 'node:path';
import type * as Oxc from 'oxc-resolver';
import type { ModuleTarget } from '#store/app-index.ts';
import { readPackageJson, type PackageJson } from './closure.ts';
import type { VendorMap } from './vendor.ts';

/** Specifier → file, decided at build time the way Node, TypeScript and bundlers agree on. */

export type Resolution = { target: ModuleTarget } | { problem: Problem };
export interface Problem {
	reason: 'missing' | 'no_lockfile' | 'not_installed' | 'not_a_dependency' | 'outside';
	message: string;
	hint: string | null;
}

export interface ResolverSettings {
	/** The app's folder, real. */
	dir: string;
	/** Folder → prefix of its modules' paths. The app's own first. */
	roots: readonly { dir: string; prefix: string }[];
	/** Paths that the scan found. */
	files: { has(path: string): boolean };
	vendor: VendorMap | null;
	hasLockfile: boolean;
	tsconfig: { path: string; hasPaths: boolean } | null;
	packageJson: PackageJson;
}

const EXTENSIONS = ['.ts', '.tsx', '.mts', '.cts', '.js', '.jsx', '.mjs', '.cjs', '.json'];
const ALIASES: Record<string, string[]> = { '.js': ['.ts', '.tsx'], '.jsx': ['.tsx'], '.mjs': ['.mts'], '.cjs': ['.cts'] };
const CONDITIONS = { import: ['node', 'import', 'module-sync', 'node-addons'], require: ['node', 'require', 'module-sync', 'node-addons'] };

export class Resolver {
	readonly #settings: ResolverSettings;
	readonly #cache = new Map<string, Resolution>();
	readonly #factories = new Map<string, Oxc.ResolverFactory>();
	/** Files that .gitignore leaves out, but a module imports. */
	readonly unignored = new Set<string>();

	constructor(settings: ResolverSettings) {
		this.#settings = settings;
	}

	resolve(from: string, specifier: string, kind: 'import' | 'require'): Resolution {
		if (specifier.startsWith('./') || specifier.startsWith('../') || specifier === '.' || specifier === '..')
			return this.#relative(from, specifier);
		if (specifier.startsWith('node:') || isBuiltin(specifier))
			return { target: specifier.startsWith('node:') ? specifier : `node:${specifier}` };
		if (/^[a-z][a-z0-9+.-]+:/.test(specifier)) return problem('outside', `"${specifier}" is a URL, which an app can't import`, null);
		if (specifier.startsWith('/'))
			return problem('outside', `"${specifier}" is an absolute path, which exists only on this machine`, 'Import it by a relative path.');
		const root = this.#rootOf(from);
		const key = `${kind}\0${root.dir}\0${specifier}`;
		let known = this.#cache.get(key);
		if (!known) {
			known = this.#bare(dirname(this.disk(from)), specifier, kind);
			this.#cache.set(key, known);
		}
		return known;
	}

	/** Where a module's source lies. */
	disk(path: string): string {
		const root = this.#rootOf(path);
		return join(root.dir, path.slice(root.prefix.length));
	}

	#rootOf(path: string): { dir: string; prefix: string } {
		return this.#settings.roots.find(({ prefix }) => prefix !== '' && path.startsWith(prefix)) ?? this.#settings.roots[0]!;
	}

	/** The path of a source on disk, null when it is in none of the roots. */
	#pathOf(disk: string): string | null {
		let best: { dir: string; prefix: string } | undefined;
		for (const root of this.#settings.roots) {
			if (disk.startsWith(`${root.dir}/`) && (!best || root.dir.length > best.dir.length)) best = root;
		}
		return best ? best.prefix + disk.slice(best.dir.length + 1) : null;
	}

	#relative(from: string, specifier: string): Resolution {
		const names = from.split('/').slice(0, -1);
		for (const name of specifier.split('/')) {
			if (name === '..') {
				if (names.length === 0) return this.#outside(from, specifier);
				names.pop();
			} else if (name !== '.' && name !== '') names.push(name);
		}
		const found = this.#file(names.join('/'));
		if (found !== null) return { target: found.endsWith('.node') ? `file:${found}` : found };
		return problem('missing', `there is no file for "${specifier}"`, null);
	}

	/** A relative import that leaves its folder may still reach another package of the workspace. */
	#outside(from: string, specifier: string): Resolution {
		const disk = join(dirname(this.disk(from)), specifier);
		for (const candidate of candidates(disk)) {
			const path = existsSync(candidate) && statSync(candidate).isFile() ? this.#pathOf(candidate) : null;
			if (path !== null) return { target: path };
		}
		return problem(
			'outside',
			`"${specifier}" lies outside the app's folder`,
			'Move it inside, or make it a workspace package that the app depends on.',
		);
	}

	#file(path: string): string | null {
		const { files } = this.#settings;
		for (const candidate of candidates(path)) if (files.has(candidate)) return candidate;
		// .gitignore may leave out what a generator wrote; what is imported goes in all the same.
		for (const candidate of candidates(path)) {
			const stat = candidate === '' ? undefined : statSync(this.disk(candidate), { throwIfNoEntry: false });
			if (stat?.isFile() && !candidate.split('/').includes('node_modules')) {
				this.unignored.add(candidate);
				return candidate;
			}
		}
		return null;
	}

	#bare(fromDir: string, specifier: string, kind: 'import' | 'require'): Resolution {
		const { tsconfig } = this.#settings;
		if (specifier.startsWith('#') || tsconfig?.hasPaths) {
			const own = this.#own(fromDir, specifier, kind);
			if (own !== null) return { target: own };
		}
		const workspace = this.#workspace(specifier, kind);
		if (workspace) return workspace;
		const { path } = this.#factory(kind, false).sync(fromDir, specifier);
		if (path !== undefined) return this.#installed(specifier, path);
		return this.#missing(specifier);
	}

	/** By `#imports` or tsconfig's `paths`: only if it leads to a source of the app. */
	#own(fromDir: string, specifier: string, kind: 'import' | 'require'): string | null {
		const { path } = this.#factory(kind, true).sync(fromDir, specifier);
		if (path === undefined || path.includes('/node_modules/')) return null;
		const own = this.#pathOf(path);
		if (own !== null && !this.#settings.files.has(own)) this.unignored.add(own);
		return own;
	}

	#installed(specifier: string, disk: string): Resolution {
		const own = disk.includes('/node_modules/') ? null : this.#pathOf(disk);
		if (own !== null) return { target: own };
		let best: [string, string] | undefined;
		for (const folder of this.#settings.vendor?.folders ?? []) {
			if (disk.startsWith(`${folder[0]}/`) && (!best || folder[0].length > best[0].length)) best = folder;
		}
		if (best) return { target: `vendor:${best[1].slice('node_modules/'.length)}${disk.slice(best[0].length)}` };
		const name = packageName(specifier);
		if (!this.#settings.hasLockfile) return noLockfile(specifier);
		const dev = this.#settings.packageJson.devDependencies?.[name] !== undefined;
		return problem(
			'not_a_dependency',
			dev
				? `"${name}" is only a devDependency, and production has none of these`
				: `"${name}" is installed, but package.json does not depend on it`,
			`Run \`npm install ${name}\`${dev ? ' --save-prod' : ''}.`,
		);
	}

	#missing(specifier: string): Resolution {
		const { packageJson, hasLockfile, vendor } = this.#settings;
		const name = packageName(specifier);
		if (specifier.startsWith('#'))
			return problem('missing', `"${specifier}" matches nothing in "imports" of package.json, nor paths of tsconfig.json`, null);
		const declared = packageJson.dependencies?.[name] !== undefined || packageJson.optionalDependencies?.[name] !== undefined;
		if (declared && !hasLockfile) return noLockfile(specifier);
		if (declared && existsSync(join(this.#settings.dir, 'node_modules', name))) {
			return problem('missing', `the package "${name}" does not export "${specifier}"`, null);
		}
		if (declared)
			return problem('not_installed', `"${name}" is not installed`, `Run \`${vendor?.install ?? 'npm ci'}\`, then deploy again.`);
		return problem(
			'missing',
			`there is no package "${name}" among the dependencies of package.json`,
			`Run \`npm install ${name}\`, or correct the name.`,
		);
	}

	/** A package of the same repository: its source, even where its `exports` name what a build of it would write. */
	#workspace(specifier: string, kind: 'import' | 'require'): Resolution | null {
		const name = packageName(specifier);
		const workspace = this.#settings.vendor?.workspaces.find((each) => each.name === name);
		if (!workspace) return null;
		const { path } = this.#factory(kind, true).sync(workspace.dir, specifier);
		const { path: linked } = path === undefined ? this.#factory(kind, true).sync(this.#settings.dir, specifier) : { path };
		const below = specifier.slice(name.length + 1);
		const guesses = [linked, sourceOf(linked), ...sourceGuesses(workspace.dir, below)];
		const preferred =
			linked !== undefined && /\/(?:dist|build|lib|out)\//.test(linked.slice(workspace.dir.length)) ? [guesses[1], ...guesses] : guesses;
		for (const guess of preferred) {
			if (guess === undefined || !existsSync(guess)) continue;
			const own = this.#pathOf(realpathSync(guess));
			if (own === null) continue;
			if (!this.#settings.files.has(own)) this.unignored.add(own);
			return { target: own };
		}
		return problem(
			'missing',
			`the workspace package "${name}" has no source for "${specifier}"`,
			`Give its package.json an "exports" that names a file in ${workspace.dir}.`,
		);
	}

	#factory(kind: 'import' | 'require', own: boolean): Oxc.ResolverFactory {
		const key = `${kind}${own}`;
		let factory = this.#factories.get(key);
		if (!factory) {
			const { ResolverFactory } = createRequire(import.meta.url)('oxc-resolver') as typeof Oxc;
			const { tsconfig } = this.#settings;
			const options: Oxc.NapiResolveOptions = {
				conditionNames: CONDITIONS[kind],
				mainFields: ['main'],
				extensions: own ? EXTENSIONS : ['.js', '.json', '.node'],
				...(own
					? {
							extensionAlias: Object.fromEntries(Object.entries(ALIASES).map(([from, to]) => [from, [...to, from]])),
							...(tsconfig ? { tsconfig: { configFile: tsconfig.path, references: 'auto' as const } } : {}),
						}
					: {}),
			};
			factory = new ResolverFactory(options);
			this.#factories.set(key, factory);
		}
		return factory;
	}
}

function problem(reason: Problem['reason'], message: string, hint: string | null): { problem: Problem } {
	return { problem: { reason, message, hint } };
}

function noLockfile(specifier: string): { problem: Problem } {
	return problem(
		'no_lockfile',
		`"${specifier}" comes from a package, but there is no lockfile that says which version`,
		'Run `npm install`, and commit the package-lock.json it writes.',
	);
}

export function packageName(specifier: string): string {
	const names = specifier.split('/');
	return specifier.startsWith('@') ? names.slice(0, 2).join('/') : names[0]!;
}

/** What a path without, or with another, extension may mean, in order. */
export function candidates(path: string): string[] {
	const found = path === '' ? [] : [path];
	for (const [from, to] of Object.entries(ALIASES)) {
		if (path.endsWith(from)) for (const extension of to) found.push(path.slice(0, -from.length) + extension);
	}
	if (path !== '') for (const extension of EXTENSIONS) found.push(path + extension);
	for (const extension of EXTENSIONS) found.push(path === '' ? `index${extension}` : `${path}/index${extension}`);
	return found;
}

/** `dist/x.js` → `src/x.ts`. */
function sourceOf(built: string | undefined): string | undefined {
	if (built === undefined) return undefined;
	const source = built.replace(/\/(?:dist|build|lib|out)\//, '/src/');
	return candidates(source).find((candidate) => existsSync(candidate) && statSync(candidate).isFile());
}

function sourceGuesses(dir: string, below: string): (string | undefined)[] {
	const manifest = readPackageJson(dir);
	const named = [manifest?.source, exported(manifest?.exports, below), manifest?.main].filter((path) => path !== undefined);
	const bases = below === '' ? [...named, 'src/index', 'index'] : [exported(manifest?.exports, below) ?? below, `src/${below}`];
	return bases.flatMap((base) => {
		const path = join(dir, base);
		return [sourceOf(path), candidates(path).find((candidate) => existsSync(candidate) && statSync(candidate).isFile())];
	});
}

/** The file that `exports` names for `below`, whether or not it exists. */
function exported(exports: unknown, below: string): string | undefined {
	if (typeof exports === 'string') return below === '' ? exports : undefined;
	if (typeof exports !== 'object' || exports === null) return undefined;
	const table = exports as Record<string, unknown>;
	const isTable = Object.keys(table).some((key) => key.startsWith('.'));
	let value: unknown = isTable ? table[below === '' ? '.' : `./${below}`] : below === '' ? table : undefined;
	while (typeof value === 'object' && value !== null) {
		const conditions = value as Record<string, unknown>;
		value = conditions['import'] ?? conditions['node'] ?? conditions['default'] ?? conditions['require'];
	}
	return typeof value === 'string' ? value : undefined;
}

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import { BuildError } from './build-error.ts';
import { npmClosure } from './lock-npm.ts';
import { pnpmClosure } from './lock-pnpm.ts';
import { yarnClosure } from './lock-yarn.ts';

/** Which packages production needs, as the lockfile says; where they lie on this disk is only where bytes are read. */
export interface Closure {
	/** How to install what it names. */
	install: string;
	packages: LockedPackage[];
	/** Packages of the same repository, that are the app's own source. */
	workspaces: { name: string; dir: string }[];
	/** `node_modules/a/node_modules/b`, where the lockfile's own layout can be kept; else null, and links are made. */
	hoisted: boolean;
}

export interface LockedPackage {
	/** Unique in the lockfile. */
	id: string;
	name: string;
	version: string;
	/** Where it is installed. */
	dir: string;
	/** Where it goes in the vendor tree if `hoisted`. */
	at: string;
	/** Name as required → id. */
	dependencies: Map<string, string>;
	/** Required by the app itself, under this name. */
	direct: string | null;
}

export interface Lockfile {
	path: string;
	kind: 'npm' | 'pnpm' | 'yarn';
	/** The folder it lies in, and the app's folder from there (`''` when the same). */
	root: string;
	importer: string;
	/** Changes whenever something was installed. */
	installed: string;
}

const KINDS = [
	['package-lock.json', 'npm', 'node_modules/.package-lock.json'],
	['npm-shrinkwrap.json', 'npm', 'node_modules/.package-lock.json'],
	['pnpm-lock.yaml', 'pnpm', 'node_modules/.modules.yaml'],
	['yarn.lock', 'yarn', 'node_modules/.yarn-integrity'],
] as const;

/** The nearest lockfile at or above the app, inside its repository. */
export function findLockfile(dir: string): Lockfile | null {
	for (let at = dir; ; at = dirname(at)) {
		for (const [name, kind, installed] of KINDS) {
			const path = join(at, name);
			if (existsSync(path))
				return { path, kind, root: at, importer: relative(at, dir).split(sep).join('/'), installed: join(at, installed) };
		}
		if (existsSync(join(at, '.git')) || at === dirname(at)) return null;
	}
}

export interface PackageJson {
	name?: string;
	version?: string;
	type?: string;
	main?: string;
	exports?: unknown;
	source?: string;
	dependencies?: Record<string, string>;
	optionalDependencies?: Record<string, string>;
	devDependencies?: Record<string, string>;
	peerDependencies?: Record<string, string>;
}

export function readPackageJson(dir: string): PackageJson | null {
	const path = join(dir, 'package.json');
	if (!existsSync(path)) return null;
	try {
		return JSON.parse(readFileSync(path, 'utf8')) as PackageJson;
	} catch (cause) {
		throw new BuildError('bad_config', `${path} is not JSON: ${(cause as Error).message}`, { file: 'package.json', cause });
	}
}

/** @throws BuildError when the lockfile is damaged or out of date, or a package is not installed as it says. */
export function closureOf(lock: Lockfile, manifest: PackageJson): Closure {
	const wanted = { ...manifest.dependencies, ...manifest.optionalDependencies };
	switch (lock.kind) {
		case 'npm':
			return npmClosure(lock, wanted);
		case 'pnpm':
			return pnpmClosure(lock, wanted);
		case 'yarn':
			return yarnClosure(lock, wanted);
	}
}

/** @throws BuildError unless `dir` holds the package in that version. */
export function checkInstalled(found: { name: string; version: string; dir: string }, install: string): void {
	const installed = readPackageJson(found.dir);
	if (!installed) {
		throw new BuildError('not_installed', `${found.name}@${found.version} is in the lockfile but not installed`, {
			hint: `Run \`${install}\`, then deploy again.`,
		});
	}
	if (installed.version !== found.version && installed.version !== undefined) {
		throw new BuildError(
			'not_installed',
			`${found.name} is installed in version ${installed.version}, but the lockfile says ${found.version}`,
			{
				hint: `Run \`${install}\`, then deploy again.`,
			},
		);
	}
}

export function outOfDate(lock: Lockfile, name: string, install: string): BuildError {
	return new BuildError('bad_lockfile', `${lock.path} does not know "${name}", which package.json depends on`, {
		hint: `Run \`${install}\` to bring the lockfile up to date, and commit it.`,
	});
}

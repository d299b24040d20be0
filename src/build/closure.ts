import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { BuildError } from './build-error.ts';

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

/** The real folder behind a path, null when nothing is there. */
export function installedAt(path: string): string | null {
	return existsSync(path) ? realpathSync(path) : null;
}

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import type { Closure, Lockfile, PackageJson } from './closure.ts';
import { npmClosure } from './lock-npm.ts';
import { pnpmClosure } from './lock-pnpm.ts';
import { yarnClosure } from './lock-yarn.ts';

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
			const importer = relative(at, dir).split(sep).join('/');
			if (!existsSync(path) || (at !== dir && !covers(path, kind, importer))) continue;
			return { path, kind, root: at, importer, installed: join(at, installed) };
		}
		if (existsSync(join(at, '.git')) || at === dirname(at)) return null;
	}
}

/** A lockfile above the app is its own only if the app is one of its workspace's packages: home folders have stray ones. */
function covers(path: string, kind: Lockfile['kind'], importer: string): boolean {
	if (kind === 'yarn') return readFileSync(join(dirname(path), 'package.json'), 'utf8').includes('"workspaces"');
	const text = readFileSync(path, 'utf8');
	return kind === 'npm'
		? text.includes(`${JSON.stringify(importer)}: {`) || text.includes(`${JSON.stringify(importer)}:{`)
		: text.includes(`\n  ${importer}:`);
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

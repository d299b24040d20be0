import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Lockfile } from './closure.ts';

/** What patch-package and the like change in node_modules without a trace in the lockfile. */
export function patchFiles(lock: Lockfile): string[] {
	const dir = join(lock.root, 'patches');
	return existsSync(dir) ? readdirSync(dir).filter((name) => name.endsWith('.patch')).sort().map((name) => join(dir, name)) : []; // prettier-ignore
}

/** The files that patches name: whether and when one is applied to them is up to whoever installs. */
export function patchedFiles(lock: Lockfile): string[] {
	const named = patchFiles(lock).flatMap((patch) => [...readFileSync(patch, 'utf8').matchAll(NAMED)]);
	return [...new Set(named.map(([, path]) => join(lock.root, path!)))].filter((path) => existsSync(path));
}

const NAMED = /^diff --git a\/(node_modules\/\S+) /gm;

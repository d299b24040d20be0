import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { BuildError } from './build-error.ts';
import { checkInstalled, outOfDate, type Closure, type LockedPackage, type Lockfile } from './closure.ts';

/** package-lock.json, versions 2 and 3. */

interface Entry {
	name?: string;
	version?: string;
	resolved?: string;
	link?: boolean;
	dependencies?: Record<string, string>;
	optionalDependencies?: Record<string, string>;
	peerDependencies?: Record<string, string>;
	peerDependenciesMeta?: Record<string, { optional?: boolean }>;
}

const INSTALL = 'npm ci';

export function npmClosure(lock: Lockfile, wanted: Record<string, string>): Closure {
	const entries = readEntries(lock);
	const packages = new Map<string, LockedPackage>();
	const workspaces = new Map<string, { name: string; dir: string }>();
	const queue: { key: string; of: LockedPackage | null }[] = [{ key: lock.importer, of: null }];
	const expanded = new Set<string>();
	const app = entries[lock.importer];
	if (!app) throw outOfDate(lock, lock.importer, 'npm install');
	for (const [name, range] of Object.entries(wanted)) {
		const locked = { ...app.dependencies, ...app.optionalDependencies }[name];
		if (locked !== range) throw outOfDate(lock, `${name}@${range}`, 'npm install');
	}
	for (let next = queue.pop(); next; next = queue.pop()) {
		if (expanded.has(next.key)) continue;
		expanded.add(next.key);
		for (const { name, key, optional } of dependenciesOf(entries, next.key)) {
			if (key === null) {
				if (optional) continue;
				throw outOfDate(lock, name, 'npm install');
			}
			const entry = entries[key]!;
			if (entry.link) {
				workspaces.set(entry.resolved!, { name, dir: join(lock.root, entry.resolved!) });
				queue.push({ key: entry.resolved!, of: null });
				continue;
			}
			const dir = join(lock.root, key);
			if (optional && !existsSync(dir)) continue;
			const locked = packages.get(key) ?? lockedPackage(key, entry, dir);
			if (!packages.has(key)) checkInstalled(locked, INSTALL);
			packages.set(key, locked);
			if (next.key === lock.importer) locked.direct = name;
			next.of?.dependencies.set(name, key);
			queue.push({ key, of: locked });
		}
	}
	const all = [...packages.values()];
	return {
		install: INSTALL,
		packages: all,
		workspaces: [...workspaces.values()],
		hoisted: new Set(all.map(({ at }) => at)).size === all.length,
	};
}

function readEntries(lock: Lockfile): Record<string, Entry> {
	let value: { packages?: Record<string, Entry>; lockfileVersion?: number };
	try {
		value = JSON.parse(readFileSync(lock.path, 'utf8')) as typeof value;
	} catch (cause) {
		throw new BuildError('bad_lockfile', `${lock.path} is not JSON: ${(cause as Error).message}`, {
			hint: 'Run `npm install` to write it anew.',
			cause,
		});
	}
	if (!value.packages) {
		throw new BuildError('bad_lockfile', `${lock.path} has lockfileVersion ${value.lockfileVersion ?? 1}; 2 or 3 is needed`, {
			hint: 'Run `npm install --lockfile-version 3`, and commit the lockfile.',
		});
	}
	return value.packages;
}

function lockedPackage(key: string, entry: Entry, dir: string): LockedPackage {
	const at = key.slice(key.startsWith('node_modules/') ? 0 : key.indexOf('/node_modules/') + 1);
	const name = at.slice(at.lastIndexOf('node_modules/') + 'node_modules/'.length);
	return { id: key, name, version: entry.version ?? '0.0.0', dir, at, dependencies: new Map(), direct: null };
}

function dependenciesOf(entries: Record<string, Entry>, key: string): { name: string; key: string | null; optional: boolean }[] {
	const entry = entries[key] ?? {};
	const found = new Map<string, boolean>();
	for (const name of Object.keys(entry.peerDependencies ?? {})) found.set(name, true);
	for (const name of Object.keys(entry.dependencies ?? {})) found.set(name, false);
	for (const name of Object.keys(entry.optionalDependencies ?? {})) found.set(name, true);
	return [...found].map(([name, optional]) => ({ name, optional, key: lookUp(entries, key, name) }));
}

/** Where Node would find `name` from the folder `from`. */
function lookUp(entries: Record<string, Entry>, from: string, name: string): string | null {
	for (let at = from; ; at = at.slice(0, Math.max(0, at.lastIndexOf('/')))) {
		if (!at.endsWith('node_modules')) {
			const key = `${at === '' ? '' : `${at}/`}node_modules/${name}`;
			if (entries[key]) return key;
		}
		if (at === '') return null;
	}
}

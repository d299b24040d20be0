import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { BuildError } from './build-error.ts';
import { checkInstalled, installedAt, outOfDate, type Closure, type LockedPackage, type Lockfile } from './closure.ts';

/** yarn.lock of yarn 1. It fixes versions but no layout: what is found on disk must have the version that it says. */

const INSTALL = 'yarn install --frozen-lockfile';

interface Locked {
	version: string;
	dependencies: Map<string, string>;
	optional: Map<string, string>;
}

export function yarnClosure(lock: Lockfile, wanted: Record<string, string>): Closure {
	const source = readFileSync(lock.path, 'utf8');
	if (!source.includes('# yarn lockfile v1')) {
		throw new BuildError('bad_lockfile', `${lock.path} is not of yarn 1`, {
			hint: 'Yarn 2 and later are not understood: use npm or pnpm for this app, or the runtime "process".',
		});
	}
	const entries = parseYarnLock(source);
	const packages = new Map<string, LockedPackage>();
	const add = (name: string, range: string, from: string, optional: boolean): string | null => {
		const entry = entries.get(`${name}@${range}`);
		if (!entry) throw outOfDate(lock, `${name}@${range}`, 'yarn install');
		const dir = lookUp(from, name);
		if (dir === null) {
			if (optional) return null;
			throw new BuildError('not_installed', `${name}@${entry.version} is in the lockfile but not installed`, {
				hint: `Run \`${INSTALL}\`, then deploy again.`,
			});
		}
		const id = `${name}@${entry.version}`;
		if (packages.has(id)) return id;
		const locked: LockedPackage = { id, name, version: entry.version, dir, at: '', dependencies: new Map(), direct: null };
		checkInstalled(locked, INSTALL);
		packages.set(id, locked);
		for (const [list, missing] of [
			[entry.dependencies, false],
			[entry.optional, true],
		] as const) {
			for (const [dependency, needed] of list) {
				const target = add(dependency, needed, dir, missing);
				if (target !== null) locked.dependencies.set(dependency, target);
			}
		}
		return id;
	};
	const app = join(lock.root, lock.importer);
	for (const [name, range] of Object.entries(wanted)) {
		const id = add(name, range, app, false);
		if (id !== null) packages.get(id)!.direct = name;
	}
	return { install: INSTALL, packages: [...packages.values()], workspaces: [], hoisted: false };
}

/** Where Node would find it from a folder. */
function lookUp(from: string, name: string): string | null {
	for (let at = from; ; at = dirname(at)) {
		const candidate = join(at, 'node_modules', name);
		if (existsSync(candidate)) return installedAt(candidate);
		if (at === dirname(at)) return null;
	}
}

export function parseYarnLock(source: string): Map<string, Locked> {
	const entries = new Map<string, Locked>();
	let current: Locked | null = null;
	let list: Map<string, string> | null = null;
	for (const line of source.split('\n')) {
		if (line.trim() === '' || line.startsWith('#')) continue;
		if (!line.startsWith(' ')) {
			current = { version: '', dependencies: new Map(), optional: new Map() };
			for (const name of line.replace(/:\s*$/, '').split(', ')) entries.set(bare(name), current);
			continue;
		}
		const [key, value] = splitPair(line.trim());
		if (/^ {2}\S/.test(line)) {
			list = key === 'dependencies:' ? current!.dependencies : key === 'optionalDependencies:' ? current!.optional : null;
			if (key === 'version') current!.version = value;
		} else list?.set(key, value);
	}
	return entries;
}

function splitPair(line: string): [string, string] {
	const match = /^("[^"]*"|\S+)\s*(.*)$/.exec(line)!;
	return [bare(match[1]!), bare(match[2]!)];
}

function bare(text: string): string {
	return text.replace(/^"|"$/g, '');
}

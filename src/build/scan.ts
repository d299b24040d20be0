import { existsSync, readdirSync, readFileSync, readlinkSync, statSync, type BigIntStats } from 'node:fs';
import { dirname, join } from 'node:path';
import { sha256, type Digest } from '#digest/digest.ts';
import { BuildError } from './build-error.ts';
import { IgnoreRules } from './ignore.ts';

/** Which files an app's directory holds, without opening them. All synchronous: that beats everything else here. */

export interface Scan {
	/** Real files by path, in no order: everything that is neither ignored nor never shipped. */
	files: Map<string, BigIntStats>;
	/** Every folder looked into, with a listing that changes when a name or a kind in it does. */
	folders: Map<string, { stat: BigIntStats; listing: string }>;
	/** Files outside the walk that decided about it (.gitignore of folders above): absolute. */
	consulted: string[];
	warnings: string[];
}

/** Never scanned and never shipped, whatever .gitignore and `include` say. */
const NEVER_FOLDERS = new Set(['node_modules', '.git', '.hg', '.svn', '.jibe']);
const MAX_FOLDERS = 50_000;
const MAX_FILES = 200_000;

export function neverShipped(name: string): boolean {
	return NEVER_FOLDERS.has(name) || name === '.env' || name.startsWith('.env.');
}

/**
 * `roots`: folders to walk, each with the prefix its paths get (`''` for the app itself).
 * `include`: ignored files that are wanted all the same.
 */
export function scan(roots: readonly { dir: string; prefix: string }[], include: IgnoreRules): Scan {
	const found: Scan = { files: new Map(), folders: new Map(), consulted: [], warnings: [] };
	for (const { dir, prefix } of roots) {
		const above = rulesAbove(dir, found);
		walk(dir, prefix, '', above, { found, include });
	}
	return found;
}

interface Walk {
	found: Scan;
	include: IgnoreRules;
}

function walk(dir: string, prefix: string, relative: string, rules: { rules: IgnoreRules; base: string }, context: Walk): void {
	const { found, include } = context;
	if (found.folders.size >= MAX_FOLDERS) throw new BuildError('bad_path', `${dir} has more than ${MAX_FOLDERS} folders below it`);
	const stat = statSync(dir, { bigint: true });
	const entries = readdirSync(dir, { withFileTypes: true });
	found.folders.set(prefix + relative, { stat, listing: listingOf(entries) });
	let here = rules;
	if (entries.some((entry) => entry.name === '.gitignore' && entry.isFile())) {
		here = { rules: rules.rules.with(readFileSync(join(dir, '.gitignore'), 'utf8'), rules.base + relative), base: rules.base };
	}
	for (const entry of entries) {
		if (neverShipped(entry.name)) continue;
		const path = relative + entry.name;
		const full = `${dir}/${entry.name}`;
		const target = entry.isSymbolicLink() ? statSync(full, { bigint: true, throwIfNoEntry: false }) : undefined;
		const directory = entry.isDirectory();
		if (target?.isDirectory()) {
			if (!here.rules.ignores(here.base + path, true))
				found.warnings.push(`${path} is a link to a folder (${readlinkSync(full)}) and is left out`);
			continue;
		}
		if (entry.isSymbolicLink() && !target) {
			found.warnings.push(`${path} is a link to nothing and is left out`);
			continue;
		}
		const ignored = here.rules.ignores(here.base + path, directory);
		// An ignored folder is looked into only where `include` may name something in it.
		if (ignored && !include.covers(path) && !(directory && include.covers(`${path}/x`))) continue;
		if (directory) walk(full, prefix, `${path}/`, here, context);
		else if (entry.isFile() || target?.isFile()) {
			found.files.set(prefix + path, target ?? statSync(full, { bigint: true }));
			if (found.files.size > MAX_FILES) throw new BuildError('bad_path', `the app has more than ${MAX_FILES} files`);
		}
	}
}

interface Named {
	name: string;
	isDirectory(): boolean;
	isSymbolicLink(): boolean;
}

/** Names and kinds of a folder, as one string. */
/** What stands in a folder, as one digest. */
export function listed(dir: string): Digest {
	return sha256(listingOf(readdirSync(dir, { withFileTypes: true })));
}

export function listingOf(entries: readonly Named[]): string {
	return entries
		.map((entry) => `${entry.isDirectory() ? 'd' : entry.isSymbolicLink() ? 'l' : 'f'}${entry.name}`)
		.sort()
		.join('\0');
}

/** The rules of folders above `dir`, up to the repository's root. */
function rulesAbove(dir: string, found: Scan): { rules: IgnoreRules; base: string } {
	const above: string[] = [];
	for (let at = dir; ; at = dirname(at)) {
		if (at !== dir) above.unshift(at);
		if (existsSync(join(at, '.git'))) break;
		if (at === dirname(at)) return { rules: new IgnoreRules(), base: '' };
	}
	const top = above[0] ?? dir;
	const base = dir === top ? '' : `${dir.slice(top.length + 1)}/`;
	let rules = new IgnoreRules();
	for (const folder of above) {
		const file = join(folder, '.gitignore');
		if (!existsSync(file)) continue;
		found.consulted.push(file);
		rules = rules.with(readFileSync(file, 'utf8'), folder === top ? '' : `${folder.slice(top.length + 1)}/`);
	}
	return { rules, base };
}

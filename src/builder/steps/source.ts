import { existsSync, lchownSync, lstatSync, mkdirSync, readFileSync, readdirSync, readlinkSync, renameSync, rmSync, writeFileSync, type BigIntStats } from 'node:fs'; // prettier-ignore
import { basename, dirname, join } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import { sha256 } from '#digest/digest.ts';
import { globs } from '#build/ignore.ts';
import type { Input } from '#build/steps/key.ts';
import { isRoot } from '#process/directory.ts';
import { BUILD_UID } from '../sandbox/sandbox.ts';

/** The files of a source with what is in them. Digests are remembered by the files' stats, so that an unchanged one is not read again. */
export interface SourceFiles {
	files: readonly Input[];
	/** Whether these are all of them. */
	isAll(inputs: readonly Input[]): boolean;
}

/** Neither history nor installed dependencies are inputs: those have keys of their own. */
const NEVER = new Set(['.git', 'node_modules']);
/** Kernels stamp files with a clock that ticks this coarsely: a younger file may change without its stamps changing. */
const STAMP_GRANULARITY_NS = 20_000_000n;
const MAX_FILES = 250_000;

/** What is known of digests is kept in `digests`, beside the folder that holds the checkouts. */
export function readSource(checkout: string): SourceFiles {
	const memory = join(checkout, '..', '..', 'digests', basename(checkout));
	const startedNs = BigInt(systemClock.now()) * 1_000_000n;
	const known = recall(memory);
	const seen: Memory = {};
	const files: Input[] = [];
	for (const path of filesBelow(checkout, '')) {
		if (files.length >= MAX_FILES) throw new Error(`the source has more than ${MAX_FILES} files`);
		const at = join(checkout, path);
		let stat = lstatSync(at, { bigint: true });
		if (give(at, stat)) stat = lstatSync(at, { bigint: true });
		if (stat.isSymbolicLink()) files.push({ path, is: linkTo(readlinkSync(at)) });
		if (!stat.isFile()) continue;
		const stamp = `${stat.size} ${stat.mtimeNs} ${stat.ctimeNs} ${stat.ino} ${stat.mode}`;
		const before = known[path];
		const is = before?.[0] === stamp ? before[1] : `${sha256(readFileSync(at))}${(stat.mode & 0o100n) === 0n ? '' : ' x'}`;
		files.push({ path, is });
		if (stat.mtimeNs < startedNs - STAMP_GRANULARITY_NS && stat.ctimeNs < startedNs - STAMP_GRANULARITY_NS) seen[path] = [stamp, is];
	}
	remember(memory, seen, dirname(checkout));
	return { files, isAll: (inputs) => inputs.length === files.length };
}

/** As lists of inputs say what a link is. */
export function linkTo(target: string): string {
	return `-> ${JSON.stringify(target)}`;
}

/** By path: stamps, and what was in it. */
type Memory = Record<string, [string, string]>;

function* filesBelow(root: string, relative: string): Generator<string> {
	for (const entry of readdirSync(join(root, relative), { withFileTypes: true })) {
		if (NEVER.has(entry.name)) continue;
		const path = relative === '' ? entry.name : `${relative}/${entry.name}`;
		if (!entry.isDirectory()) yield path;
		else {
			give(join(root, path), lstatSync(join(root, path), { bigint: true }));
			yield* filesBelow(root, path);
		}
	}
}

/** As root, commands run as somebody else, who may change what is there: in the copy that they see. */
function give(at: string, stat: BigIntStats): boolean {
	if (!isRoot() || stat.uid === BigInt(BUILD_UID)) return false;
	lchownSync(at, BUILD_UID, BUILD_UID);
	return true;
}

function recall(file: string): Memory {
	try {
		return JSON.parse(readFileSync(file, 'utf8')) as Memory;
	} catch {
		return {}; // none yet, or cut short: everything is read again
	}
}

function remember(file: string, seen: Memory, checkouts: string): void {
	mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
	for (const name of readdirSync(dirname(file))) if (!existsSync(join(checkouts, name))) rmSync(join(dirname(file), name), { force: true });
	const draft = `${file}.${process.pid}`;
	writeFileSync(draft, JSON.stringify(seen), { mode: 0o600 });
	renameSync(draft, file);
}

export interface Selection {
	/** Of the step, below the app's directory; null: everything. */
	inputs: readonly string[] | null;
	/** Of the app in the source. */
	directory: string;
	/** What else, from the source's root, belongs to the app. */
	watch: readonly string[];
}

/** Of an app in a folder of a repository, its own and what says how the whole is put together. */
const OF_THE_WHOLE = ['package.json', 'package-lock.json', 'npm-shrinkwrap.json', 'pnpm-lock.yaml', 'pnpm-workspace.yaml', 'yarn.lock', 'tsconfig*.json', 'go.work', 'Cargo.toml', 'Cargo.lock']; // prettier-ignore

/** The files that a step sees. What says how modules are read is always among them. */
export function select(files: readonly Input[], { inputs, directory, watch }: Selection): Input[] {
	const below = directory === '' ? '' : `${directory}/`;
	if (inputs === null && below === '') return [...files];
	const own = inputs === null ? () => true : matcher([...inputs, 'package.json']);
	const around = matcher([...OF_THE_WHOLE, ...watch]);
	return files.filter(({ path }) => (path.startsWith(below) ? own(path.slice(below.length)) : around(path)));
}

/** Globs from the root of what they are about; those with `!` take away. */
export function matcher(patterns: readonly string[]): (path: string) => boolean {
	const anchored = (glob: string) => `/${glob.replace(/^(\.?\/)+/, '')}`;
	const wanted = globs(patterns.filter((glob) => !glob.startsWith('!')).map(anchored));
	const unwanted = globs(patterns.filter((glob) => glob.startsWith('!')).map((glob) => anchored(glob.slice(1))));
	return (path) => wanted.covers(path) && !unwanted.covers(path);
}

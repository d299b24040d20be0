import { chmodSync, existsSync, lstatSync, mkdirSync, readFileSync, readdirSync, readlinkSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'; // prettier-ignore
import { dirname, join, resolve } from 'node:path';
import { readTar, type TarEntry, type TarLimits, type TarLink } from '#store/tar.ts';

/**
 * A source as a directory of this builder. What is the same as the last time is left as it is, so that a build that remembers
 * the files by their stats has as little to do as on a laptop.
 */
export interface CheckedOut {
	files: number;
	bytes: number;
	/** Of the commit, wall seconds; 0 where the archive has none. */
	timeS: number;
	/** For a person: what was left out, and why. */
	warnings: string[];
}

const LIMITS: TarLimits = { entries: 250_000, bytes: 2 * 1024 * 1024 * 1024 };
const MODE = { file: 0o644, executable: 0o755 };
const EXECUTABLE_BIT = 0o100;
/** Marks the top, in the directory above it: no rule and no lockfile from further up is asked for, and commands see no repository that is none. */
const MARK = '.git';

/** @throws TarError */
export async function checkOut(archive: AsyncIterable<Uint8Array>, directory: string): Promise<CheckedOut> {
	mkdirSync(directory, { recursive: true });
	const wanted = new Set<string>();
	const links: TarLink[] = [];
	const pointers: string[] = [];
	let modules = '';
	const made: CheckedOut = { files: 0, bytes: 0, timeS: 0, warnings: [] };
	const heard = (mtimeS: number) => (made.timeS = Math.max(made.timeS, mtimeS));
	for await (const entry of readTar(archive, { ...LIMITS, heard })) {
		if (entry.path.split('/').includes(MARK)) continue;
		for (let at = entry.path; at !== '.'; at = dirname(at)) wanted.add(at);
		if (entry.kind === 'link') links.push(entry);
		else place(entry, directory);
		if (entry.kind === 'file' && entry.path === '.gitmodules') modules = entry.bytes.toString();
		if (entry.kind === 'file' && isPointer(entry.bytes)) pointers.push(entry.path);
		made.files += entry.kind === 'directory' ? 0 : 1;
		made.bytes += entry.kind === 'file' ? entry.bytes.length : 0;
	}
	removeOthers(directory, '', wanted);
	for (const link of links) placeLink(link, directory);
	mkdirSync(join(dirname(directory), MARK), { recursive: true });
	made.warnings = [...notFetched(modules, pointers, wanted), ...confine(directory)];
	return made;
}

/** What git itself would fetch from elsewhere, and Jibe does not: said, where a build may miss it. */
function notFetched(modules: string, pointers: readonly string[], wanted: ReadonlySet<string>): string[] {
	const all = [...wanted];
	const empty = Array.from(modules.matchAll(/^\s*path\s*=\s*(.+?)\s*$/gm), ([, path = '']) => path).filter(
		(path) => !all.some((one) => one.startsWith(`${path}/`)),
	);
	const said = (what: string, paths: readonly string[]) =>
		paths.length === 0 ? [] : [`${what} not fetched: ${paths[0]}${paths.length > 1 ? ` and ${paths.length - 1} more` : ''}`];
	return [...said('submodules are', empty), ...said('files of Git LFS are', pointers)];
}

const POINTER = 'version https://git-lfs.github.com/spec/v1\n';
const MAX_POINTER_BYTES = 1024;

function isPointer(bytes: Buffer): boolean {
	return bytes.length <= MAX_POINTER_BYTES && bytes.toString('latin1', 0, POINTER.length) === POINTER;
}

function place(entry: Exclude<TarEntry, TarLink>, directory: string): void {
	const full = join(directory, entry.path);
	if (entry.kind === 'directory') return makeDirectory(full, directory);
	makeDirectory(dirname(full), directory);
	const stat = lstatSync(full, { throwIfNoEntry: false });
	const same =
		stat?.isFile() &&
		stat.nlink === 1 &&
		stat.size === entry.bytes.length &&
		((stat.mode & EXECUTABLE_BIT) !== 0) === entry.executable &&
		readFileSync(full).equals(entry.bytes);
	if (same) return;
	if (stat) rmSync(full, { recursive: true, force: true });
	writeFileSync(full, entry.bytes, { flag: 'wx' });
	// Not through the umask.
	chmodSync(full, entry.executable ? MODE.executable : MODE.file);
}

/** A real one, each part of it: nothing is written through links that were there before. */
function makeDirectory(full: string, root: string): void {
	const stat = lstatSync(full, { throwIfNoEntry: false });
	if (stat?.isDirectory()) return;
	if (full !== root) makeDirectory(dirname(full), root);
	if (stat) rmSync(full, { force: true });
	mkdirSync(full, { mode: MODE.executable });
}

function placeLink({ path, target }: TarLink, directory: string): void {
	const full = join(directory, path);
	makeDirectory(dirname(full), directory);
	const stat = lstatSync(full, { throwIfNoEntry: false });
	if (stat?.isSymbolicLink() && readlinkSync(full) === target) return;
	if (stat) rmSync(full, { recursive: true, force: true });
	symlinkSync(target, full);
}

function removeOthers(root: string, relative: string, wanted: ReadonlySet<string>): void {
	for (const entry of readdirSync(join(root, relative), { withFileTypes: true })) {
		const path = relative === '' ? entry.name : `${relative}/${entry.name}`;
		if (!wanted.has(path)) rmSync(join(root, path), { recursive: true, force: true });
		else if (entry.isDirectory()) removeOthers(root, path, wanted);
	}
}

/**
 * Removes symbolic links that lead out of the tree: a builder reads files with rights that whoever wrote the source does not
 * have. One sentence each. `also`: other trees that links may lead to, as those do that the builder made itself.
 */
export function confine(root: string, also: readonly string[] = []): string[] {
	const inside = [root, ...also].map((path) => realpathSync.native(path));
	const said: string[] = [];
	for (const path of linksIn(root, '')) {
		const full = join(root, path);
		const target = readlinkSync(full);
		if ((also.length > 0 || !target.startsWith('/')) && leadsInside(full, inside)) continue;
		rmSync(full);
		said.push(`${path} is a link that leads out of the source (${target}), and is left out`);
	}
	return said;
}

function leadsInside(link: string, roots: readonly string[]): boolean {
	// Not Node's own, which takes "a/.." for nothing whatever a is. A link to nothing may still find something: what builds leave there.
	const end = existsSync(link) ? realpathSync.native(link) : resolve(realpathSync.native(dirname(link)), readlinkSync(link));
	return roots.some((root) => end === root || end.startsWith(`${root}/`));
}

function linksIn(root: string, relative: string): string[] {
	return readdirSync(join(root, relative), { withFileTypes: true }).flatMap((entry) => {
		const path = relative === '' ? entry.name : `${relative}/${entry.name}`;
		return entry.isSymbolicLink() ? [path] : entry.isDirectory() ? linksIn(root, path) : [];
	});
}

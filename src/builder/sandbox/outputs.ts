import { lstat, readdir, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { globs as rulesOf } from '#build/ignore.ts';
import type { OutputFile } from './sandbox.ts';

/**
 * Files below `root` that the globs name: as in .gitignore, but each is taken from the root. Links are told, never
 * followed; what is neither file nor link is left out.
 */
export async function listOutputs(root: string, globs: readonly string[]): Promise<OutputFile[]> {
	const rules = rulesOf(globs.map(anchored));
	const found: OutputFile[] = [];
	for (const start of starts(globs)) if (await isReal(root, start)) await walk(start);
	return found.sort((a, b) => (a.path < b.path ? -1 : 1));

	async function walk(path: string): Promise<void> {
		const at = join(root, path);
		const stat = await lstat(at).catch(absent);
		if (stat === null) return;
		if (stat.isDirectory()) {
			for (const name of await readdir(at)) await walk(path === '' ? name : `${path}/${name}`);
		} else if ((stat.isFile() || stat.isSymbolicLink()) && rules.covers(path)) {
			const target = stat.isSymbolicLink() ? await readlink(at) : null;
			found.push({ path, at, target, executable: target === null && (stat.mode & 0o100) !== 0, bytes: target === null ? stat.size : 0 });
		}
	}
}

/** Whether one gets there without passing a link, which would lead to files of this machine. */
async function isReal(root: string, path: string): Promise<boolean> {
	const parts = path.split('/');
	for (let length = 1; length < parts.length; length++) {
		const stat = await lstat(join(root, ...parts.slice(0, length))).catch(absent);
		if (stat === null || !stat.isDirectory()) return false;
	}
	return true;
}

function anchored(glob: string): string {
	const [mark, rest] = glob.startsWith('!') ? ['!', glob.slice(1)] : ['', glob];
	return `${mark}/${rest.replace(/^(\.?\/)+/, '')}`;
}

/** The folders that matches can lie in: a glob's parts before its first wildcard, none inside another. */
function starts(globs: readonly string[]): string[] {
	const folders = globs
		.filter((glob) => !glob.startsWith('!'))
		.map((glob) => {
			const parts = anchored(glob).slice(1).split('/').filter(Boolean);
			const wild = parts.findIndex((part) => /[*?[\\]/.test(part));
			return (wild < 0 ? parts : parts.slice(0, wild)).join('/');
		});
	return [...new Set(folders)].filter(
		(folder) => !folders.some((other) => folder !== other && (other === '' || folder.startsWith(`${other}/`))),
	);
}

function absent(error: NodeJS.ErrnoException): null {
	if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return null;
	throw error;
}

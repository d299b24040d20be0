import { git, gitBytes, type GitOptions } from './git.ts';

/** What lies in a repository, asked of git in as few calls as there can be. */

export type Where = Pick<GitOptions, 'directory' | 'env'>;

interface GitObject {
	type: string;
	bytes: Buffer;
}

/** By its name (`<commit>:path/of/a/file`); null where there is none. */
export async function readObjects(where: Where, names: readonly string[]): Promise<Map<string, GitObject | null>> {
	if (names.length === 0) return new Map();
	const output = await gitBytes(['cat-file', '--batch', '-z'], { ...where, input: `${names.join('\0')}\0` });
	const found = new Map<string, GitObject | null>();
	let at = 0;
	for (const name of names) {
		// What is missing is named in full, and a name may have line ends in it.
		const missing = Buffer.from(`${name} missing\n`);
		if (output.subarray(at, at + missing.length).equals(missing)) {
			found.set(name, null);
			at += missing.length;
			continue;
		}
		const end = output.indexOf(0x0a, at);
		const [, type = '', size = '0'] = /^[0-9a-f]{40} (\w+) (\d+)$/.exec(output.subarray(at, end).toString()) ?? [];
		found.set(name, { type, bytes: output.subarray(end + 1, end + 1 + Number(size)) });
		at = end + 1 + Number(size) + 1;
	}
	return found;
}

/** All files of a commit below a folder (`''`: all of it), as paths from its root. */
export async function pathsIn(where: Where, commit: string, folder = ''): Promise<string[]> {
	const output = await git(['ls-tree', '-r', '-z', '--name-only', '--full-tree', commit, ...(folder === '' ? [] : ['--', folder])], where);
	return output.split('\0').filter((path) => path !== '');
}

import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** Directories that can be made again, and take room meanwhile: those used last stay. */

export interface UnusedLimits {
	/** Of all together. */
	maxBytes: number;
	maxAgeMs: number;
}

export interface Kept {
	path: string;
	/** Wall time. */
	usedAt: number;
}

/** What has to go, the least used first: what is too old, and then what is too much. */
export async function unused(all: readonly Kept[], now: number, { maxBytes, maxAgeMs }: UnusedLimits): Promise<Kept[]> {
	const sized = await Promise.all(all.map(async (one) => ({ one, bytes: await bytesIn(one.path) })));
	let left = sized.reduce((sum, { bytes }) => sum + bytes, 0);
	const going: Kept[] = [];
	for (const { one, bytes } of sized.toSorted((a, b) => a.one.usedAt - b.one.usedAt)) {
		if (left <= maxBytes && now - one.usedAt <= maxAgeMs) break;
		left -= bytes;
		going.push(one);
	}
	return going;
}

/** Its directories, used when something in them was last made, or they were last marked. */
export async function directoriesIn(directory: string): Promise<Kept[]> {
	const entries = await readdir(directory, { withFileTypes: true }).catch(orGone<never[]>([]));
	const paths = entries.filter((entry) => entry.isDirectory()).map(({ name }) => join(directory, name));
	const found = await Promise.all(paths.map(async (path) => ({ path, usedAt: (await stat(path).catch(orGone(null)))?.mtimeMs ?? 0 })));
	return found.filter(({ usedAt }) => usedAt > 0);
}

export async function bytesIn(directory: string): Promise<number> {
	const files = await readdir(directory, { recursive: true, withFileTypes: true }).catch(orGone<never[]>([]));
	const sizes = files.map(async (file) =>
		file.isFile() ? ((await stat(join(file.parentPath, file.name)).catch(orGone(null)))?.size ?? 0) : 0,
	);
	return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
}

/** Others may take away what is looked at. */
function orGone<T>(otherwise: T): (error: NodeJS.ErrnoException) => T {
	return (error) => {
		if (error.code === 'ENOENT') return otherwise;
		throw error;
	};
}

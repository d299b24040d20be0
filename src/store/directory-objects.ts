import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { randomId } from '#digest/digest.ts';
import { StoreFull, StoreUnavailable } from './blob-store.ts';
import type { Objects, StoredObject } from './objects.ts';

/** Objects as files of a directory that several machines may share (`--store file:///mnt/jibe`). Each appears by rename, whole and durable. */
export async function openDirectoryObjects(dir: string): Promise<Objects> {
	const place = `file://${dir}`;
	await guarded(place, () => mkdir(dir, { recursive: true, mode: 0o700 }));
	return {
		place,
		put: (name, bytes) => guarded(place, () => put(join(dir, name), bytes)),
		get: (name, range) => guarded(place, () => get(join(dir, name), range)),
		list: (prefix, after) => list(place, dir, prefix, after),
		async delete(names) {
			for (const name of names) await guarded(place, () => rm(join(dir, name), { force: true }));
		},
	};
}

async function put(path: string, bytes: Uint8Array): Promise<void> {
	await mkdir(dirname(path), { recursive: true, mode: 0o700 });
	const draft = join(dirname(path), `.${basename(path)}.${randomId()}`);
	try {
		const file = await open(draft, 'wx', 0o600);
		try {
			await file.writeFile(bytes);
			await file.sync();
		} finally {
			await file.close();
		}
		await rename(draft, path);
		const folder = await open(dirname(path), 'r');
		try {
			await folder.sync();
		} finally {
			await folder.close();
		}
	} catch (error) {
		await rm(draft, { force: true });
		throw error;
	}
}

async function get(path: string, range?: { from: number; bytes: number }): Promise<Buffer | null> {
	try {
		if (!range) return await readFile(path);
		const file = await open(path, 'r');
		try {
			const { bytesRead, buffer } = await file.read(Buffer.alloc(range.bytes), 0, range.bytes, range.from);
			return buffer.subarray(0, bytesRead);
		} finally {
			await file.close();
		}
	} catch (error) {
		if (codeOf(error) === 'ENOENT') return null;
		throw error;
	}
}

/** The prefix ends with a slash: it is a folder. */
async function* list(place: string, dir: string, prefix: string, after: string): AsyncGenerator<StoredObject> {
	const names = await guarded(place, () => readdir(join(dir, prefix)).catch(absentAs<string[]>([])));
	for (const name of names.toSorted()) {
		if (name.startsWith('.') || prefix + name <= after) continue;
		const size = await guarded(place, () => stat(join(dir, prefix, name)).then((found) => found.size, absentAs<number | null>(null)));
		if (size !== null) yield { name: prefix + name, bytes: size };
	}
}

function absentAs<T>(instead: T): (error: unknown) => T {
	return (error) => {
		if (codeOf(error) === 'ENOENT') return instead;
		throw error;
	};
}

async function guarded<T>(place: string, work: () => Promise<T>): Promise<T> {
	try {
		return await work();
	} catch (cause) {
		if (['ENOSPC', 'EDQUOT', 'EFBIG'].includes(codeOf(cause))) {
			throw new StoreFull(`no room at ${place}: its disk is full (nothing of this was kept)`, { cause });
		}
		throw new StoreUnavailable(`the blobs' directory ${place} can't be used: ${(cause as Error).message}`, { cause });
	}
}

function codeOf(error: unknown): string {
	return String((error as NodeJS.ErrnoException).code);
}

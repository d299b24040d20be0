import { existsSync, readdirSync, rmSync, type Dirent } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Digest } from '#digest/digest.ts';
import { blobsOf } from '#store/manifest.ts';
import type { BlobStore } from '#store/blob-store.ts';
import type { ReleaseSpec } from '#wire/region.ts';
import { vendorDirectory, type Layout } from './layout.ts';
import type { Library } from './library.ts';

/** What keeps a server's disk from filling up. */

/** What one app may keep below JIBE_DATA_DIR in one region. */
export const MAX_DATA_MIB = 10 * 1024;
/** A directory with more files than this is not walked to its end. */
const MAX_WALKED_FILES = 200_000;
const MIB = 1024 * 1024;

export interface StoredBlobs extends BlobStore {
	digests(): Iterable<Digest>;
}

/** Forgets blobs, trees and vendor directories that no release on this server needs. All of it can be fetched again. */
export async function collect(of: {
	layout: Layout;
	store: StoredBlobs;
	library: Library;
	releases: readonly ReleaseSpec[];
}): Promise<void> {
	const { layout, store, library, releases } = of;
	const artifacts = new Set(releases.map(({ artifact }) => artifact));
	const vendors = new Set(releases.flatMap(({ vendor }) => vendor ?? []));
	const blobs = new Set<Digest>();
	for (const root of artifacts) {
		const manifest = library.known(root);
		// A release that is just being fetched: what is its own can't be told yet.
		if (!manifest) return;
		for (const digest of blobsOf(manifest)) blobs.add(digest);
	}
	library.forgetBut(new Set([...artifacts, ...vendors]));
	await store.delete([...store.digests()].filter((digest) => !blobs.has(digest)));
	const kept = new Set([...vendors].map((digest) => basename(vendorDirectory(layout, digest))));
	const directory = join(layout.home, 'vendor');
	if (!existsSync(directory)) return;
	for (const name of readdirSync(directory))
		if (!kept.has(name) && !name.endsWith('.draft')) rmSync(join(directory, name), { recursive: true });
}

/** MiB below a directory, as its blocks on disk count. */
export async function diskUseMiB(directory: string): Promise<number> {
	let bytes = 0;
	let files = 0;
	const waiting = [directory];
	for (let next = waiting.pop(); next !== undefined && files < MAX_WALKED_FILES; next = waiting.pop()) {
		for (const entry of await list(next)) {
			const path = join(next, entry.name);
			files++;
			if (entry.isDirectory()) waiting.push(path);
			else if (entry.isFile()) bytes += ((await stat(path).catch(() => null))?.blocks ?? 0) * BLOCK_BYTES;
		}
	}
	return Math.ceil(bytes / MIB);
}

const BLOCK_BYTES = 512;

/** An app may take its directory away while we look. */
function list(directory: string): Promise<Dirent[]> {
	return readdir(directory, { withFileTypes: true }).catch(() => []);
}

import { existsSync, readdirSync, rmSync, type Dirent } from 'node:fs';
import { readdir, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Digest } from '#digest/digest.ts';
import { blobsOf } from '#store/manifest.ts';
import type { BlobStore } from '#store/blob-store.ts';
import type { ReleaseSpec } from '#wire/region.ts';
import { cacheDirectory, filesDirectory, vendorDirectory, type Layout } from './layout.ts';
import type { Library } from './library.ts';

/** What keeps a server's disk from filling up. */

/** What one app may keep below JIBE_DATA_DIR in one region. */
export const MAX_DATA_MIB = 10 * 1024;
/** How many files: each costs an inode, and time to look at. */
const MAX_DATA_FILES = 200_000;
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

/**
 * What is wrong with an app's use of the disk in one region, in words for its team: of its data, and of its compile
 * cache. And whether it keeps any. null: there was something better to do.
 */
export async function judgeDisk(
	layout: Layout,
	want: { app: string; environment: string; region: string },
	limitMiB: number,
	/** Sizes of compile caches found in this round: one is shared by all regions, and walking it costs as much as all else. */
	caches: Map<string, DiskUse> = new Map(),
	stop: () => boolean = () => false,
): Promise<{ data: string | null; cache: string | null; keeps: boolean } | null> {
	const data = await diskUse(join(filesDirectory(layout, want), want.region), stop);
	// V8 keeps little there: what is large was put there by the app itself, which may write to it.
	const directory = cacheDirectory(layout, want);
	const cache = caches.get(directory) ?? (await diskUse(directory, stop));
	if (data === null || cache === null) return null;
	caches.set(directory, cache);
	const excess = ({ mib, files }: DiskUse): string | null => {
		if (mib > limitMiB) return `${mib} MiB in WHERE; the limit is ${limitMiB} MiB`;
		return files > MAX_DATA_FILES ? `more than ${MAX_DATA_FILES} files in WHERE, which is the limit` : null;
	};
	const inData = excess(data)?.replace('WHERE', `its data directory in ${want.region}`);
	const inCache = excess(cache)?.replace('WHERE', 'its compile cache');
	return {
		data: inData === undefined ? null : `it keeps ${inData}. Delete files there and it starts again.`,
		keeps: data.files > 0,
		cache: inCache === undefined ? null : `it keeps ${inCache}. That was emptied, and it starts again.`,
	};
}

/** The directory itself stays: it is bound into processes, and is its app's. */
export async function emptyDirectory(directory: string): Promise<void> {
	for (const entry of await list(directory)) await rm(join(directory, entry.name), { recursive: true, force: true });
}

export interface DiskUse {
	/** As blocks on disk count. */
	mib: number;
	/** Directories too; looked at no further than to one above the limit. */
	files: number;
}

async function diskUse(directory: string, stop: () => boolean): Promise<DiskUse | null> {
	let bytes = 0;
	let files = 0;
	const waiting = [directory];
	for (let next = waiting.pop(); next !== undefined && files <= MAX_DATA_FILES; next = waiting.pop()) {
		for (const entry of await list(next)) {
			if (stop()) return null;
			const path = join(next, entry.name);
			if (++files > MAX_DATA_FILES) break;
			if (entry.isDirectory()) waiting.push(path);
			else if (entry.isFile()) bytes += ((await stat(path).catch(() => null))?.blocks ?? 0) * BLOCK_BYTES;
		}
	}
	return { mib: Math.ceil(bytes / MIB), files };
}

const BLOCK_BYTES = 512;

/** An app may take its directory away while we look. */
function list(directory: string): Promise<Dirent[]> {
	return readdir(directory, { withFileTypes: true }).catch(() => []);
}

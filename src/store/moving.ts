import { rename, rm } from 'node:fs/promises';
import { systemClock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { EncodedBlob } from './blob-pack.ts';
import { BlobCorrupt, BlobMissing, type SweptStore } from './blob-store.ts';
import { openDiskStore } from './disk.ts';

/** How much is copied at a time; between two others get their turn. */
const BATCH_BYTES = 16 * 1024 * 1024;
const RETRY_AFTER_MS = 60_000;

/**
 * From a directory, where the blobs of an installation were, into the store that it has now, while both are used: what is
 * written goes to the new one, and what that does not have yet is read from the old one. The copying begins once the new
 * store is known to be ours; the directory goes when all of it is there.
 */
export async function moveFromDisk(dir: string, to: SweptStore, log: Log, done: () => void = () => {}): Promise<SweptStore> {
	const from = await openDiskStore(dir, { durable: true });
	const either = <T>(read: (store: SweptStore) => Promise<T>) =>
		read(to).catch((error: unknown) => {
			if (error instanceof BlobMissing || error instanceof BlobCorrupt) return read(from);
			throw error;
		});
	return {
		disk: to.disk,
		marks: to.marks,
		async has(digests) {
			const found = await to.has(digests);
			const rest = digests.filter((digest) => !found.has(digest));
			return rest.length === 0 ? found : new Set([...found, ...(await from.has(rest))]);
		},
		read: (digest) => either((one) => one.read(digest)),
		readStored: (digest) => either((one) => one.readStored(digest)),
		write: (blobs) => to.write(blobs),
		writeStored: (blobs) => to.writeStored(blobs),
		delete: (digests) => to.delete(digests),
		async claim(installation) {
			await to.claim(installation);
			move(dir, from, to, log, done);
		},
		digests: () => to.digests(),
		saveMarks: () => to.saveMarks(),
		refresh: () => to.refresh(),
		compact: () => to.compact(),
		inOrder: (digests) => to.inOrder(digests),
		async close() {
			await Promise.all([to.close(), from.close()]);
		},
	};
}

/** Again and again until it is done; what was copied before is not copied again. */
function move(dir: string, from: SweptStore, to: SweptStore, log: Log, done: () => void): void {
	const work = async () => {
		const { blobs, damaged } = await copyAll(from, to, log);
		// What is damaged stays for whoever can do something with it.
		if (damaged > 0) await rename(dir, `${dir}.damaged-${systemClock.now()}`);
		else await rm(dir, { recursive: true, force: true });
		log.info('store.moved', { blobs, damaged });
		done();
	};
	work().catch((error: unknown) => {
		log.warn('store.move_failed', { retryAfterMs: RETRY_AFTER_MS, error });
		systemClock.after(RETRY_AFTER_MS, () => move(dir, from, to, log, done), { idle: true });
	});
}

async function copyAll(from: SweptStore, to: SweptStore, log: Log): Promise<{ blobs: number; damaged: number }> {
	const all = [...from.digests()];
	const there = await to.has(all);
	const done = { blobs: 0, damaged: 0 };
	let batch: EncodedBlob[] = [];
	let batchBytes = 0;
	for (const digest of from.inOrder(all.filter((one) => !there.has(one)))) {
		const blob = await from.readStored(digest).catch((error: unknown) => {
			if (!(error instanceof BlobMissing || error instanceof BlobCorrupt)) throw error;
			done.damaged++;
			log.warn('store.blob_left_behind', { digest, error });
			return null;
		});
		if (!blob) continue;
		batch.push(blob);
		batchBytes += blob.stored.length;
		done.blobs++;
		if (batchBytes < BATCH_BYTES) continue;
		await to.writeStored(batch);
		[batch, batchBytes] = [[], 0];
		await new Promise((resolve) => setImmediate(resolve));
	}
	await to.writeStored(batch);
	return done;
}

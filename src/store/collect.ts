import { statfs } from 'node:fs/promises';
import type { WallMs } from '#clock/clock.ts';
import type { Digest } from '#digest/digest.ts';
import type { SweptStore } from './blob-store.ts';

/** How long a blob that nobody wants stays: longer than any deploy that may have begun with it. */
export const SWEEP_AFTER_MS = 24 * 3_600_000;

/** On a disk fuller than this the wait is only as long as a "have" answer is good for. */
const PRESSED_ABOVE_SHARE = 0.85;
const SWEEP_AFTER_PRESSED_MS = 3_600_000;

/** How long unwanted blobs stay on the disk of this directory. */
export async function sweepAfterMs(dir: string): Promise<{ waitMs: number; usedShare: number }> {
	const { blocks, bavail } = await statfs(dir);
	const usedShare = blocks === 0 ? 0 : 1 - bavail / blocks;
	return { usedShare, waitMs: usedShare > PRESSED_ABOVE_SHARE ? SWEEP_AFTER_PRESSED_MS : SWEEP_AFTER_MS };
}

export interface Swept {
	marked: number;
	deleted: number;
}

/**
 * Marks what is unwanted, and deletes what has been since a day. A blob that is written again, though known, loses its
 * mark (`write` of every store), so whoever stores before it refers can't lose a race against this.
 */
export async function sweep(store: SweptStore, wanted: ReadonlySet<Digest>, now: WallMs, waitMs = SWEEP_AFTER_MS): Promise<Swept> {
	await store.refresh();
	let marked = 0;
	const doomed: Digest[] = [];
	for (const digest of store.digests()) {
		const since = store.marks.get(digest);
		if (wanted.has(digest)) store.marks.delete(digest);
		else if (since === undefined) {
			store.marks.set(digest, now);
			marked++;
		} else if (now - since >= waitMs) doomed.push(digest);
	}
	// No pause between the look and the deletion: what was written until here has lost its mark.
	await store.delete(doomed);
	await store.compact();
	await store.saveMarks();
	return { marked, deleted: doomed.length };
}

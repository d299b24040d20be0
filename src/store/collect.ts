import type { WallMs } from '#clock/clock.ts';
import type { Digest } from '#digest/digest.ts';
import type { DiskStore } from './disk.ts';

/** How long a blob that nobody wants stays: longer than any deploy that may have begun with it. */
export const SWEEP_AFTER_MS = 24 * 3_600_000;

export interface Swept {
	marked: number;
	deleted: number;
}

/**
 * Marks what is unwanted, and deletes what has been since a day. A blob that is written again, though known, loses its
 * mark (`DiskStore.write`), so whoever stores before it refers can't lose a race against this.
 */
export async function sweep(store: DiskStore, wanted: ReadonlySet<Digest>, now: WallMs): Promise<Swept> {
	let marked = 0;
	const doomed: Digest[] = [];
	for (const digest of store.digests()) {
		const since = store.marks.get(digest);
		if (wanted.has(digest)) store.marks.delete(digest);
		else if (since === undefined) {
			store.marks.set(digest, now);
			marked++;
		} else if (now - since >= SWEEP_AFTER_MS) doomed.push(digest);
	}
	// No pause between the look and the deletion: what was written until here has lost its mark.
	await store.delete(doomed);
	await store.saveMarks();
	return { marked, deleted: doomed.length };
}

import type { Digest } from '#digest/digest.ts';
import { decodeBig, decodeBlob, MAX_PACK_BLOBS, MAX_PACK_BYTES, PLAIN, ZSTD, type EncodedBlob, type PackEntry } from './blob-pack.ts';

/** What is in the objects of a store: a pack of small blobs, or a big one. */

export interface Stored {
	name: string;
	bytes: number;
	/** How many blobs it held when it was written. */
	written: number;
	live: Map<Digest, PackEntry | 'whole'>;
}
export interface Place {
	object: Stored;
	/** `whole`: the object is the blob. */
	entry: PackEntry | 'whole';
}

export interface Found {
	raw: Buffer;
	blob: EncodedBlob;
}

/** null: the bytes are not those of the digest. */
export async function unpack(digest: Digest, { object, entry }: Place, bytes: Buffer): Promise<Found | null> {
	if (entry === 'whole') {
		const encoding = object.name.endsWith('.zst') ? ZSTD : PLAIN;
		const raw = await decodeBig({ digest, encoding }, bytes);
		return raw && { raw, blob: { digest, stored: bytes, rawBytes: raw.length, encoding } };
	}
	const raw = decodeBlob(entry, bytes);
	return raw && { raw, blob: { digest, stored: bytes, rawBytes: entry.rawBytes, encoding: entry.encoding } };
}

export function partOf(object: Buffer, entry: PackEntry | 'whole'): Buffer {
	return entry === 'whole' ? object : object.subarray(entry.offset, entry.offset + entry.storedBytes);
}

/** As many packs as they need. */
export function packsOf(blobs: readonly EncodedBlob[]): EncodedBlob[][] {
	const packs: EncodedBlob[][] = [];
	let bytes = Number.POSITIVE_INFINITY;
	for (const blob of blobs) {
		if (bytes >= MAX_PACK_BYTES || (packs.at(-1)?.length ?? 0) >= MAX_PACK_BLOBS) {
			packs.push([]);
			bytes = 0;
		}
		packs.at(-1)!.push(blob);
		bytes += blob.stored.length;
	}
	return packs;
}

import type { Digest } from '#digest/digest.ts';
import type { EncodedBlob } from './blob-pack.ts';

/** Immutable bytes by their digest. One file per implementation; all pass the same stories (`blob-store.test.ts`). */
export interface BlobStore {
	/** Which of these are stored. */
	has(digests: readonly Digest[]): Promise<Set<Digest>>;
	/** The blob's bytes, verified against the digest. @throws BlobMissing, BlobCorrupt */
	read(digest: Digest): Promise<Buffer>;
	/** Stores all; resolves once they are durable (as far as this store promises durability). Known blobs cost nothing. @throws StoreFull */
	write(blobs: Iterable<Uint8Array>): Promise<Digest[]>;
	/** Forgets these. Unknown ones are fine. */
	delete(digests: readonly Digest[]): Promise<void>;
}

/** What control keeps its blobs in: it says what it holds, so that what nobody wants can be swept, and can be copied as it lies. */
export interface SweptStore extends BlobStore {
	/** The directory whose disk it fills; null: it is somewhere else. */
	readonly disk: string | null;
	/** From now on this installation's alone: another one would sweep what it does not know. @throws StoreRefused */
	claim(installation: string): Promise<void>;
	/** Everything stored. */
	digests(): Iterable<Digest>;
	/** Blobs that the collection found unwanted, with the wall time of that in ms. */
	readonly marks: Map<Digest, number>;
	/** Makes `marks` durable. */
	saveMarks(): Promise<void>;
	/** Learns what others that share the store did. */
	refresh(): Promise<void>;
	/** Merges small packs once there are many, so that opening the store stays quick. */
	compact(): Promise<void>;
	/** The same digests in the order in which reading them is quickest. */
	inOrder(digests: Iterable<Digest>): Digest[];
	/** The blob as it is stored, verified. @throws BlobMissing, BlobCorrupt */
	readStored(digest: Digest): Promise<EncodedBlob>;
	/** Stores blobs that `readStored` of another store gave, and whoever calls verified. @throws StoreFull */
	writeStored(blobs: readonly EncodedBlob[]): Promise<void>;
	close(): Promise<void>;
}

export class BlobMissing extends Error {
	readonly code = 'blob_missing';
	readonly digest: Digest;
	constructor(digest: Digest, options?: ErrorOptions) {
		super(`blob ${digest} is not in this store`, options);
		this.digest = digest;
	}
}

export class BlobCorrupt extends Error {
	readonly code = 'blob_corrupt';
	readonly digest: Digest;
	constructor(digest: Digest, options?: ErrorOptions) {
		super(`blob ${digest} as it is stored does not have that digest: it was truncated or changed`, options);
		this.digest = digest;
	}
}

export class StoreFull extends Error {
	readonly code = 'store_full';
}

/** The store did not answer, or not in time: nothing that was asked of it is to be relied on. */
export class StoreUnavailable extends Error {
	readonly code = 'store_unavailable';
}

/** The store answers, and says no: credentials, rights, a bucket that is not there. */
export class StoreRefused extends Error {
	readonly code = 'store_refused';
}

/** The store said that it has something, and then it had not, or had something else. */
export class StoreUnfaithful extends Error {
	readonly code = 'store_unfaithful';
}

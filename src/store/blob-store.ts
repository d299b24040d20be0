import type { Digest } from '#digest/digest.ts';

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
		super(`blob ${digest} on disk does not have that digest: it was truncated or changed`, options);
		this.digest = digest;
	}
}

export class StoreFull extends Error {
	readonly code = 'store_full';
}

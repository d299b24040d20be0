import type { Digest } from '#digest/digest.ts';

/** Digests as PostgreSQL holds them: 32 bytes each, lists one after the other. Thousands of them as text would cost milliseconds. */
const DIGEST_BYTES = 32;
const PREFIX = 'sha256:';

export function packDigests(digests: readonly Digest[]): Buffer {
	const packed = Buffer.alloc(digests.length * DIGEST_BYTES);
	digests.forEach((digest, i) => packed.write(digest.slice(PREFIX.length), i * DIGEST_BYTES, 'hex'));
	return packed;
}

export function unpackDigests(packed: Buffer): Digest[] {
	const hex = packed.toString('hex');
	return Array.from({ length: packed.length / DIGEST_BYTES }, (_, i): Digest => `sha256:${hex.slice(i * 64, (i + 1) * 64)}`);
}

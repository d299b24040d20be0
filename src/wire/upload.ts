import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { sha256, type Digest } from '#digest/digest.ts';

/**
 * The body of a deploy request and of a batch of blobs (`application/vnd.jibe.upload`): a zstd frame of
 * `u32 length of header | header JSON | blobs, one after the other`; the header's `blobs` gives their sizes in order.
 * The digests are computed by the receiver, so a tampered blob is simply another blob.
 * This file is on the CLI's deploy path: it imports no validator.
 */
export const UPLOAD_TYPE = 'application/vnd.jibe.upload';
/** Above this the CLI asks first which blobs are missing. */
export const INLINE_LIMIT_BYTES = 1024 * 1024;
export const MAX_UPLOAD_BYTES = 64 * 1024 * 1024;
const MAX_HEADER_BYTES = 32 * 1024 * 1024;
const MAX_BLOBS = 200_000;

export class UploadError extends Error {
	readonly code = 'bad_upload';
}

export function encodeUpload(header: object, blobs: readonly Uint8Array[]): Buffer {
	const json = Buffer.from(JSON.stringify({ ...header, blobs: blobs.map((blob) => blob.length) }));
	const length = Buffer.alloc(4);
	length.writeUInt32LE(json.length);
	return zstdCompressSync(Buffer.concat([length, json, ...blobs]));
}

/** @throws UploadError when the body is not what `encodeUpload` makes, or decompresses to more than the limit. */
export function decodeUpload(body: Uint8Array): { header: Record<string, unknown>; blobs: Map<Digest, Buffer> } {
	const raw = inflate(body);
	if (raw.length < 4) throw new UploadError('the upload is shorter than its own length field');
	const headerBytes = raw.readUInt32LE(0);
	if (headerBytes > MAX_HEADER_BYTES || 4 + headerBytes > raw.length) throw new UploadError('the upload is cut short within its header');
	const header = parseHeader(raw.subarray(4, 4 + headerBytes).toString());
	const blobs = new Map<Digest, Buffer>();
	let at = 4 + headerBytes;
	for (const size of header.sizes) {
		if (at + size > raw.length) throw new UploadError('the upload is cut short within a blob');
		const blob = raw.subarray(at, at + size);
		blobs.set(sha256(blob), blob);
		at += size;
	}
	if (at !== raw.length) throw new UploadError('the upload has bytes after its last blob');
	return { header: header.fields, blobs };
}

function inflate(body: Uint8Array): Buffer {
	try {
		return zstdDecompressSync(body, { maxOutputLength: MAX_UPLOAD_BYTES + MAX_HEADER_BYTES });
	} catch (cause) {
		throw new UploadError('the upload is not a zstd frame, or unpacks to more than 96 MiB', { cause });
	}
}

function parseHeader(json: string): { fields: Record<string, unknown>; sizes: number[] } {
	let value: unknown;
	try {
		value = JSON.parse(json);
	} catch (cause) {
		throw new UploadError('the header of the upload is not JSON', { cause });
	}
	if (typeof value !== 'object' || value === null || !('blobs' in value))
		throw new UploadError('the header of the upload has no list of blobs');
	const { blobs: sizes, ...fields } = value;
	if (!Array.isArray(sizes) || sizes.length > MAX_BLOBS || !sizes.every((size) => Number.isSafeInteger(size) && size >= 0)) {
		throw new UploadError('the sizes of the blobs in the header of the upload are not numbers of bytes');
	}
	return { fields, sizes: sizes as number[] };
}

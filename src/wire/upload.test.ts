import assert from 'node:assert/strict';
import { test } from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { sha256 } from '#digest/digest.ts';
import { decodeUpload, encodeUpload, MAX_UPLOAD_BYTES, UploadError } from './upload.ts';

test('what goes in comes out, under its own digests', () => {
	fc.assert(
		fc.property(
			fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), fc.integer()),
			fc.array(fc.uint8Array({ maxLength: 300 })),
			(fields, blobs) => {
				delete fields['blobs'];
				const { header, blobs: found } = decodeUpload(encodeUpload(fields, blobs));
				assert.deepEqual(header, { ...fields });
				assert.deepEqual(new Set(found.keys()), new Set(blobs.map((blob) => sha256(blob))));
				for (const blob of blobs) assert.deepEqual(found.get(sha256(blob)), Buffer.from(blob));
			},
		),
	);
});

test('every truncation and every changed byte is refused, or is another upload', () => {
	const body = encodeUpload({ environment: 'production' }, [Buffer.from('one'), Buffer.from('two')]);
	for (let length = 0; length < body.length; length++) assert.throws(() => decodeUpload(body.subarray(0, length)), UploadError);
	for (let at = 0; at < body.length; at++) {
		const changed = Buffer.from(body);
		changed[at]! ^= 0x41;
		try {
			decodeUpload(changed);
		} catch (error) {
			assert(error instanceof UploadError, String(error));
		}
	}
});

function frame(json: string, rest = ''): Buffer {
	const length = Buffer.alloc(4);
	length.writeUInt32LE(Buffer.byteLength(json));
	return zstdCompressSync(Buffer.concat([length, Buffer.from(json), Buffer.from(rest)]));
}

test('a header that lies is refused with what is wrong', () => {
	const refused = (body: Buffer, message: RegExp) =>
		assert.throws(() => decodeUpload(body), { name: 'Error', code: 'bad_upload', message });
	refused(zstdCompressSync(Buffer.from('abc')), /shorter than its own length field/);
	refused(zstdCompressSync(Buffer.from([255, 255, 255, 255, 1])), /cut short within its header/);
	refused(frame('not json'), /is not JSON/);
	refused(frame('{}'), /no list of blobs/);
	refused(frame('{"blobs":[-1]}'), /not numbers of bytes/);
	refused(frame('{"blobs":[4]}', 'abc'), /cut short within a blob/);
	refused(frame('{"blobs":[2]}', 'abc'), /after its last blob/);
	refused(Buffer.from('plain'), /not a zstd frame/);
});

test('a bomb is stopped at the limit, not unpacked', () => {
	assert.throws(() => decodeUpload(zstdCompressSync(Buffer.alloc(MAX_UPLOAD_BYTES * 2))), UploadError);
});

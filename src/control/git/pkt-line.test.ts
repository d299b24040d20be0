import assert from 'node:assert/strict';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';
import fc from 'fast-check';
import { FLUSH, onBand, PktError, pktLine, PktReader } from './pkt-line.ts';

const LIMIT = 256 * 1024;
const line = fc.uint8Array({ minLength: 1, maxLength: 300 });
const cuts = fc.array(fc.integer({ min: 1, max: 64 }), { minLength: 1, maxLength: 8 });

test('a section comes out as it went in, however the network cut it, and what is behind it stays whole', async () => {
	await fc.assert(
		fc.asyncProperty(fc.array(line, { maxLength: 20 }), fc.uint8Array({ maxLength: 500 }), cuts, async (lines, behind, sizes) => {
			const bytes = Buffer.concat([...lines.map((one) => pktLine(one)), Buffer.from(FLUSH), behind]);
			const reader = new PktReader(inParts(bytes, sizes), LIMIT);
			assert.deepEqual(
				await reader.section(),
				lines.map((one) => Buffer.from(one)),
			);
			assert.deepEqual(await buffer(reader.rest()), Buffer.from(behind));
		}),
		{ numRuns: 200 },
	);
});

test('whatever is cut off is no section', async () => {
	const whole = Buffer.concat([pktLine('one'), pktLine('two'), Buffer.from(FLUSH)]);
	assert.equal(await new PktReader(inParts(Buffer.alloc(0), [1]), LIMIT).section(), null);
	for (let length = 1; length < whole.length; length++)
		await assert.rejects(new PktReader(inParts(whole.subarray(0, length), [3]), LIMIT).section(), PktError, `${length} bytes`);
});

test('any bytes are read or refused, and never anything else', async () => {
	await fc.assert(
		fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), cuts, async (bytes, sizes) => {
			try {
				await new PktReader(inParts(Buffer.from(bytes), sizes), LIMIT).section();
			} catch (error) {
				assert.ok(error instanceof PktError);
			}
		}),
		{ numRuns: 300 },
	);
});

test('more than the limit is not held', async () => {
	const reader = new PktReader(inParts(Buffer.concat([pktLine('x'.repeat(60)), pktLine('x'.repeat(60))]), [64]), 100);
	await assert.rejects(reader.section(), /more than 100 bytes/);
});

test('a band has all of its bytes, in packets that git takes', async () => {
	await fc.assert(
		fc.asyncProperty(fc.integer({ min: 0, max: 200_000 }), fc.constantFrom(1, 2, 3), async (length, band) => {
			const text = Buffer.alloc(length, 'jibe');
			const lines = await new PktReader(inParts(Buffer.concat([onBand(band, text), Buffer.from(FLUSH)]), [60_000]), 1e6).section();
			assert.ok(lines!.every((one) => one[0] === band && one.length + 4 <= 65_520));
			assert.deepEqual(Buffer.concat(lines!.map((one) => one.subarray(1))), text);
		}),
		{ numRuns: 50 },
	);
});

async function* inParts(bytes: Buffer, sizes: readonly number[]): AsyncGenerator<Buffer> {
	for (let at = 0, n = 0; at < bytes.length; n++) {
		const size = sizes[n % sizes.length]!;
		yield bytes.subarray(at, at + size);
		at += size;
	}
}

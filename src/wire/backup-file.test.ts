import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
	BackupError,
	BackupParser,
	BackupWriter,
	checkProof,
	fileKey,
	proofOf,
	RECORD,
	Seal,
	type BackupRecord,
	type RecordKind,
} from './backup-file.ts';
import { readHeader } from './backup-header.ts';

const KEY = Buffer.alloc(32, 7);
const HEADER = { format: 1, words: 'of the header' };
const BODY: [RecordKind, Buffer][] = [
	[RECORD.installation, Buffer.from('{"id":"x"}')],
	[RECORD.rows, Buffer.from('rows')],
	[RECORD.pack, Buffer.alloc(0)],
	[RECORD.pack, Buffer.alloc(1000, 'pack')],
	[RECORD.end, Buffer.from('{}')],
];

function write(body: readonly [RecordKind, Buffer][], key: Buffer | null): Buffer {
	const writer = new BackupWriter();
	return Buffer.concat([...writer.begin(HEADER, key), ...body.flatMap(([kind, payload]) => writer.record(kind, payload))]);
}

/** As it would be read: the header opens the rest. */
function read(file: Buffer, key: Buffer | null, pieceBytes = file.length): [RecordKind, Buffer][] {
	const parser = new BackupParser();
	const records: BackupRecord[] = [];
	for (let at = 0; at < file.length; at += pieceBytes) records.push(...parser.push(file.subarray(at, at + pieceBytes)));
	parser.finish();
	const [header, ...rest] = records;
	assert.deepEqual(JSON.parse(header!.payload.toString()), HEADER);
	const seal = key && Seal.of(key, header!.payload);
	return rest.map((record) => [record.kind, seal ? seal.open(record) : Buffer.from(record.payload)]);
}

for (const [name, key] of [
	['plain', null],
	['sealed', KEY],
] as const) {
	describe(name, () => {
		test('property: records come back, however the bytes are cut', () => {
			const kind = fc.constantFrom(RECORD.installation, RECORD.table, RECORD.rows, RECORD.blobs, RECORD.pack);
			const record = fc.tuple(kind, fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes))); // prettier-ignore
			fc.assert(
				fc.property(fc.array(record, { maxLength: 10 }), fc.integer({ min: 1, max: 400 }), (body, pieceBytes) => {
					const whole = [...body, [RECORD.end, Buffer.alloc(0)] as [RecordKind, Buffer]];
					assert.deepEqual(read(write(whole, key), key, pieceBytes), whole);
				}),
				{ numRuns: 100 },
			);
		});

		test('cut short anywhere: refused, and the place is named', () => {
			const file = write(BODY, key);
			for (let bytes = 0; bytes < file.length; bytes++) {
				assert.throws(() => read(file.subarray(0, bytes), key, 64), (error) => {
					assert.ok(error instanceof BackupError);
					assert.equal(error.code, 'backup_truncated', `at ${bytes}`);
					assert.match(error.message, new RegExp(`at byte ${bytes},`));
					return true;
				}); // prettier-ignore
			}
		});

		test('any byte changed: refused', () => {
			const file = write(BODY, key);
			for (let at = 0; at < file.length; at++) {
				const changed = Buffer.from(file);
				changed[at]! ^= 0x10;
				assert.throws(() => read(changed, key), BackupError, `byte ${at}`);
			}
		});

		test('a record left out, moved, or added at the end: refused', () => {
			const file = write(BODY, key);
			const parser = new BackupParser();
			const places = [...parser.push(file)].map(({ at }) => at);
			const [from, to] = [places[2]!, places[3]!];
			const without = Buffer.concat([file.subarray(0, from), file.subarray(to)]);
			assert.throws(() => read(without, key), { code: 'backup_damaged', message: new RegExp(`at byte ${from}, in record 3`) });
			assert.throws(() => read(Buffer.concat([file, file.subarray(to)]), key), { code: 'backup_damaged', message: /after its end/ });
		});
	});
}

test('who has no key can make a chain of digests, but no seal', () => {
	const others = write(BODY, Buffer.alloc(32, 8));
	assert.equal(read(others, null).length, BODY.length);
	assert.throws(() => read(others, KEY), { code: 'backup_damaged', message: /its seal is broken/ });
});

test('nothing of what is sealed can be read in the file', () => {
	assert.ok(write(BODY, null).includes('"id"'));
	assert.ok(!write(BODY, KEY).includes('"id"'));
	const salts = [randomBytes(32), randomBytes(32)].map((salt) => salt.toString('base64'));
	assert.notDeepEqual(fileKey(KEY, salts[0]!), fileKey(KEY, salts[1]!), 'each file has a key of its own');
});

test('a wrong passphrase is told from a damaged file', () => {
	const note = { kdf: { name: 'scrypt', cost: 2, blockSize: 1, parallelization: 1, salt: '' }, fileSalt: '', proof: proofOf(KEY) } as const;
	checkProof(KEY, note);
	assert.throws(() => checkProof(Buffer.alloc(32), note), { code: 'backup_passphrase' });
});

test('what is no backup, and one of a later format', () => {
	assert.throws(() => read(Buffer.from('PK\x03\x04 something else'), null), { code: 'backup_unreadable' });
	assert.throws(() => readHeader(Buffer.from('{"format":2,"version":"3.1.0"}')), { code: 'backup_newer', message: /3\.1\.0/ });
	assert.throws(() => readHeader(Buffer.from('{"format":1}')), { code: 'backup_unreadable' });
	assert.throws(() => readHeader(Buffer.from('nothing')), { code: 'backup_unreadable' });
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { canonicalJson, compareUtf8, isDigest, randomId, randomSecret, sha256, sha256Aside } from './digest.ts';

test('sha256 of known bytes', () => {
	assert.equal(sha256(''), 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855');
	assert.equal(sha256('abc'), 'sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
	assert.equal(sha256(new Uint8Array([0x61, 0x62, 0x63])), sha256('abc'));
});

test('on another thread it is the same', async () => {
	for (const data of [Buffer.alloc(0), Buffer.from('abc'), Buffer.alloc(3_000_000, 'x').subarray(7)]) {
		assert.equal(await sha256Aside(data), sha256(data));
	}
});

test('a digest is exactly sha256: and 64 lower-case hex digits', () => {
	assert.ok(isDigest(sha256('x')));
	for (const wrong of ['', 'sha256:', sha256('x').toUpperCase(), `${sha256('x')}0`, `${sha256('x')}\n`, sha256('x').slice(7)]) {
		assert.ok(!isDigest(wrong), wrong);
	}
});

test('strings compare as their UTF-8 bytes do', () => {
	const text = fc.string({ unit: 'binary' });
	fc.assert(fc.property(text, text, (a, b) => assert.equal(Math.sign(compareUtf8(a, b)), Buffer.compare(Buffer.from(a), Buffer.from(b)))));
	// Where UTF-16 order is another one: U+FF5E before U+1F600.
	assert.ok(compareUtf8('\uff5e', '\u{1f600}') < 0);
});

test('equal values have equal canonical JSON, whatever the order of their keys', () => {
	const noProto = fc.jsonValue().filter((value) => !JSON.stringify(value).includes('__proto__'));
	fc.assert(
		fc.property(noProto, (value) => {
			assert.deepEqual(JSON.parse(canonicalJson(value)), JSON.parse(JSON.stringify(value)));
			assert.equal(canonicalJson(reversed(value)), canonicalJson(value));
		}),
	);
	assert.equal(canonicalJson({ b: 1, a: [undefined, { d: undefined, c: 'é' }] }), '{"a":[null,{"c":"é"}],"b":1}');
});

test('random ids keep to their alphabet and length', () => {
	assert.match(randomId(), /^[0-9a-hjkmnp-tv-z]{8}$/);
	assert.match(randomId(26), /^[0-9a-hjkmnp-tv-z]{26}$/);
	assert.equal(Buffer.from(randomSecret(), 'base64url').length, 32);
	assert.equal(new Set(Array.from({ length: 1000 }, () => randomId(12))).size, 1000);
});

function reversed(value: unknown): unknown {
	if (Array.isArray(value)) return value.map(reversed);
	if (typeof value !== 'object' || value === null) return value;
	return Object.fromEntries(
		Object.entries(value)
			.reverse()
			.map(([key, member]) => [key, reversed(member)]),
	);
}

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MIN_SCRUBBED_CHARACTERS, scrubber } from './scrub.ts';

const URL_VALUE = 'postgres://notes:p@ss/wörd hunter22@db.internal/notes';
const scrub = scrubber([{ name: 'DATABASE_URL', value: URL_VALUE }]);

test('a value is taken out however it is written', () => {
	const forms = [
		URL_VALUE,
		JSON.stringify({ url: URL_VALUE }),
		encodeURIComponent(URL_VALUE),
		encodeURIComponent(URL_VALUE).toLowerCase(),
		new URLSearchParams({ url: URL_VALUE }).toString(),
		Buffer.from(URL_VALUE).toString('base64'),
		Buffer.from(URL_VALUE).toString('base64url'),
		Buffer.from(URL_VALUE).toString('hex'),
	];
	for (const form of forms) assert.match(scrub(`connecting with ${form} now`), /\[secret DATABASE_URL\]/, form);
	for (const form of forms) assert.doesNotMatch(scrub(form), /hunter22|aHVudGVy|68756e7465/i, form);
});

test('base64 of more than the value hides it as well, wherever it begins', () => {
	fc.assert(
		fc.property(fc.string({ minLength: MIN_SCRUBBED_CHARACTERS + 3 }), fc.string({ maxLength: 5 }), fc.string({ maxLength: 5 }), (value, before, after) => {
			const one = scrubber([{ name: 'A', value }]);
			const text = Buffer.from(before + value + after).toString('base64');
			assert.match(one(text), /\[secret A\]/);
		}),
	); // prettier-ignore
});

test('the password of an address is one by itself; a value of many lines in each of them', () => {
	const one = scrubber([
		{ name: 'REDIS_URL', value: 'redis://:s3cr3tpass@cache:6379' },
		{
			name: 'KEY',
			value: '-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END PRIVATE KEY-----\n',
		},
	]);
	assert.equal(one('wrong password s3cr3tpass'), 'wrong password [secret REDIS_URL]');
	assert.equal(one('MIIEvQIBADANBgkqhkiG9w0BAQEFAASC'), '[secret KEY]');
	assert.doesNotMatch(one(JSON.stringify({ key: 'MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj' })), /MIIE|BKcw/);
});

test('tokens of known kinds go, whose they ever are; other words stay', () => {
	const none = scrubber([]);
	for (const token of [`ghp_${'a1'.repeat(18)}`, 'AKIAIOSFODNN7EXAMPLE', `jibe_0123456789_${'x'.repeat(43)}`, `eyJ${'a'.repeat(20)}.eyJ${'b'.repeat(20)}.${'c'.repeat(20)}`])
		assert.equal(none(`token=${token};`), 'token=[token];'); // prettier-ignore
	for (const line of ['GET /notes 200', 'sk-short', 'monkeyJAR.eyJ', 'npm_config_cache=/tmp']) assert.equal(none(line), line);
});

test('a short value is left, and a very long one is looked for in pieces', () => {
	assert.equal(scrubber([{ name: 'FLAG', value: 'on' }])('on and on'), 'on and on');
	const long = Buffer.alloc(60_000, 'abcdefghijklmnopqrstuvw').toString();
	const one = scrubber([{ name: 'LONG', value: long }]);
	assert.ok(one.holdCharacters < 1_000);
	assert.doesNotMatch(one(`<${long}>`), /abcdefghijklmnopqrstuvw/);
});

test('a hostile line takes no more than its length to scrub', () => {
	assert.equal(scrubber([])('eyJ-'.repeat(16_000)).length, 64_000);
});

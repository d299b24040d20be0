import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { newKey } from './certificate.ts';
import { checkInText, formatJoinString, isProven, joinText, prove, readJoinString } from './join.ts';

const FINGERPRINT = `sha256/${'A'.repeat(43)}=`;
const string = fc.record(
	{
		addresses: fc.array(
			fc.tuple(fc.ipV4(), fc.integer({ min: 1, max: 65_535 })).map(([host, port]) => `https://${host}:${port}`),
			{
				minLength: 1,
				maxLength: 4,
			},
		),
		fingerprint: fc.constant(FINGERPRINT),
		token: fc.base64String({ minLength: 24, maxLength: 48 }),
	},
	{ noNullPrototype: true },
);

test('a join string is read as it was written, and nothing that is cut off it is one', () => {
	fc.assert(
		fc.property(string, fc.nat(), (of, at) => {
			const text = formatJoinString(of);
			assert.deepEqual(readJoinString(text), of);
			assert.match(text, /^jibe1\.[A-Za-z0-9_-]+$/);
			assert.equal(readJoinString(text.slice(0, at % text.length)), null);
		}),
	);
});

test('what is no join string is none', () => {
	const of = { addresses: ['https://10.0.0.1:7443'], fingerprint: FINGERPRINT, token: 'a'.repeat(43) };
	const wrong = [
		'',
		'jibe1.',
		`jibe2.${formatJoinString(of).slice(6)}`,
		formatJoinString({ ...of, addresses: [] }),
		formatJoinString({ ...of, addresses: ['http://10.0.0.1:7443'] }),
		formatJoinString({ ...of, fingerprint: 'sha256/short' }),
		formatJoinString({ ...of, token: '' }),
		`jibe1.${'a'.repeat(10_000)}`,
	];
	for (const text of wrong) assert.equal(readJoinString(text), null, text.slice(0, 80));
});

test('a proof is of one text by one key', () => {
	const { privatePem, publicKey } = newKey();
	const of = { server: 'web-1', publicKey: 'pem', ticket: 'a', next: 'b', renew: true };
	const text = checkInText('here', of);
	const proof = prove(text, privatePem);
	assert.equal(isProven(text, publicKey, proof), true);
	for (const other of [checkInText('there', of), checkInText('here', { ...of, next: 'c' }), checkInText('here', { ...of, renew: false })]) {
		assert.equal(isProven(other, publicKey, proof), false);
	}
	assert.equal(isProven(text, newKey().publicKey, proof), false);
	assert.equal(isProven(text, publicKey, ''), false);
	assert.notEqual(joinText({ token: 't', name: 'web-1', publicKey: 'pem' }), joinText({ token: 't', name: 'web-2', publicKey: 'pem' }));
});

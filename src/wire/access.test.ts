import assert from 'node:assert/strict';
import { test } from 'node:test';
import { issueAccess, readAccess } from './access.ts';
import { newSigningKey, signText } from './credential.ts';

const key = newSigningKey();
const access = { deployment: 'dpl_7m4k92xy', expires: 1_000 };

test('an access is read back until it expires', () => {
	const text = issueAccess(access, key.privatePem);
	assert.deepEqual(readAccess(text, key.publicPem, 999_999), { kind: 'access', ...access });
	assert.equal(readAccess(text, key.publicPem, 1_000_000), null);
});

test('what this installation did not sign as an access is none', () => {
	const other = newSigningKey();
	const signed = (value: unknown): string => signText(typeof value === 'string' ? value : JSON.stringify(value), key.privatePem);
	const texts = [
		issueAccess(access, other.privatePem),
		signed(access),
		signed({ ...access, kind: 'session' }),
		signed({ kind: 'access', deployment: '7m4k92xy', expires: 1_000 }),
		signed('no json'),
		'',
		'a.b',
		`${issueAccess(access, key.privatePem)}x`,
	];
	for (const text of texts) assert.equal(readAccess(text, key.publicPem, 0), null, text);
});

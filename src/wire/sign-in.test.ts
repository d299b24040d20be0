import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CODE_LETTERS, newToken, signInCode, tokenIdOf } from './sign-in.ts';

test('a token names its id, and what has not the form of one names none', () => {
	const { id, secret } = newToken();
	assert.equal(tokenIdOf(secret), id);
	for (const other of ['', 'jibe_', `${secret}x`, ` ${secret}`, secret.slice(0, -1), secret.replace('jibe', 'JIBE')])
		assert.equal(tokenIdOf(other), null, other);
});

test('a code is read as people type it; its letters are not taken for others', () => {
	for (const text of ['BCDF-GHJK', 'bcdfghjk', ' bcdf ghjk ', 'BCDF–GHJK']) assert.equal(signInCode.parse(text), 'BCDFGHJK');
	for (const text of ['', 'BCDF-GHJ', 'BCDF-GHJKL', 'B'.repeat(41)]) assert.equal(signInCode.safeParse(text).success, false, text);
	assert.doesNotMatch(CODE_LETTERS, /[AEIOUY]/);
});

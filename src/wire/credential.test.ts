import assert from 'node:assert/strict';
import { test } from 'node:test';
import { issueCredential, newSigningKey, readCredential, readSigned, signText, type Claims } from './credential.ts';

const NOW_MS = 1_800_000_000_000;
const CLAIMS: Claims = { installation: 'abc', role: 'agent', server: 'local', regions: ['fra'], expires: NOW_MS / 1000 + 60 };

test('a credential tells who its holder is', () => {
	const { privatePem, publicPem } = newSigningKey();
	assert.deepEqual(readCredential(issueCredential(CLAIMS, privatePem), publicPem, NOW_MS), CLAIMS);
});

test('a credential that is expired, foreign, changed or none is refused', () => {
	const { privatePem, publicPem } = newSigningKey();
	const good = issueCredential(CLAIMS, privatePem);
	const [body, signature] = good.split('.') as [string, string];
	const grown = Buffer.from(JSON.stringify({ ...CLAIMS, role: 'depot' })).toString('base64url');
	assert.equal(readCredential(good, publicPem, NOW_MS + 61_000), null);
	assert.equal(readCredential(good, newSigningKey().publicPem, NOW_MS), null);
	for (const wrong of [
		'',
		'.',
		body,
		`${body}.`,
		`${grown}.${signature}`,
		`${good}.x`,
		`${body}.${signature.slice(0, -4)}`,
		'x'.repeat(10_000),
	]) {
		assert.equal(readCredential(wrong, publicPem, NOW_MS), null, wrong.slice(0, 60));
	}
	assert.equal(readCredential(signText('not JSON', privatePem), publicPem, NOW_MS), null);
	assert.equal(readCredential(signText(JSON.stringify({ ...CLAIMS, regions: [] }), privatePem), publicPem, NOW_MS), null);
});

test('any text can be signed', () => {
	const { privatePem, publicPem } = newSigningKey();
	assert.equal(readSigned(signText('dpl_7m4k92xy öäü', privatePem), publicPem), 'dpl_7m4k92xy öäü');
});

import assert from 'node:assert/strict';
import { createPrivateKey } from 'node:crypto';
import { test } from 'node:test';
import { newSigningKey } from './credential.ts';
import { newExchangeKey, openSecrets, sealSecrets, secretsText, UnsealFailed } from './secrets.ts';

const { privatePem, publicPem } = newSigningKey();
const ASKED = { server: 'one', app: 'notes', environment: 'production', release: 3 };
const SECRETS = [{ name: 'DATABASE_URL', version: 2, value: 'postgres://u:hunter22@db/notes' }];

test('whoever asked opens what control sealed', () => {
	const { key, privateKey } = newExchangeKey();
	const text = secretsText('here', { ...ASKED, key });
	const answer = sealSecrets(text, key, SECRETS, createPrivateKey(privatePem));
	assert.doesNotMatch(JSON.stringify(answer), /hunter22/);
	assert.deepEqual(openSecrets(text, privateKey, answer, publicPem), SECRETS);
});

test('an answer to another question, from another installation, or changed on the way is refused', () => {
	const { key, privateKey } = newExchangeKey();
	const text = secretsText('here', { ...ASKED, key });
	const answer = sealSecrets(text, key, SECRETS, createPrivateKey(privatePem));
	const other = secretsText('here', { ...ASKED, release: 4, key });
	assert.throws(() => openSecrets(other, privateKey, answer, publicPem), UnsealFailed);
	assert.throws(() => openSecrets(text, privateKey, answer, newSigningKey().publicPem), UnsealFailed);
	const forged = sealSecrets(text, key, [{ ...SECRETS[0]!, value: 'postgres://evil' }], createPrivateKey(newSigningKey().privatePem));
	assert.throws(() => openSecrets(text, privateKey, forged, publicPem), UnsealFailed);
	assert.throws(() => openSecrets(text, privateKey, { ...answer, box: answer.box.replace(/^..../, 'AAAA') }, publicPem), UnsealFailed);
	assert.throws(() => openSecrets(text, privateKey, { error: { code: 'x' } }, publicPem), UnsealFailed);
	// A depot that keeps the answer has no key for it.
	assert.throws(() => openSecrets(text, newExchangeKey().privateKey, answer, publicPem));
});

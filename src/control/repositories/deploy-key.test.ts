import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { deployKeyOf, newDeployKey } from './deploy-key.ts';

const noSsh = spawnSync('ssh-keygen', ['-?']).error ? 'no ssh-keygen' : false;

test('OpenSSH finds the same public key in a private one that was made here', { skip: noSsh }, () => {
	const made = newDeployKey(generateKeyPairSync('ed25519').privateKey, 'jibe-notes');
	const directory = mkdtempSync(join(tmpdir(), 'jibe-key-'));
	try {
		const file = join(directory, 'key');
		writeFileSync(file, made.privateKey, { mode: 0o600 });
		assert.equal(spawnSync('ssh-keygen', ['-y', '-f', file]).stdout.toString().trim(), made.publicKey);
	} finally {
		rmSync(directory, { recursive: true });
	}
});

test('its public half is found again; of others nothing is said', () => {
	const made = newDeployKey(generateKeyPairSync('ed25519').privateKey, 'jibe-notes');
	assert.equal(`${deployKeyOf(made.privateKey)} jibe-notes`, made.publicKey);
	assert.equal(deployKeyOf('-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----'), null);
});

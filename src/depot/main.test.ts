import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { issueCredential, newSigningKey } from '#wire/credential.ts';

test('the program says that it is ready, keeps a pid file while it runs, and ends on SIGTERM, control or no control', async (t) => {
	const data = mkdtempSync(join(tmpdir(), 'jibe-depot-main-'));
	t.after(() => rmSync(data, { recursive: true }));
	const { privatePem, publicPem: publicKey } = newSigningKey();
	const claims = { installation: 'here', role: 'depot' as const, server: 'local', regions: ['fra'], expires: 4_000_000_000 };
	const credentialFile = join(data, 'depot.json');
	writeFileSync(credentialFile, JSON.stringify({ credential: issueCredential(claims, privatePem), publicKey, installation: 'here' }));
	const depotSocket = join(data, 'd.sock');
	const settings = { data, name: 'depot', regions: ['fra'], upstreams: ['http://127.0.0.1:9'], depotSocket, credentialFile };
	const program = spawn(process.execPath, [join(import.meta.dirname, '../../scripts/program.ts'), 'depot', data], {
		env: { ...process.env, JIBE_PROGRAM: JSON.stringify(settings) },
		stdio: ['ignore', 'pipe', 'ignore'],
	});
	t.after(() => program.kill('SIGKILL'));
	const [said] = (await once(program.stdout, 'data')) as [Buffer];
	assert.equal(said.toString(), 'ready\n');
	assert.ok(statSync(depotSocket).isSocket());
	assert.ok(existsSync(join(data, 'pids/depot.json')));
	program.kill('SIGTERM');
	assert.deepEqual(await once(program, 'exit'), [0, null]);
	assert.ok(!existsSync(join(data, 'pids/depot.json')));
});

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { systemClock } from '#clock/clock.ts';
import { joinControl } from '#cli/joining.ts';
import { fingerprintOf, issueCertificate, newAuthority, newKey } from '#wire/certificate.ts';
import { startControl, type TestControl } from './fixtures/control.ts';
import { startCluster, type TestCluster } from './fixtures/database.ts';

const COMMAND = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url));

let cluster: TestCluster;
let home: string;
before(async () => {
	cluster = await startCluster();
	home = mkdtempSync(join(tmpdir(), 'jibe-home-'));
	process.env['XDG_CACHE_HOME'] = join(home, 'cache');
});
after(async () => {
	await cluster.stop();
	rmSync(home, { recursive: true });
});

/** The command on a machine that knows no Jibe yet. */
async function jibe(words: string[], of: { input?: string; env?: Record<string, string> } = {}) {
	const env = { PATH: process.env['PATH'] ?? '', HOME: home, XDG_CONFIG_HOME: home, XDG_CACHE_HOME: join(home, 'cache'), ...of.env };
	const child = spawn(process.execPath, [COMMAND, ...words, '--json'], { env, stdio: ['pipe', 'pipe', 'pipe'] });
	let [out, err] = ['', ''];
	child.stdout.on('data', (text: Buffer) => (out += text.toString()));
	child.stderr.on('data', (text: Buffer) => (err += text.toString()));
	child.stdin.end(of.input ?? '');
	const [code] = (await once(child, 'close')) as [number | null];
	const last = out.trimEnd().split('\n').at(-1) ?? '';
	return { code, err, json: (last.startsWith('{') ? JSON.parse(last) : null) as Record<string, unknown> | null };
}

function codeOf(json: Record<string, unknown> | null): unknown {
	return (json?.['error'] as { code?: string } | undefined)?.code;
}

async function listening(t: TestContext, more: { certFile?: string; keyFile?: string } = {}): Promise<TestControl> {
	return startControl(t, cluster, { regions: [], tls: { host: '127.0.0.1', port: 0, ...more } });
}

test('login pins the CA that the URL names, remembers it with the token, and every verb goes there over TLS', async (t) => {
	const house = await listening(t);
	const [address = ''] = house.control.addresses;
	const pin = fingerprintOf(house.control.house.installation.ca.certificate);
	const login = await jibe(['login', `${address}#${pin}`], { input: `${house.admin}\n` });
	assert.equal(login.code, 0, login.err);
	const file = join(home, 'jibe', 'login.json');
	assert.equal(statSync(file).mode & 0o077, 0);
	assert.match((JSON.parse(readFileSync(file, 'utf8')) as { ca: string }).ca, /BEGIN CERTIFICATE/);
	const tokens = await jibe(['token', 'list']);
	assert.equal(tokens.code, 0, tokens.err);
	assert.equal((tokens.json?.['tokens'] as { name: string }[] | undefined)?.[0]?.name, 'admin');
	const invited = await jibe(['server', 'add', '--region', 'fra']);
	assert.match(String(invited.json?.['command']), /^jibe agent join jibe1\./);
	assert.match(String((await jibe(['open'])).json?.['url']), new RegExp(`^${address}/login`));
	const wrong = await jibe(['login', `${address}#${pin}`], { input: 'jibe_0000000000_nonsense\n' });
	assert.deepEqual([wrong.code, codeOf(wrong.json)], [5, 'unauthenticated']);
	rmSync(file);
	const named = await jibe(['server', 'list'], { env: { JIBE_SERVER: `${address}#${pin}`, JIBE_TOKEN: house.admin } });
	assert.deepEqual([named.code, named.json?.['servers']], [0, []], named.err);
});

test('a control that is not the one that was meant, or not known at all, is never sent the token', async (t) => {
	const house = await listening(t);
	const [address = ''] = house.control.addresses;
	const pin = fingerprintOf(house.control.house.installation.ca.certificate);
	const other = fingerprintOf(newAuthority('another', systemClock.now()).certificate);
	const wrong = await jibe(['login', `${address}#${other}`], { input: `${house.admin}\n` });
	assert.deepEqual([wrong.code, codeOf(wrong.json)], [2, 'wrong_control'], wrong.err);
	assert.ok(wrong.err.includes(pin) && wrong.err.includes(other));
	const unknown = await jibe(['login', address], { input: `${house.admin}\n` });
	assert.deepEqual([unknown.code, codeOf(unknown.json)], [2, 'not_trusted'], unknown.err);
	assert.ok(unknown.err.includes(`jibe login ${address}#${pin}`), unknown.err);
	const plain = await jibe(['login', 'http://192.0.2.1:7070'], { input: `${house.admin}\n` });
	assert.deepEqual([plain.code, codeOf(plain.json)], [2, 'usage']);
	const off = await jibe(['server', 'list'], { env: { JIBE_SERVER: 'http://192.0.2.1:7070', JIBE_TOKEN: house.admin } });
	assert.deepEqual([off.code, /for everybody to read/.test(off.err)], [2, true]);
});

test('with a public certificate people need no fingerprint, and servers still join by their own CA', async (t) => {
	const authority = newAuthority('public', systemClock.now());
	const { privatePem, publicKey } = newKey();
	const of = { commonName: 'localhost', publicKey, names: ['localhost'], notAfter: systemClock.now() + 3_600_000 };
	const [certFile, keyFile, caFile] = ['cert.pem', 'key.pem', 'ca.pem'].map((name) => join(home, name)) as [string, string, string];
	writeFileSync(certFile, issueCertificate(authority, of, systemClock.now()) + authority.certificate);
	writeFileSync(keyFile, privatePem);
	writeFileSync(caFile, authority.certificate);
	const house = await listening(t, { certFile, keyFile });
	const port = new URL(house.control.addresses[0] ?? '').port;
	const login = await jibe(['login', `https://localhost:${port}`], { input: house.admin, env: { NODE_EXTRA_CA_CERTS: caFile } });
	assert.equal(login.code, 0, login.err);
	const held = JSON.parse(readFileSync(join(home, 'jibe', 'login.json'), 'utf8')) as Record<string, unknown>;
	assert.deepEqual(Object.keys(held), ['url', 'token']);
	const json = { region: 'fra', roles: null, labels: [], name: null };
	const { join: text } = (await house.ask('POST', '/api/v1/servers/tokens', { json })).json<{ join: string }>();
	const data = join(home, 'server');
	const identity = await joinControl({ data, text, name: 'web-1', host: null, roles: null, region: null, edgePort: null });
	assert.equal(identity.server, 'web-1');
});

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { systemClock } from '#clock/clock.ts';
import { sha256 } from '#digest/digest.ts';
import { joinControl } from '#cli/joining.ts';
import type { Token } from '#wire/api.ts';
import { newToken } from '#wire/sign-in.ts';
import { fingerprintOf, issueCertificate, newAuthority, newKey } from '#wire/certificate.ts';
import { startControl, type TestControl } from './fixtures/control.ts';
import { startCluster, type TestCluster } from './fixtures/database.ts';
import { Terminal, noTerminal } from './fixtures/terminal.ts';

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
	const child = spawn(process.execPath, [COMMAND, ...words, '--json'], {
		env: { ...environment(), ...of.env },
		stdio: ['pipe', 'pipe', 'pipe'],
	});
	let [out, err] = ['', ''];
	child.stdout.on('data', (text: Buffer) => (out += text.toString()));
	child.stderr.on('data', (text: Buffer) => (err += text.toString()));
	child.stdin.end(of.input ?? '');
	const [code] = (await once(child, 'close')) as [number | null];
	const last = out.trimEnd().split('\n').at(-1) ?? '';
	return { code, err, json: (last.startsWith('{') ? JSON.parse(last) : null) as Record<string, unknown> | null };
}

function environment(): Record<string, string> {
	return { PATH: process.env['PATH'] ?? '', HOME: home, XDG_CONFIG_HOME: home, XDG_CACHE_HOME: join(home, 'cache') };
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

/** A command's request for a token, as `jibe login` makes it. */
async function begin(house: TestControl, machine = 'laptop') {
	const { id, secret } = newToken();
	const begun = await house.ask('POST', '/api/v1/sign-ins', { token: null, json: { token: id, hash: sha256(secret), machine } });
	const { code } = begun.json<{ code: string }>();
	return {
		id,
		secret,
		code,
		state: async () => {
			const said = await house.ask('GET', '/api/v1/sign-ins/mine', { token: secret });
			const answer = said.json<{ state?: string; error?: { code: string } }>();
			return answer.state ?? answer.error?.code;
		},
		decide: (by: { allow?: boolean; role?: string; token?: string; headers?: Record<string, string> } = {}) => {
			const { allow = true, role = 'viewer', ...more } = by;
			return house.ask('POST', `/api/v1/sign-ins/${code}`, { json: { allow, role }, ...more });
		},
	};
}

test('a person at a terminal compares the fingerprint, allows the code elsewhere, and is signed in', { skip: noTerminal() }, async (t) => {
	const house = await listening(t);
	const [address = ''] = house.control.addresses;
	await using terminal = new Terminal([process.execPath, COMMAND, 'login', address], environment());
	await terminal.shows(/Is it\? Type yes:/);
	terminal.type('yes');
	const [, code = ''] = await terminal.shows(/the code must be {2}([A-Z]{4}-[A-Z]{4})/);
	await terminal.shows(new RegExp(`${address}/sign-in\\?code=${code}\r`));
	assert.equal((await house.ask('POST', `/api/v1/sign-ins/${code}`, { json: { allow: true, role: 'deployer' } })).status, 200);
	assert.equal(await terminal.exit(), 0, terminal.text);
	const held = JSON.parse(readFileSync(join(home, 'jibe', 'login.json'), 'utf8')) as { token: string };
	const { token } = (await house.ask('GET', '/api/v1/whoami', { token: held.token })).json<{ token: { name: string; role: string } }>();
	assert.deepEqual([token.name, token.role], [`login from ${hostname()}`, 'deployer']);
	assert.doesNotMatch(terminal.text, /jibe_/, 'the token is shown nowhere');

	await using pasting = new Terminal([process.execPath, COMMAND, 'login', `${address}#${fingerprintIn(terminal)}`], environment());
	await pasting.shows(/Or paste a token here/);
	pasting.type('');
	pasting.type(house.admin);
	assert.equal(await pasting.exit(), 0, pasting.text);

	await using refused = new Terminal([process.execPath, COMMAND, 'login', address], environment());
	const [, unwanted = ''] = await refused.shows(/Type yes:/).then(() => {
		refused.type('yes');
		return refused.shows(/the code must be {2}(\S+)/);
	});
	await house.ask('POST', `/api/v1/sign-ins/${unwanted}`, { json: { allow: false, role: 'viewer' } });
	assert.equal(await refused.exit(), 5);
	assert.match(refused.text, /refused in the browser/);
});

function fingerprintIn({ text }: Terminal): string {
	return /sha256\/\S+/.exec(text)?.[0] ?? '';
}

test('a sign-in waits, is decided once by its code, and becomes a token that its maker alone has', async (t) => {
	const house = await startControl(t, cluster, { regions: [] });
	const one = await begin(house);
	const waited = one.state();
	assert.equal(
		(await house.ask('GET', `/api/v1/sign-ins/${one.code.toLowerCase().replace('-', ' ')}`)).json<{ machine: string }>().machine,
		'laptop',
	);
	assert.deepEqual((await house.ask('GET', '/api/v1/sign-ins/BBBB-BBBB')).json().error.code, 'code_unknown');
	assert.equal((await house.ask('GET', `/api/v1/sign-ins/${one.code}`, { token: null })).status, 401);
	assert.equal((await house.ask('GET', '/api/v1/whoami', { token: one.secret })).status, 401, 'it is nobody yet');
	assert.equal((await one.decide({ headers: { origin: 'https://elsewhere.example' } })).json().error.code, 'cross_site');
	assert.equal((await one.decide()).json<{ name: string }>().name, 'login from laptop');
	assert.equal(await waited, 'allowed');
	assert.equal(await one.state(), 'allowed', 'an answer that was lost is told again');
	assert.equal((await one.decide({ role: 'admin' })).json().error.code, 'code_unknown');
	assert.equal((await house.ask('GET', '/api/v1/tokens', { token: one.secret })).json().error.code, 'forbidden');

	const other = await begin(house);
	assert.equal((await house.ask('GET', '/api/v1/sign-ins/mine', { token: `jibe_${other.id}_${'A'.repeat(43)}` })).status, 404);
	await house.restart();
	const after = other.state();
	await other.decide({ allow: false });
	assert.equal(await after, 'login_denied', 'a control that was restarted still knows of it');
	assert.equal((await other.decide()).json().error.code, 'code_unknown');
	const entries = (await house.ask('GET', '/api/v1/audit')).json<{ entries: { action: string; detail: unknown }[] }>().entries;
	const said = entries.filter(({ action }) => action.startsWith('sign_in.'));
	assert.deepEqual(said.map(({ action }) => action), ['sign_in.denied', 'sign_in.allowed']); // prettier-ignore
	assert.doesNotMatch(JSON.stringify(said), /sha256|hash/);
});

test('who allows gives no more than they have, and what they gave ends with theirs', async (t) => {
	let ahead = 0;
	const house = await startControl(t, cluster, { regions: [], clock: { ...systemClock, now: () => systemClock.now() + ahead } });
	const json = { name: 'ann', role: 'deployer', apps: ['notes'], environments: null, expiresInDays: 3 };
	const { token: ann, secret } = (await house.ask('POST', '/api/v1/tokens', { json })).json<{ token: Token; secret: string }>();
	const one = await begin(house);
	assert.equal((await one.decide({ role: 'admin', token: secret })).json().error.code, 'forbidden');
	assert.equal((await one.decide({ role: 'deployer', token: secret })).status, 200);
	const second = await begin(house);
	assert.equal((await second.decide({ role: 'deployer', token: one.secret })).status, 200);
	const { token } = (await house.ask('GET', '/api/v1/whoami', { token: second.secret })).json<{ token: Token }>();
	assert.deepEqual([token.apps, token.expiresAt], [['notes'], ann.expiresAt]);
	assert.equal((await house.ask('DELETE', `/api/v1/tokens/${ann.id}`)).status, 204);
	for (const given of [one, second]) assert.equal((await house.ask('GET', '/api/v1/whoami', { token: given.secret })).status, 401);

	const late = await begin(house);
	ahead = 5 * 60_000;
	assert.deepEqual([await late.state(), (await late.decide()).json().error.code], ['login_expired', 'code_unknown']);
	for (let n = 0; n < 20; n++) await begin(house);
	const { id, secret: unused } = newToken();
	const asked = { token: id, hash: sha256(unused), machine: 'laptop' };
	const many = await house.ask('POST', '/api/v1/sign-ins', { token: null, json: asked });
	assert.deepEqual([many.status, many.json().error.code], [429, 'too_many_sign_ins']);
	for (const machine of ['<b>', '', 'a'.repeat(61)])
		assert.equal((await house.ask('POST', '/api/v1/sign-ins', { token: null, json: { ...asked, machine } })).status, 400);
});

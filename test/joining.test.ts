import assert from 'node:assert/strict';
import { X509Certificate, createPublicKey } from 'node:crypto';
import { once } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test, type TestContext } from 'node:test';
import { systemClock, type Clock } from '#clock/clock.ts';
import { joinControl, type Joining } from '#cli/joining.ts';
import { checkIn, readIdentity } from '#cli/up/check-in.ts';
import { issueCertificate, newAuthority, newKey } from '#wire/certificate.ts';
import { readCredentialFile } from '#wire/credential.ts';
import { checkInText, formatJoinString, prove, readJoinString, type ServerStatus } from '#wire/join.ts';
import { dial, type Link } from '#wire/link.ts';
import { openJoined } from '#wire/joined.ts';
import { WIRE_VERSION, type DownMessage } from '#wire/region.ts';
import { readTlsIdentity, type ServerIdentity } from '#wire/server-identity.ts';
import { startControl, type TestControl } from './fixtures/control.ts';
import { startCluster, testLog as log, type TestCluster } from './fixtures/database.ts';

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;
const TLS = { host: '127.0.0.1', port: 0 };

let cluster: TestCluster;
before(async () => {
	cluster = await startCluster();
	process.env['XDG_CACHE_HOME'] = mkdtempSync(join(tmpdir(), 'jibe-cache-'));
});
after(async () => {
	await cluster.stop();
	rmSync(process.env['XDG_CACHE_HOME'] ?? '', { recursive: true });
});

/** A clock that a test sets; timers go on as they do. */
function shifted(): Clock & { byMs: number } {
	const clock = { ...systemClock, byMs: 0, now: () => systemClock.now() + clock.byMs };
	return clock;
}

async function open(t: TestContext, clock: Clock = systemClock): Promise<TestControl> {
	return startControl(t, cluster, { regions: [], tls: TLS, clock });
}

function directory(t: TestContext): string {
	const data = mkdtempSync(join(tmpdir(), 'jibe-server-'));
	t.after(() => rmSync(data, { recursive: true, force: true }));
	return data;
}

async function invite(house: TestControl, of: { region?: string; name?: string; roles?: string[] } = {}): Promise<string> {
	const json = { region: of.region ?? 'fra', roles: of.roles ?? null, labels: [], name: of.name ?? null };
	const answer = await house.ask('POST', '/api/v1/servers/tokens', { json });
	assert.equal(answer.status, 200, answer.text);
	return answer.json<{ join: string }>().join;
}

function joining(data: string, text: string, more: Partial<Joining> = {}): Joining {
	return { data, text, name: 'web-1', host: null, roles: null, region: null, edgePort: null, ...more };
}

async function joined(t: TestContext, house: TestControl, name = 'web-1'): Promise<{ data: string; identity: ServerIdentity }> {
	const data = directory(t);
	return { data, identity: await joinControl(joining(data, await invite(house), { name })) };
}

async function statuses(house: TestControl): Promise<ServerStatus[]> {
	return (await house.ask('GET', '/api/v1/servers')).json<{ servers: ServerStatus[] }>().servers;
}

/** What control answers to a request with this server's certificate and a credential. */
async function ask(address: string, path: string, of: { data: string; credential: string }): Promise<{ status: number; text: string }> {
	const asked = request(new URL(path, address), {
		...readTlsIdentity(join(of.data, 'server'), 'control'),
		rejectUnauthorized: false,
		agent: false,
		headers: { authorization: `Bearer ${of.credential}` },
	});
	asked.end();
	const [answer] = (await once(asked, 'response')) as [IncomingMessage];
	let text = '';
	for await (const part of answer) text += String(part);
	return { status: answer.statusCode ?? 0, text };
}

const NO_BLOB = `/blobs/sha256:${'0'.repeat(64)}`;

function depotCredential(data: string): string {
	return readCredentialFile(join(data, 'credentials', 'depot.json')).credential;
}

test('a machine joins by one line: its papers are its own alone, control lists it, and its depot is let in', async (t) => {
	const house = await open(t);
	const { data, identity } = await joined(t, house);
	assert.deepEqual(
		[identity.server, identity.region, identity.roles, identity.host],
		['web-1', 'fra', ['depot', 'agent', 'edge'], '127.0.0.1'],
	);
	assert.deepEqual(identity.control, house.control.addresses);
	assert.deepEqual(readIdentity(data), identity);
	const files = readdirSync(join(data, 'server')).sort();
	assert.deepEqual(files, ['ca.pem', 'cert.pem', 'key.pem', 'peer.pem', 'server.json', 'servers.json', 'ticket.json']);
	for (const file of files) assert.equal(statSync(join(data, 'server', file)).mode & 0o077, 0, file);
	const certificate = new X509Certificate(readFileSync(join(data, 'server', 'cert.pem')));
	assert.match(certificate.subject, /CN=web-1$/);
	assert.ok(Math.abs(certificate.validToDate.getTime() - systemClock.now() - DAY_MS) < HOUR_MS);
	const [status] = await statuses(house);
	assert.deepEqual([status?.name, status?.state, status?.region], ['web-1', 'lost', 'fra']);
	// A blob that is not there: who asks was let in.
	const [address = ''] = house.control.addresses;
	assert.equal((await ask(address, NO_BLOB, { data, credential: depotCredential(data) })).status, 404);
	const { link, closed } = await linkOf(t, data, identity);
	assert.equal(link.connected, true);
	const removed = await house.ask('DELETE', '/api/v1/servers/web-1');
	assert.equal(removed.status, 204);
	assert.match(await closed, /removed/);
	const refused = await ask(address, NO_BLOB, { data, credential: depotCredential(data) });
	assert.deepEqual([refused.status, /web-1 was removed/.test(refused.text)], [401, true], refused.text);
	await assert.rejects(checkIn(data, identity), { code: 'server_removed', exit: 5 });
});

test('the second server of a region runs instances, unless it was invited to more; a third is not let in beyond that', async (t) => {
	const house = await open(t);
	await joined(t, house);
	const { identity } = await joined(t, house, 'web-2');
	assert.deepEqual(identity.roles, ['agent']);
	const text = await invite(house, { roles: ['agent', 'edge'] });
	await assert.rejects(joinControl(joining(directory(t), text, { name: 'web-3', roles: ['depot'] })), { code: 'join_roles' });
	const third = await joinControl(joining(directory(t), text, { name: 'web-3', roles: ['edge'] }));
	assert.deepEqual(third.roles, ['edge']);
});

test('a join string that was used, is cut short, or is for another region or another control is refused by its own word', async (t) => {
	const house = await open(t);
	const { data } = await joined(t, house);
	const used = await invite(house);
	await joinControl(joining(directory(t), used, { name: 'web-2' }));
	await assert.rejects(joinControl(joining(directory(t), used, { name: 'web-3' })), {
		code: 'join_token_used',
		exit: 5,
		message: /web-2 joined with it on/,
	});
	const good = await invite(house);
	for (const cut of [1, 2, 3, 10, 100, good.length - 5]) {
		await assert.rejects(joinControl(joining(directory(t), good.slice(0, -cut), { name: 'web-3' })), { code: 'join_string', exit: 2 });
	}
	const ams = await invite(house, { region: 'ams' });
	await assert.rejects(joinControl(joining(data, ams)), {
		code: 'join_other_region',
		message: /for region ams, and this server is one of fra/,
	});
	const elsewhere = await open(t);
	const mixed = { ...readJoinString(good)!, addresses: elsewhere.control.addresses };
	await assert.rejects(joinControl(joining(directory(t), formatJoinString(mixed))), { code: 'wrong_control', exit: 2 });
	await assert.rejects(joinControl(joining(data, await invite(elsewhere))), { code: 'other_installation', exit: 2 });
	// None of these used the good one up.
	assert.equal((await joinControl(joining(directory(t), good, { name: 'web-3' }))).server, 'web-3');
});

test('a join string is good for 15 min, and a server whose clock is off by an hour is told by how much', async (t) => {
	const clock = shifted();
	const house = await open(t, clock);
	const text = await invite(house);
	clock.byMs = HOUR_MS;
	await assert.rejects(joinControl(joining(directory(t), text)), {
		code: 'clock_off',
		message: /this machine's clock is 60 min behind control's/,
	});
	clock.byMs = -HOUR_MS;
	await assert.rejects(joinControl(joining(directory(t), text)), { code: 'clock_off', message: /60 min ahead of control's/ });
	clock.byMs = 0;
	const { data, identity } = await joined(t, house);
	clock.byMs = HOUR_MS;
	const { warning } = await checkIn(data, identity);
	assert.match(warning ?? '', /clock is 60 min behind control's/);
	assert.match((await statuses(house))[0]?.reason ?? '', /its clock is 60 min behind control's/);
	clock.byMs = -12 * MINUTE_MS;
	const late = await invite(house);
	clock.byMs = 4 * MINUTE_MS;
	await assert.rejects(joinControl(joining(directory(t), late, { name: 'web-2' })), { code: 'join_token_expired', exit: 5 });
});

test('a certificate that expired while the server was off is renewed by its key within 30 days, later by a new join string', async (t) => {
	const clock = shifted();
	const house = await open(t, clock);
	const { data, identity } = await joined(t, house);
	const [address = ''] = house.control.addresses;
	expire(house, data);
	clock.byMs = 29 * DAY_MS;
	assert.equal((await ask(address, NO_BLOB, { data, credential: depotCredential(data) })).status, 401);
	await checkIn(data, identity);
	assert.equal(new X509Certificate(readFileSync(join(data, 'server', 'cert.pem'))).validToDate.getTime() > clock.now(), true);
	expire(house, data);
	clock.byMs = 29 * DAY_MS + 32 * DAY_MS;
	await assert.rejects(checkIn(data, identity), { code: 'certificate_too_old', message: /more than 30 days ago/ });
	clock.byMs = 0;
	const again = await joinControl(joining(data, await invite(house), { name: null }));
	assert.equal(again.server, 'web-1', 'its old key shows that the name is its own');
});

/** As after a day and more off. */
function expire(house: TestControl, data: string): void {
	const directory = join(data, 'server');
	const publicKey = createPublicKey(readFileSync(join(directory, 'key.pem')));
	const request = { commonName: 'web-1', publicKey, names: [], notAfter: systemClock.now() - HOUR_MS };
	writeFileSync(
		join(directory, 'cert.pem'),
		issueCertificate(house.control.house.installation.ca, request, systemClock.now() - 2 * DAY_MS),
	);
}

test('a certificate of another installation, of another server, or for a role that the server has not, lets nobody in', async (t) => {
	const house = await open(t);
	const one = await joined(t, house);
	const two = await joined(t, house, 'web-2');
	const [address = ''] = house.control.addresses;
	const credential = depotCredential(one.data);
	assert.match((await ask(address, NO_BLOB, { data: two.data, credential })).text, /not that of the server web-1/);
	const publicKey = createPublicKey(readFileSync(join(one.data, 'server', 'key.pem')));
	const stranger = newAuthority(one.identity.installation, systemClock.now());
	const of = { commonName: 'web-1', publicKey, names: [], notAfter: systemClock.now() + DAY_MS };
	const file = join(one.data, 'server', 'cert.pem');
	const own = readFileSync(file);
	writeFileSync(file, issueCertificate(stranger, of, systemClock.now()));
	assert.match((await ask(address, NO_BLOB, { data: one.data, credential })).text, /of another installation/);
	writeFileSync(file, own);
	assert.equal((await ask(address, NO_BLOB, { data: one.data, credential })).status, 404);
});

test('two machines with one identity: the second to speak is found, both are refused, and an invitation by name chooses one', async (t) => {
	const house = await open(t);
	const { data, identity } = await joined(t, house);
	const clone = directory(t);
	cpSync(data, clone, { recursive: true });
	const { closed } = await linkOf(t, data, identity);
	await checkIn(clone, identity);
	await assert.rejects(checkIn(data, identity), { code: 'server_conflict', exit: 5, message: /two machines have its identity/ });
	assert.match(await closed, /refused/);
	await assert.rejects(checkIn(clone, identity), { code: 'server_conflict' });
	const [status] = await statuses(house);
	assert.deepEqual([status?.state, /two machines/.test(status?.reason ?? '')], ['conflict', true]);
	assert.deepEqual(house.control.house.roster.message(['fra']).servers, []);
	const [address = ''] = house.control.addresses;
	const asks = async (of: string) => (await ask(address, NO_BLOB, { data: of, credential: depotCredential(of) })).text;
	for (const either of [data, clone]) assert.match(await asks(either), /web-1 is refused: two machines have its identity/);
	await assert.rejects(joinControl(joining(clone, await invite(house))), { code: 'server_exists' });
	const chosen = await joinControl(joining(clone, await invite(house, { name: 'web-1' })));
	assert.equal(chosen.server, 'web-1');
	await checkIn(clone, chosen);
	assert.match(await asks(data), /another machine has joined as web-1 since/);
	assert.match(await asks(clone), /blob/);
	await assert.rejects(checkIn(data, identity), { code: 'server_replaced', hint: /jibe server add --name/ });
	assert.deepEqual((await statuses(house)).map(({ state }) => state), ['lost']); // prettier-ignore
});

test('control moves: its servers hear of the new address while the old one answers, and find it there afterwards', async (t) => {
	const house = await open(t);
	const { data, identity } = await joined(t, house);
	const heard = await checkIn(data, { ...identity, control: ['https://127.0.0.1:9', ...identity.control] });
	assert.deepEqual(heard.identity.control, house.control.addresses);
	await house.state.servers.announce(['https://127.0.0.1:10']);
	await house.control.house.roster.refresh();
	const moved = await checkIn(data, heard.identity);
	assert.deepEqual(moved.identity.control, [...house.control.addresses, 'https://127.0.0.1:10']);
	assert.deepEqual(readIdentity(data)?.control, moved.identity.control);
});

test('an answer that was lost is asked for again: neither a join nor a check-in is taken for a second machine', async (t) => {
	const house = await open(t);
	const data = directory(t);
	const text = await invite(house);
	// What control answered can't be written.
	const inTheWay = join(data, 'server', 'key.pem');
	mkdirSync(inTheWay, { recursive: true });
	await assert.rejects(joinControl(joining(data, text)), { code: 'EISDIR' });
	rmSync(inTheWay, { recursive: true });
	const identity = await joinControl(joining(data, text));
	const tickets = () => JSON.parse(readFileSync(join(data, 'server', 'ticket.json'), 'utf8')) as { ticket: string };
	const before = tickets();
	await checkIn(data, identity);
	writeFileSync(join(data, 'server', 'ticket.json'), JSON.stringify({ ticket: before.ticket, next: tickets().ticket }));
	await checkIn(data, identity);
	assert.deepEqual((await statuses(house)).map(({ name, state }) => [name, state]), [['web-1', 'lost']]); // prettier-ignore
});

test('who has not the key of a server can neither speak for it nor take its name', async (t) => {
	const house = await open(t);
	const { data, identity } = await joined(t, house);
	const stranger = directory(t);
	cpSync(data, stranger, { recursive: true });
	// All that the server has but its key: the proof is by another one.
	const { privatePem } = newKey();
	writeFileSync(join(stranger, 'server', 'key.pem'), privatePem);
	await assert.rejects(checkIn(stranger, identity), { code: 'server_replaced' });
	const { ticket } = JSON.parse(readFileSync(join(data, 'server', 'ticket.json'), 'utf8')) as { ticket: string };
	const its = createPublicKey(readFileSync(join(data, 'server', 'key.pem')))
		.export({ type: 'spki', format: 'pem' })
		.toString();
	const said = { server: 'web-1', publicKey: its, ticket, next: 'n'.repeat(43), renew: true };
	const proof = prove(checkInText(identity.installation, said), privatePem);
	const json = { ...said, proof, at: systemClock.now() };
	const answer = await house.ask('POST', '/api/v1/servers/check-in', { json, token: null });
	assert.deepEqual([answer.status, answer.json().error.code], [403, 'bad_proof']);
	await assert.rejects(joinControl(joining(stranger, await invite(house))), { code: 'server_exists' });
	await checkIn(data, identity);
});

/** The link of the server's depot, as its program makes it; `closed`: why it ended. */
async function linkOf(t: TestContext, data: string, identity: ServerIdentity): Promise<{ link: Link; closed: Promise<string> }> {
	const welcomed = Promise.withResolvers<DownMessage>();
	const closed = Promise.withResolvers<string>();
	const peers = openJoined(join(data, 'server'), log)!.peers;
	const link = dial({
		url: `${identity.control[0]?.replace('https', 'wss')}/link`,
		tls: () => peers.towardsControl(identity.installation),
		credential: () => depotCredential(data),
		hello: () => ({
			type: 'hello',
			wire: WIRE_VERSION,
			role: 'depot',
			server: identity.server,
			name: 'depot',
			regions: [identity.region],
			known: [],
		}),
		onMessage: welcomed.resolve,
		onDown: closed.resolve,
		log,
		clock: systemClock,
	});
	t.after(() => link.close());
	await welcomed.promise;
	return { link, closed: closed.promise };
}

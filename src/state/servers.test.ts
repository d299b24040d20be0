import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { systemClock, type Clock } from '#clock/clock.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import type { CheckIn, JoiningServer, NewJoinToken } from './joined-servers.ts';
import type { State } from './state.ts';

const MINUTE_MS = 60_000;
const DAY_MS = 24 * 60 * MINUTE_MS;
let cluster: TestCluster;
let state: State;
let now = 1_800_000_000_000;
const clock: Clock = { ...systemClock, now: () => now };
before(async () => {
	cluster = await startCluster();
	state = await cluster.state({ clock });
});
after(() => cluster.stop());

const FRA: NewJoinToken = { region: 'fra', roles: ['depot', 'agent', 'edge'], labels: ['gpu'], name: null, by: 'token:admin' };

function machine(name: string, more: Partial<JoiningServer> = {}): Omit<JoiningServer, 'token'> {
	return {
		name,
		roles: null,
		region: null,
		host: '10.0.0.7',
		depotPort: 7072,
		agentPort: 7071,
		edgePort: 8080,
		spki: `sha256/${name}`,
		formerSpki: null,
		ticket: `${name}-0`,
		from: '10.0.0.7',
		certificateExpires: now + DAY_MS,
		...more,
	};
}

async function joined(name: string, invited: Partial<NewJoinToken> = {}, more: Partial<JoiningServer> = {}) {
	const { token } = await state.servers.createToken({ ...FRA, ...invited });
	return { token, row: await state.servers.join({ ...machine(name, more), token }) };
}

test('a token lets one server in, once, with what it was bound to; who lost the answer gets it again', async () => {
	const { version } = await state.servers.all();
	const { token, row } = await joined('once', {}, { roles: ['agent'] });
	assert.deepEqual([row.region, row.roles, row.labels, row.agentPort, row.depotPort], ['fra', ['agent'], ['gpu'], 7071, null]);
	assert.deepEqual(await state.servers.join({ ...machine('once', { roles: ['agent'] }), token }), row);
	await assert.rejects(state.servers.join({ ...machine('other'), token }), {
		code: 'join_token_used',
		message: /once joined with it on 2027-/,
	});
	assert.ok((await state.servers.all()).version > version);
	assert.ok((await state.regions.list()).some(({ name, edgePort }) => name === 'fra' && edgePort === 8080));
	const [entry] = await state.audit.list({ limit: 1 });
	assert.deepEqual([entry?.action, entry?.by, entry?.detail['server']], ['server.joined', 'server:once', 'once']);
	assert.ok(!JSON.stringify(await state.audit.list({ limit: 50 })).includes(token));
});

test('a token that is late, of another control, for another region or beyond its roles is refused by its own word, and not used up', async () => {
	const { token } = await state.servers.createToken({ ...FRA, roles: ['agent'] });
	const asks = (more: Partial<JoiningServer>) => state.servers.join({ ...machine('web-1'), token, ...more });
	await assert.rejects(asks({ token: 'something-else' }), { code: 'join_token_unknown' });
	await assert.rejects(asks({ region: 'ams' }), { code: 'join_other_region', message: /for region fra, and this server is one of ams/ });
	await assert.rejects(asks({ roles: ['edge'] }), { code: 'join_roles' });
	now += 15 * MINUTE_MS;
	await assert.rejects(asks({}), { code: 'join_token_expired' });
	now -= 1;
	assert.equal((await asks({})).name, 'web-1');
});

test('a name is taken over only by who was invited to it, or has shown to have its key', async () => {
	await joined('web-2');
	await assert.rejects(joined('web-2', {}, { spki: 'sha256/new' }), {
		code: 'server_exists',
		message: /region fra, last seen at 10.0.0.7/,
	});
	assert.equal((await joined('web-2', {}, { spki: 'sha256/new', formerSpki: 'sha256/web-2' })).row.spki, 'sha256/new');
	assert.equal((await joined('elsewhere', { name: 'web-2' }, { spki: 'sha256/newer' })).row.name, 'web-2');
	const former = { name: 'web-2', spki: 'sha256/new', ticket: 'web-2-0', next: 'a', from: '10.0.0.9', certificateExpires: null };
	await assert.rejects(state.servers.checkIn(former), { code: 'server_replaced' });
});

test('two machines with one identity are found by the second that checks in, and both refused until one joins again', async () => {
	await joined('cloned');
	const checkIn = (ticket: string, next: string, from: string): CheckIn => {
		return { name: 'cloned', spki: 'sha256/cloned', ticket, next, from, certificateExpires: null };
	};
	await state.servers.checkIn(checkIn('cloned-0', 'a1', '10.0.0.7'));
	// Its answer was lost.
	await state.servers.checkIn(checkIn('cloned-0', 'a1', '10.0.0.7'));
	await state.servers.checkIn(checkIn('a1', 'a2', '10.0.0.7'));
	await assert.rejects(state.servers.checkIn(checkIn('a1', 'b2', '10.0.0.8')), {
		code: 'server_conflict',
		message: /two machines have its identity: one at 10.0.0.7, one at 10.0.0.8/,
	});
	await assert.rejects(state.servers.checkIn(checkIn('a2', 'a3', '10.0.0.7')), { code: 'server_conflict' });
	assert.match((await state.servers.list()).find(({ name }) => name === 'cloned')?.conflict ?? '', /10\.0\.0\.8/);
	// Either of them has its key, so that alone chooses nothing.
	await assert.rejects(joined('cloned', {}, { spki: 'sha256/x', formerSpki: 'sha256/cloned' }), { code: 'server_exists' });
	const { row } = await joined('cloned', { name: 'cloned' }, { spki: 'sha256/chosen' });
	assert.equal(row.conflict, null);
});

test('after a restore, which raises the epoch, servers hold tickets that the database has not: that is no conflict', async () => {
	await joined('kept');
	const of = { name: 'kept', spki: 'sha256/kept', from: '10.0.0.7', certificateExpires: null };
	await state.raiseEpoch('test');
	await state.servers.checkIn({ ...of, ticket: 'later-than-the-backup', next: 'k2' });
	await assert.rejects(state.servers.checkIn({ ...of, ticket: 'later-than-the-backup', next: 'k3' }), { code: 'server_conflict' });
});

test('a server that was removed is told so, and its region stays known to control while others are there', async () => {
	await joined('gone', { region: 'waw' });
	await joined('stays', { region: 'waw' });
	assert.equal(await state.servers.remove('gone', 'token:admin'), true);
	assert.equal(await state.servers.remove('gone', 'token:admin'), false);
	const of = { name: 'gone', spki: 'sha256/gone', ticket: 'gone-0', next: 'x', from: '10.0.0.7', certificateExpires: null };
	await assert.rejects(state.servers.checkIn(of), { code: 'server_removed' });
	await assert.rejects(state.servers.checkIn({ ...of, name: 'nobody' }), { code: 'server_unknown' });
	await state.regions.set([{ name: 'iad', edgePort: 9000 }]);
	const names = async () => (await state.regions.list()).map(({ name }) => name);
	assert.ok((await names()).includes('waw'));
	await state.servers.remove('stays', 'token:admin');
	await state.regions.set([{ name: 'iad', edgePort: 9000 }]);
	assert.ok(!(await names()).includes('waw'));
});

test('control is where its replicas said lately, and a change of that is one of the list', async () => {
	const { version } = await state.servers.all();
	await state.servers.announce(['https://10.0.0.1:7443']);
	const first = await state.servers.all();
	assert.deepEqual([first.addresses, first.version], [['https://10.0.0.1:7443'], version + 1]);
	await state.servers.announce(['https://10.0.0.1:7443']);
	assert.equal((await state.servers.all()).version, first.version);
	now += DAY_MS - MINUTE_MS;
	await state.servers.announce(['https://10.0.0.2:7443']);
	assert.deepEqual((await state.servers.all()).addresses, ['https://10.0.0.2:7443', 'https://10.0.0.1:7443']);
	now += 2 * MINUTE_MS;
	assert.deepEqual((await state.servers.all()).addresses, ['https://10.0.0.2:7443']);
});

test('the CA is made once for an installation', async () => {
	const database = await cluster.database();
	const [first, second] = [await cluster.state({ clock, database }), await cluster.state({ clock, database })];
	const { ca } = await first.installation();
	assert.match(ca.certificate, /BEGIN CERTIFICATE/);
	assert.deepEqual((await second.installation()).ca, ca);
});

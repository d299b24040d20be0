import assert from 'node:assert/strict';
import { after, before, test, type TestContext } from 'node:test';
import { systemClock } from '#clock/clock.ts';
import { sha256, type Digest } from '#digest/digest.ts';
import { newKey, spkiOf } from '#wire/certificate.ts';
import { prove } from '#wire/join.ts';
import { packageText, type ServerPackageStatus } from '#wire/package.ts';
import { startControl, type TestControl } from '../../test/fixtures/control.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';

let cluster: TestCluster;
before(async () => {
	cluster = await startCluster();
});
after(() => cluster.stop());

const key = newKey();
const publicKey = key.publicKey.export({ type: 'spki', format: 'pem' }).toString();

async function withServer(t: TestContext): Promise<TestControl> {
	const house = await startControl(t, cluster, { regions: [], tls: { host: '127.0.0.1', port: 0 } });
	const { token } = await house.state.servers.createToken({ region: 'fra', roles: ['agent'], labels: [], name: null, by: 'test' });
	await house.state.servers.join({
		token, name: 'one', roles: null, region: null, host: '10.0.0.7', depotPort: 1, agentPort: 2, edgePort: 3,
		spki: spkiOf(key.publicKey), formerSpki: null, ticket: 'a', from: '10.0.0.7', certificateExpires: systemClock.now() + 1e9,
	}); // prettier-ignore
	// As it would be a moment later, by the event.
	await house.ask('GET', '/api/v1/servers');
	return house;
}

async function send(house: TestControl, text: string): Promise<Digest> {
	const body = new Uint8Array(Buffer.from(text));
	const answer = await house.ask('POST', '/api/v1/packages?version=1.2.3', { body, type: 'application/gzip' });
	assert.equal(answer.status, 200, answer.text);
	return answer.json<{ digest: Digest }>().digest;
}

async function fetchAs(house: TestControl, digest: Digest, more: { at?: number; server?: string; signer?: string } = {}) {
	const said = { server: more.server ?? 'one', digest, at: more.at ?? systemClock.now() };
	const { id } = await house.state.installation();
	const proof = prove(packageText(id, said), more.signer ?? key.privatePem);
	return house.ask('POST', '/api/v1/servers/package', { token: null, json: { ...said, publicKey, proof } });
}

test('a package is given to the server that was told to run it, and to nobody else', async (t) => {
	const house = await withServer(t);
	const [wanted, other] = [await send(house, 'the package'), await send(house, 'another')];
	assert.equal(wanted, sha256('the package'));
	assert.equal((await fetchAs(house, wanted)).status, 409, 'it was not told to');
	assert.equal((await house.ask('PUT', '/api/v1/servers/one/package', { json: { digest: wanted } })).status, 204);
	const given = await fetchAs(house, wanted);
	assert.deepEqual([given.status, given.text], [200, 'the package']);
	assert.equal((await fetchAs(house, other)).status, 409);
	assert.equal((await fetchAs(house, wanted, { server: 'two' })).status, 403);
	assert.equal((await fetchAs(house, wanted, { signer: newKey().privatePem })).status, 403);
	assert.equal(
		(await fetchAs(house, wanted, { at: systemClock.now() - 3_600_000 })).status,
		409,
		'what was signed an hour ago is not good now',
	);
});

test('who tells servers what to run is an administrator, of a package that is there and a server that is', async (t) => {
	const house = await withServer(t);
	const digest = await send(house, 'the package');
	const { version } = await house.state.servers.all();
	const put = (server: string, json: object, token?: string | null) =>
		house.ask('PUT', `/api/v1/servers/${server}/package`, { json, ...(token === undefined ? {} : { token }) });
	const viewer = await house.state.tokens.create({
		name: 'v', role: 'viewer', apps: null, environments: null, expiresAt: null, by: 'test',
	}); // prettier-ignore
	assert.equal((await put('one', { digest }, null)).status, 401);
	assert.equal((await put('one', { digest }, viewer.secret)).status, 403);
	assert.equal((await put('nobody', { digest })).status, 404);
	assert.equal((await put('one', { digest: sha256('never sent') })).status >= 400, true);
	assert.equal((await house.state.servers.all()).version, version, 'nothing of it counted');
	assert.equal((await put('one', { digest })).status, 204);
	const list = await house.state.servers.all();
	assert.ok(list.version > version, 'a newer list is told');
	assert.deepEqual(list.packages, { one: digest });
	await house.state.packages.says('one', { version: '1.2.3', runs: null, problem: 'no room' });
	const { servers } = (await house.ask('GET', '/api/v1/packages')).json<{ servers: ServerPackageStatus[] }>();
	assert.deepEqual(servers.map(({ name, whole, wanted, problem }) => ({ name, whole, wanted, problem })), [
		{ name: 'one', whole: false, wanted: digest, problem: 'no room' },
	]); // prettier-ignore
	// Told again, what went wrong before does not count any more.
	await put('one', { digest });
	assert.equal((await house.state.packages.servers())[0]?.problem, null);
	// Only the newest two are kept.
	for (const text of ['two', 'three']) await send(house, text);
	assert.equal(await house.state.packages.bytes(digest), null);
	assert.equal((await house.state.packages.bytes(sha256('three')))?.toString(), 'three');
});

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test, type TestContext } from 'node:test';
import { systemClock } from '#clock/clock.ts';
import { newKey, spkiOf } from '#wire/certificate.ts';
import { issueCredential } from '#wire/credential.ts';
import { prove } from '#wire/join.ts';
import { newExchangeKey, openSecrets, secretsText, type SecretsAnswer } from '#wire/secrets.ts';
import type { SecretsList } from '#wire/api.ts';
import { startControl, type Answer, type ControlFixture, type TestControl } from '../../test/fixtures/control.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';

let cluster: TestCluster;
before(async () => {
	cluster = await startCluster();
});
after(() => cluster.stop());

const VALUE = 'postgres://notes:hunter22@db/notes';
const KEY = newKey();
const CONFIG = { config: { secrets: ['DATABASE_URL'] } };

const set = (house: TestControl, more: Record<string, unknown> = {}, app = 'notes') =>
	house.ask('PUT', `/api/v1/apps/${app}/secrets`, {
		json: { environment: 'production', name: 'DATABASE_URL', value: VALUE, stage: true, ...more },
	});

/** As the agent of a server asks, by a depot. */
async function asked(
	house: TestControl,
	of: { server?: string; app?: string; release?: number; signer?: string | null; role?: 'agent' | 'edge' } = {},
) {
	const { server = 'local', app = 'notes', release = 1, signer = null, role = 'agent' } = of;
	const { id, privatePem, publicPem } = await house.state.installation();
	const { key, privateKey } = newExchangeKey();
	const about = { server, app, environment: 'production', release, key };
	const text = secretsText(id, about);
	const publicKey = KEY.publicKey.export({ type: 'spki', format: 'pem' }).toString();
	const claims = { installation: id, server, regions: ['fra', 'ams'], expires: 4_000_000_000 };
	const credential = issueCredential({ ...claims, role }, privatePem);
	const depot = issueCredential({ ...claims, server: 'local', role: 'depot' }, privatePem);
	const json = {
		...about,
		signed: signer === null ? null : { publicKey, proof: prove(text, signer) },
		credential: signer === null ? credential : null,
	};
	const answer = await house.ask('POST', '/secrets', { token: depot, json });
	return { answer, opened: answer.status === 200 ? openSecrets(text, privateKey, answer.json<SecretsAnswer>(), publicPem) : null };
}

const codeOf = (answer: Answer) => answer.json().error.code;

async function withRelease(t: TestContext, options: ControlFixture = {}): Promise<TestControl> {
	const house = await startControl(t, cluster, options);
	assert.equal((await set(house)).status, 200);
	await house.obedientDepot().next('welcome');
	const deployed = await house.deploy('notes', CONFIG);
	assert.equal(deployed.status, 200, deployed.text);
	return house;
}

test('a release pins versions; only the agent of a server that it is placed on is handed the values, and only it can open them', async (t) => {
	const house = await withRelease(t);
	const [spec] = await house.state.deployments.releases('notes', [1]);
	assert.deepEqual([spec?.secrets, spec?.env], [{ DATABASE_URL: 1 }, {}]);
	const { answer, opened } = await asked(house);
	assert.deepEqual(opened, [{ name: 'DATABASE_URL', version: 1, value: VALUE }]);
	assert.doesNotMatch(answer.text, /hunter22/);

	assert.equal(codeOf((await asked(house, { release: 2 })).answer), 'not_placed');
	assert.equal(codeOf((await asked(house, { app: 'other' })).answer), 'not_placed');
	assert.equal(codeOf((await asked(house, { role: 'edge' })).answer), 'bad_credential');
	assert.equal((await house.ask('POST', '/secrets', { json: {} })).status, 401, 'an administrator is no depot');
	const tables = await house.ask('GET', '/api/v1/audit');
	const events = await house.ask('GET', '/api/v1/deployments?app=notes');
	assert.doesNotMatch(tables.text + events.text, /hunter22/);
});

test('a joined server has to sign with its key: its credential, which depots see, is worth nothing here', async (t) => {
	const house = await withRelease(t);
	const { token } = await house.state.servers.createToken({ region: 'fra', roles: ['agent'], labels: [], name: null, by: 'test' });
	await house.state.servers.join({
		token, name: 'one', roles: null, region: null, host: '10.0.0.7', depotPort: 1, agentPort: 2, edgePort: 3,
		spki: spkiOf(KEY.publicKey), formerSpki: null, ticket: 'a', from: '10.0.0.7', certificateExpires: systemClock.now() + 1e9,
	}); // prettier-ignore
	await house.control.house.roster.refresh();
	assert.deepEqual(
		(await asked(house, { server: 'one', signer: KEY.privatePem })).opened?.map(({ version }) => version),
		[1],
	);
	assert.equal(codeOf((await asked(house, { server: 'one' })).answer), 'bad_proof');
	assert.equal(codeOf((await asked(house, { server: 'one', signer: newKey().privatePem })).answer), 'bad_proof');
	assert.equal(codeOf((await asked(house, { server: 'two', signer: KEY.privatePem })).answer), 'bad_credential');
	await house.state.servers.remove('one', 'test');
	await house.control.house.roster.refresh();
	assert.equal(codeOf((await asked(house, { server: 'one', signer: KEY.privatePem })).answer), 'bad_credential');
});

test('what is not to be set, or is not there, is refused', async (t) => {
	const house = await startControl(t, cluster);
	assert.equal(codeOf(await house.deploy('notes', CONFIG)), 'secret_missing');
	for (const bad of [{ name: 'PORT' }, { name: 'JIBE_X' }, { name: 'a-b' }, { value: '' }, { value: 'x'.repeat(65_537) }]) {
		const { status, text } = await set(house, bad);
		assert.equal(status, 400, JSON.stringify(bad).slice(0, 50));
		assert.doesNotMatch(text, /hunter22|xxx/);
	}
	for (let i = 0; i < 3; i++) await set(house, { revokeOld: i === 2 });
	const { secrets } = (await house.ask('GET', '/api/v1/apps/notes/secrets')).json<SecretsList>();
	assert.deepEqual(
		secrets.map(({ name, versions }) => [name, versions.map(({ version, state }) => `${version} ${state}`)]),
		[['DATABASE_URL', ['3 current', '2 revoked', '1 revoked']]],
	);
	assert.deepEqual((await house.ask('GET', '/api/v1/apps/notes/secrets?environment=staging')).json<SecretsList>().secrets, []);
	const names = Array.from({ length: 99 }, (_, i) => `S${i}`);
	for (const name of names) await set(house, { name, value: 'v' });
	assert.equal(codeOf(await set(house, { name: 'ONE_MORE' })), 'too_many_secrets');
});

test('the text of the database tells no value, and what is moved to another secret does not open', async (t) => {
	const house = await withRelease(t);
	const of = { app: 'notes', environment: 'production' };
	const sealed = await house.state.secrets.sealed({ ...of, name: 'DATABASE_URL', version: 1 });
	assert.ok(sealed && !sealed.ciphertext.includes('hunter22') && !sealed.wrapped.includes('hunter22'));
	await house.state.secrets.set({ ...of, ...sealed, name: 'OTHER', by: 'an intruder', revokesOlder: false });
	await assert.rejects(house.control.house.secrets.opened(of, { OTHER: 1 }), /authenticate/);
});

test('controls of one database need the same master key: another is refused, and keys change by giving all of them both', async (t) => {
	const [old, next] = [randomBytes(32).toString('base64'), randomBytes(32).toString('hex')];
	const database = await cluster.database();
	const one = await withRelease(t, { database, env: { JIBE_MASTER_KEY: old } });
	const other = await startControl(t, cluster, { database });
	for (const attempt of [set(other), other.deploy('notes', { ...CONFIG, environment: 'production', header: { force: true } })]) {
		const { code, message, hint } = (await attempt).json().error;
		assert.equal(code, 'master_key_lost');
		assert.match(message, /DATABASE_URL of notes \(production\)/);
		assert.match(hint ?? '', /from another control/);
	}
	assert.throws(() => readFileSync(join(other.dir, 'master.key')), 'none is made where there is one');
	const rotate = (house: TestControl) => house.ask('POST', '/api/v1/secrets/rotations', { json: {} });
	assert.equal(codeOf(await rotate(one)), 'no_new_key');
	const both = await startControl(t, cluster, { database, env: { JIBE_MASTER_KEY: `${next},${old}` } });
	assert.equal((await rotate(both)).json<{ rewrapped: number }>().rewrapped, 1);
	assert.equal(codeOf(await set(one)), 'master_key_lost', 'it has only the old one');
	const after = await startControl(t, cluster, { database, env: { JIBE_MASTER_KEY: next } });
	assert.deepEqual(
		(await asked(after)).opened?.map(({ value }) => value),
		[VALUE],
	);
});

test('a key may come of a command; what it says wrong is not repeated', async (t) => {
	const key = randomBytes(32).toString('base64');
	const house = await startControl(t, cluster, {
		env: { JIBE_MASTER_KEY_COMMAND: `cat "$KEY_FILE"`, KEY_FILE: join(import.meta.dirname, 'nowhere') },
	});
	const { code, message } = (await set(house)).json().error;
	assert.equal(code, 'master_key_unreadable');
	assert.doesNotMatch(message, /nowhere/);
	const good = await startControl(t, cluster, { env: { JIBE_MASTER_KEY_COMMAND: `echo ${key}` } });
	assert.equal((await set(good)).status, 200);
	const short = await startControl(t, cluster, { env: { JIBE_MASTER_KEY: 'c2hvcnQ=' } });
	assert.match((await set(short)).json().error.message, /32 bytes.*has 5/);
});

test('a damaged master key file is told, not replaced', async (t) => {
	const house = await withRelease(t);
	writeFileSync(join(house.dir, 'master.key'), 'rubbish');
	assert.equal(codeOf(await set(house)), 'master_key_unreadable');
	rmSync(join(house.dir, 'master.key'));
	assert.equal(codeOf(await set(house)), 'master_key_lost');
	assert.throws(() => readFileSync(join(house.dir, 'master.key')));
});

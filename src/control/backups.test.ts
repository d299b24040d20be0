import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { request, type IncomingMessage } from 'node:http';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { startControl, type TestControl } from '../../test/fixtures/control.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import { newDeployment, newRelease, prepared } from '../../test/fixtures/release.ts';
import { eventually } from '../../test/fixtures/jibe.ts';
import { BackupParser, RECORD } from '#wire/backup-file.ts';

/** A backup over HTTP: who gets one, and what happens to one that nobody takes. */

const MIB = 1024 * 1024;

let cluster: TestCluster;
before(async () => {
	cluster = await startCluster();
});
after(() => cluster.stop());

/** More than fits into the buffers on the way. */
async function withBlobs({ state, store }: TestControl): Promise<void> {
	const digests = await store.write(Array.from({ length: 24 }, () => randomBytes(2 * MIB)));
	await state.blobs.own('notes', digests);
	const plan = (release: number) => ({ rollout: null, regions: [], writes: prepared(release) });
	await state.deployments.create(newDeployment('notes', { release: newRelease('notes', digests), plan }));
}

function begin({ control, admin }: TestControl): Promise<IncomingMessage> {
	return new Promise((resolve, reject) => {
		const headers = { authorization: `Bearer ${admin}`, 'content-type': 'application/json' };
		const asked = request(`${control.url}/api/v1/backups`, { method: 'POST', headers, agent: false }, resolve);
		asked.once('error', reject);
		asked.end('{"all":true,"seal":null}');
	});
}

async function kinds(response: IncomingMessage): Promise<number[]> {
	const parser = new BackupParser();
	const found: number[] = [];
	for await (const chunk of response as AsyncIterable<Buffer>) for (const { kind } of parser.push(chunk)) found.push(kind);
	parser.finish();
	return found;
}

test('only an administrator gets one, and a key must be one', async (t) => {
	const it = await startControl(t, cluster);
	const { secret } = await it.state.tokens.create({
		name: 'd',
		role: 'deployer',
		apps: null,
		environments: null,
		expiresAt: null,
		by: 'x',
	});
	assert.equal((await it.ask('POST', '/api/v1/backups', { token: secret, json: { seal: null } })).status, 403);
	const kdf = { name: 'scrypt', cost: 2, blockSize: 1, parallelization: 1, salt: '' };
	assert.equal((await it.ask('POST', '/api/v1/backups', { json: { seal: { kdf, key: 'c2hvcnQ=' } } })).status, 400);
	assert.equal((await it.ask('POST', '/api/v1/backups', { json: {} })).status, 400);
	const [entry] = await it.state.audit.list({ limit: 1 });
	assert.notEqual(entry?.action, 'backup.made');
	const found = await kinds(await begin(it));
	assert.deepEqual([found[0], found[1], found.at(-1)], [RECORD.header, RECORD.installation, RECORD.end]);
	assert.deepEqual((await it.state.audit.list({ limit: 1 }))[0]?.action, 'backup.made');
});

test('one at a time; one that is given up holds nothing, and the next goes', async (t) => {
	const it = await startControl(t, cluster);
	await withBlobs(it);
	const given = await begin(it);
	const second = await it.ask('POST', '/api/v1/backups', { json: { seal: null } });
	assert.equal(second.status, 409);
	given.destroy();
	const response = await eventually(async () => {
		const next = await begin(it);
		if (next.statusCode === 200) return next;
		next.resume();
		return null;
	}, 'a second backup');
	assert.ok((await kinds(response)).filter((kind) => kind === RECORD.pack).length > 1);
	await eventually(async () => ((await openSnapshots()) === 0 ? true : null), 'an end of the snapshots');
});

/** Transactions that would hold up the database's housekeeping. */
async function openSnapshots(): Promise<number> {
	const client = new pg.Client(cluster.postgres.connection);
	await client.connect();
	const { rows } = await client.query<{ n: number }>(
		`select count(*)::int as n from pg_stat_activity where xact_start is not null and pid <> pg_backend_pid() and state like 'idle in%'`,
	);
	await client.end();
	return rows[0]!.n;
}

test('a deploy goes while a backup is taken slowly', async (t) => {
	const it = await startControl(t, cluster);
	it.obedientDepot();
	await withBlobs(it);
	const slow = await begin(it);
	assert.equal((await it.deploy('shop', { detach: true })).status, 200);
	assert.equal((await kinds(slow)).at(-1), RECORD.end);
});

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { systemClock, type Clock } from '#clock/clock.ts';
import { sha256 } from '#digest/digest.ts';
import type { StepEntry, StepParts } from '#wire/steps.ts';
import pg from 'pg';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import type { Connection, State } from './state.ts';

const DAY_MS = 86_400_000;
let cluster: TestCluster;
let database: Connection;
let state: State;
let now = 1_800_000_000_000;
const clock: Clock = { ...systemClock, now: () => now };
before(async () => {
	cluster = await startCluster();
	database = await cluster.database();
	state = await cluster.state({ clock, database });
});
after(() => cluster.stop());

const KEY = sha256('key');
const PARTS: StepParts = {
	format: 1,
	run: 'make css',
	env: {},
	secrets: [],
	network: false,
	outputs: ['public/**'],
	strip: false,
	directory: '',
	epoch: 0,
	platform: 'linux-x64-glibc',
	toolchain: 't1',
	sandbox: 'isolated',
	dependencies: null,
	needs: {},
	inputs: sha256('inputs'),
};
const ENTRY: StepEntry = {
	key: KEY,
	exitCode: 0,
	outputs: sha256('tar'),
	outputBytes: 3,
	archive: sha256('archive'),
	log: sha256('log'),
	ms: 5,
	summary: null,
	savedBytes: 0,
	builder: 'b1',
	at: now,
};

test('an entry is written once, and found by those who may read its domain', async () => {
	const place = { scope: 'repository:a', key: KEY };
	assert.equal(await state.steps.store({ ...place, domain: 'preview/x', entry: ENTRY, parts: PARTS }), true);
	assert.equal(
		await state.steps.store({ ...place, domain: 'preview/x', entry: { ...ENTRY, archive: sha256('poison') }, parts: PARTS }),
		false,
	);
	assert.deepEqual(await state.steps.find({ ...place, domains: ['preview/x', 'production'] }), { entry: ENTRY, corrupt: false });
	for (const domains of [['production'], ['preview/y', 'production']]) {
		assert.deepEqual(await state.steps.find({ ...place, domains }), { entry: null, corrupt: false });
	}
	assert.equal((await state.steps.find({ scope: 'repository:b', key: KEY, domains: ['preview/x'] })).entry, null);
});

test('one that failed is not found again, and gives way to one that passed', async () => {
	const place = { scope: 'repository:fails', key: KEY, domain: 'production' };
	assert.equal(await state.steps.store({ ...place, entry: { ...ENTRY, exitCode: 1 }, parts: PARTS }), true);
	assert.equal((await state.steps.find({ ...place, domains: ['production'] })).entry, null);
	assert.equal(await state.steps.store({ ...place, entry: ENTRY, parts: PARTS }), true);
	assert.deepEqual((await state.steps.find({ ...place, domains: ['production'] })).entry, ENTRY);
});

test('an entry that was changed in the database is no entry any more', async () => {
	const place = { scope: 'repository:changed', key: KEY };
	await state.steps.store({ ...place, domain: 'production', entry: ENTRY, parts: PARTS });
	const client = new pg.Client(database);
	await client.connect();
	const other = JSON.stringify(sha256('other'));
	await client.query(`update jibe.step_entry set entry = jsonb_set(entry, '{archive}', $1) where scope = 'repository:changed'`, [other]);
	await client.end();
	assert.deepEqual(await state.steps.find({ ...place, domains: ['production'] }), { entry: null, corrupt: true });
	assert.deepEqual(await state.steps.find({ ...place, domains: ['production'] }), { entry: null, corrupt: false });
	assert.equal(await state.steps.store({ ...place, domain: 'production', entry: ENTRY, parts: PARTS }), true);
});

test('runs are told newest first, from the one that is named on', async () => {
	const run = (deployment: string, at: number) => ({
		app: 'notes', environment: 'production', name: 'css', deployment, scope: 's', domain: 'production', key: KEY, parts: PARTS, cached: false, at,
	}); // prettier-ignore
	for (const [i, id] of ['dpl_00000001', 'dpl_00000002', 'dpl_00000003'].entries()) await state.steps.ran(run(id, now + i));
	const of = { app: 'notes', environment: 'production', name: 'css', limit: 2 };
	const ids = async (deployment: string | null) => (await state.steps.runs({ ...of, deployment })).map((one) => one.deployment);
	assert.deepEqual(await ids(null), ['dpl_00000003', 'dpl_00000002']);
	assert.deepEqual(await ids('dpl_00000002'), ['dpl_00000002', 'dpl_00000001']);
	assert.deepEqual(await ids('dpl_99999999'), []);
	assert.deepEqual(await state.steps.names('notes', 'production'), ['css']);
});

test('blobs of entries stay until they were unused for two weeks', async () => {
	const place = { scope: 'repository:kept', key: KEY };
	await state.steps.store({ ...place, domain: 'production', entry: ENTRY, parts: PARTS });
	for (const digest of [ENTRY.archive!, ENTRY.log!, PARTS.inputs]) assert((await state.collect(now)).wanted.has(digest));
	now += 13 * DAY_MS;
	assert.notEqual((await state.steps.find({ ...place, domains: ['production'] })).entry, null);
	now += 13 * DAY_MS;
	assert((await state.collect(now)).wanted.has(ENTRY.archive!), 'it was used');
	now += 5 * DAY_MS;
	assert.equal((await state.collect(now)).wanted.has(ENTRY.archive!), false);
	assert.equal((await state.steps.find({ ...place, domains: ['production'] })).entry, null);
});

import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import type { Clock } from '#clock/clock.ts';
import { systemClock } from '#clock/clock.ts';
import { sha256 } from '#digest/digest.ts';
import { openDiskStore } from '#store/disk.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import { ARTIFACT, BLOBS, newDeployment, newRelease, prepared } from '../../test/fixtures/release.ts';
import type { NewToken, State } from './state.ts';

const MINUTE_MS = 60_000;
const DAY_MS = 86_400_000;

let cluster: TestCluster;
let state: State;
let now = 1_800_000_000_000;
/** Wall time stands still unless a test moves it. */
const clock: Clock = { ...systemClock, now: () => now };
before(async () => {
	cluster = await startCluster();
});
after(() => cluster.stop());

const EMPTY_PLAN = () => ({ rollout: null, regions: [], writes: [] });
const ANN: NewToken = { name: 'ann', role: 'deployer', apps: ['notes'], environments: null, expiresAt: null, by: 'token:admin' };

describe('tokens and logins', () => {
	beforeEach(async () => {
		state ??= await cluster.state({ clock });
	});

	test('a secret is good until its token is revoked, and never stored', async () => {
		const { token, secret } = await state.tokens.create(ANN);
		assert.deepEqual((await state.tokens.verify(secret))?.apps, ['notes']);
		assert.equal((await state.tokens.verify(secret))?.lastUsedAt, now);
		const listed = (await state.tokens.list()).find((one) => one.id === token.id);
		assert.ok(listed && !JSON.stringify(listed).includes(secret.slice(-20)));
		assert.equal(await state.tokens.revoke(token.id, 'token:admin'), true);
		assert.equal(await state.tokens.revoke(token.id, 'token:admin'), false);
		assert.equal(await state.tokens.verify(secret), null);
		assert.deepEqual(
			(await state.audit.list({ limit: 2 })).map((entry) => entry.action),
			['token.revoked', 'token.created'],
		);
	});

	test('what is not exactly the secret is nobody', async () => {
		const { secret } = await state.tokens.create(ANN);
		const last = secret.endsWith('A') ? 'B' : 'A';
		for (const wrong of [
			'',
			'jibe_',
			`${secret.slice(0, -1)}${last}`,
			`${secret}x`,
			secret.toUpperCase(),
			`jibe_0000000000_${'a'.repeat(43)}`,
			"' or 1=1 --",
		]) {
			assert.equal(await state.tokens.verify(wrong), null, wrong);
		}
	});

	test('a token expires', async () => {
		const { secret } = await state.tokens.create({ ...ANN, expiresAt: now + 1000 });
		assert.ok(await state.tokens.verify(secret));
		now += 1000;
		assert.equal(await state.tokens.verify(secret), null);
	});

	test('a code signs in once, within five minutes; its session ends with the token', async () => {
		const { token } = await state.tokens.create(ANN);
		const { code } = await state.logins.createCode(token.id);
		const login = await state.logins.redeem(code);
		assert.equal(login?.token.id, token.id);
		assert.equal(await state.logins.redeem(code), null);
		assert.equal((await state.logins.session(login.session))?.name, 'ann');
		assert.equal(await state.logins.session('no such session'), null);
		await state.logins.end(login.session);
		assert.equal(await state.logins.session(login.session), null);

		const late = await state.logins.createCode(token.id);
		now += 5 * MINUTE_MS;
		assert.equal(await state.logins.redeem(late.code), null);

		const other = await state.logins.redeem((await state.logins.createCode(token.id)).code);
		const unused = await state.logins.createCode(token.id);
		await state.tokens.revoke(token.id, 'token:admin');
		assert.equal(await state.logins.session(other!.session), null);
		assert.equal(await state.logins.redeem(unused.code), null);
	});
});

describe('env, apps and regions', () => {
	test('env changes are staged until a release takes them; their values are in no event and no audit entry', async () => {
		await state.blobs.own('notes', BLOBS);
		const cursor = await state.events.latest();
		const of = { app: 'notes', environment: 'production', by: 'token:ann' };
		await state.env.change({ ...of, set: { LOG_LEVEL: 'debug', GREETING: 'hunter2' }, unset: [] });
		const changed = await state.env.change({ ...of, set: {}, unset: ['LOG_LEVEL'] });
		assert.deepEqual(changed, { values: { GREETING: 'hunter2' }, staged: ['GREETING', 'LOG_LEVEL'] });
		assert.deepEqual(await state.env.get('notes', 'staging'), { values: {}, staged: [] });
		await state.deployments.create(newDeployment('notes', { plan: EMPTY_PLAN }));
		assert.deepEqual(await state.env.get('notes', 'production'), { values: { GREETING: 'hunter2' }, staged: [] });
		const told = JSON.stringify([await state.events.after(cursor), await state.audit.list({ app: 'notes', limit: 10 })]);
		assert.ok(told.includes('env.changed') && told.includes('GREETING'));
		assert.ok(!told.includes('hunter2'));
	});

	test('apps list with the environments they were deployed to', async () => {
		await state.blobs.own('shop', BLOBS);
		await state.deployments.create(newDeployment('shop', { environment: 'staging' }));
		await state.deployments.create(newDeployment('shop'));
		const row = (await state.apps.list()).find(({ app }) => app === 'shop');
		assert.deepEqual(row, { app: 'shop', environments: ['production', 'staging'], createdAt: now, readOnly: null });
	});

	test('regions keep the order they are given in', async () => {
		await state.regions.set([{ name: 'fra', edgePort: 8080 }, { name: 'ams', edgePort: 8081 }, { name: 'lhr', edgePort: 8082 }]); // prettier-ignore
		await state.regions.set([{ name: 'lhr', edgePort: 9080 }, { name: 'fra', edgePort: 9081 }]); // prettier-ignore
		assert.deepEqual(await state.regions.list(), [
			{ name: 'lhr', position: 0, edgePort: 9080 },
			{ name: 'fra', position: 1, edgePort: 9081 },
		]);
	});

	test('the installation is made once; its key signs', async () => {
		const first = await state.installation();
		assert.match(first.privatePem, /BEGIN PRIVATE KEY/);
		assert.deepEqual(await state.installation(), first);
	});

	test('audit entries page backwards', async () => {
		for (const action of ['one', 'two', 'three']) {
			await state.audit.write({ at: now, by: 'jibe', action, app: 'paged', environment: null, detail: { action } });
		}
		const [three, two] = await state.audit.list({ app: 'paged', limit: 2 });
		assert.deepEqual([three?.action, two?.action], ['three', 'two']);
		const rest = await state.audit.list({ app: 'paged', limit: 2, before: two?.id });
		assert.deepEqual(
			rest.map((entry) => entry.detail),
			[{ action: 'one' }],
		);
	});
});

describe('blobs', () => {
	test('belong to the app that sent them; what the store lost is missing', async () => {
		const dir = await mkdtemp(join(tmpdir(), 'jibe-blobs-'));
		try {
			const store = await openDiskStore(dir, { durable: false });
			const [a, b] = await store.write([Buffer.from('a'), Buffer.from('b')]);
			const never = sha256('never');
			await state.blobs.own('mine', [a!, b!, b!]);
			assert.deepEqual(await state.blobs.owned('mine', [a!, never]), new Set([a]));
			assert.deepEqual(await state.blobs.missing('mine', [a!, b!, never], store), [never]);
			assert.deepEqual(await state.blobs.missing('theirs', [a!, b!], store), [a, b]);
			await store.delete([a!]);
			assert.deepEqual(await state.blobs.missing('mine', [a!, b!], store), [a]);
			assert.deepEqual(await state.blobs.missing('mine', [], store), []);
		} finally {
			await rm(dir, { recursive: true });
		}
	});

	test('the last 50 manifests of an app are bases for its deltas, and for no other app', async () => {
		for (let i = 0; i < 52; i++) {
			now += 1;
			await state.blobs.sawManifest('delta', sha256(`m${i}`));
		}
		const known = await Promise.all([1, 2, 51].map((i) => state.blobs.knowsManifest('delta', sha256(`m${i}`))));
		assert.deepEqual(known, [false, true, true]);
		assert.equal(await state.blobs.knowsManifest('other', sha256('m51')), false);
	});
});

describe('retention', () => {
	test('keeps releases that are recent, were live, or are wanted; their blobs, and leased ones', async () => {
		const own = await cluster.state({ clock });
		const begin = now;
		const digest = (i: number) => sha256(`release ${i}`);
		const deploy = async (i: number, end: 'Deployed' | 'DeployFailed', plan = EMPTY_PLAN) => {
			await own.blobs.own('kept', [ARTIFACT, digest(i)]);
			const release = newRelease('kept', [ARTIFACT, digest(i)]);
			const { deployment } = await own.deployments.create(newDeployment('kept', { release, plan }));
			const step = { deployment: deployment.id, fence: 1, at: now };
			if (end === 'DeployFailed') return own.deployments.advance({ ...step, version: 1, to: end });
			await own.deployments.advance({ ...step, version: 1, to: 'RollingOut' });
			return own.deployments.advance({ ...step, version: 2, to: end });
		};
		await deploy(1, 'DeployFailed');
		await deploy(2, 'Deployed');
		// Never live, but a region still runs it.
		await deploy(3, 'DeployFailed', () => ({ rollout: null, regions: [], writes: prepared(3) }) as never);
		now = begin + 31 * DAY_MS;
		await own.blobs.own('kept', [sha256('leased')]);
		const collected = await own.collect(now);
		assert.equal(collected.releases, 1);
		assert.deepEqual(
			(await own.deployments.releases('kept', [1, 2, 3])).map((row) => row.release),
			[2, 3],
		);
		assert.deepEqual(collected.wanted, new Set([ARTIFACT, digest(2), digest(3), sha256('leased')]));
		assert.deepEqual((await own.collect(now + 3_600_001)).wanted, new Set([ARTIFACT, digest(2), digest(3)]));
		// What was collected can't be deployed again without sending it.
		const again = newDeployment('kept', { release: newRelease('kept', [ARTIFACT, digest(1)]), plan: EMPTY_PLAN });
		await assert.rejects(own.deployments.create(again), { code: 'blob_missing' });
	});

	test('what tells regions to forget a removed app goes after 30 days; the app begins anew beyond what they may know', async () => {
		const own = await cluster.state({ clock });
		const app = 'forgotten';
		await own.blobs.own(app, BLOBS);
		await own.deployments.create(newDeployment(app));
		const { epoch } = await own.installation();
		const writes = prepared(1, { epoch, version: 1 }).map((write) => ({ ...write, run: [] }));
		await own.deployments.write({ app, environment: 'production', removed: true, writes });
		await own.apps.remove(app, 'token:ann');
		await own.collect(now + 29 * DAY_MS);
		assert.equal((await own.deployments.wants({ app })).length, 3);
		await own.collect(now + 31 * DAY_MS);
		assert.deepEqual(await own.deployments.wants({ app }), []);
		assert.deepEqual(await own.apps.forgotten(), { epoch, versions: new Map([[app, 2]]) });
		await own.blobs.own(app, BLOBS);
		const again = await own.deployments.create(newDeployment(app));
		assert.deepEqual(
			again.wants.map(({ version }) => version),
			[3, 3, 3],
		);
		await own.deployments.write({ app, environment: 'production', writes: prepared(2, { epoch, version: 3 }) });
		assert.equal((await own.deployments.wants({ app }))[0]?.version, 4);
	});

	test('a create that leans on a release which was collected meanwhile looks again, and is refused', async () => {
		const own = await cluster.state({ clock });
		const blobs = [ARTIFACT, sha256('only here')];
		await own.blobs.own('lean', blobs);
		const release = newRelease('lean', blobs);
		const { deployment } = await own.deployments.create(newDeployment('lean', { release, plan: EMPTY_PLAN }));
		await own.deployments.advance({ deployment: deployment.id, fence: 1, version: 1, at: now, to: 'DeployFailed' });
		now += 31 * DAY_MS;
		assert.equal((await own.collect(now)).releases, 1);
		await assert.rejects(own.deployments.create(newDeployment('lean', { release, plan: EMPTY_PLAN })), { code: 'blob_missing' });
	});

	test('events stay for 90 days after their deployment ended, audit entries for 400', async () => {
		const own = await cluster.state({ clock });
		await own.blobs.own('old', BLOBS);
		const { deployment } = await own.deployments.create(newDeployment('old', { plan: EMPTY_PLAN }));
		now += 200 * DAY_MS;
		assert.equal((await own.collect(now)).events, 0, 'it has not ended');
		await own.deployments.advance({ deployment: deployment.id, fence: 1, version: 1, at: now, to: 'DeployFailed' });
		now += 89 * DAY_MS;
		assert.equal((await own.collect(now)).events, 0);
		now += 2 * DAY_MS;
		const collected = await own.collect(now);
		assert.deepEqual([collected.events, collected.auditEntries], [6, 0]);
		now += 200 * DAY_MS;
		assert.equal((await own.collect(now)).auditEntries, 1);
	});
});

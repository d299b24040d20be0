import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { EDGE_LIST } from '#pipeline/states.ts';
import type { Event } from '#wire/api.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import { ARTIFACT, BLOBS, newDeployment, newRelease, prepared, REGIONS, serving } from '../../test/fixtures/release.ts';
import type { NewDeployment, State } from './state.ts';

let cluster: TestCluster;
let state: State;
before(async () => {
	cluster = await startCluster();
});
after(() => cluster.stop());

describe('a deployment', () => {
	before(async () => {
		state = await cluster.state();
	});

	test('PostgreSQL holds the table of pipeline/', async () => {
		const client = new pg.Client(await cluster.database());
		await client.connect();
		const { rows } = await client.query<{ edge: string }>(`select from_state || ' → ' || to_state as edge from jibe.transition`);
		await client.end();
		assert.deepEqual(rows.map((row) => row.edge).toSorted(), EDGE_LIST.map(([from, to]) => `${from} → ${to}`).toSorted());
	});

	test('is created with its release, wants and events, all at once', async () => {
		await state.blobs.own('notes', BLOBS);
		const cursor = await state.events.latest();
		const made = await state.deployments.create(newDeployment('notes'));
		assert.match(made.deployment.id, /^dpl_[0-9a-hjkmnp-tv-z]{8}$/);
		assert.equal(made.deployment.release, 1);
		assert.equal(made.deployment.commit, 'c0ffee');
		assert.deepEqual(made.rollout, { phase: 'prepare', release: 1 });
		assert.equal(made.spec.release, 1);
		assert.equal(made.spec.deployment, made.deployment.id);
		assert.deepEqual(
			made.wants.map((want) => [want.region, want.epoch, want.version, want.deployment]),
			REGIONS.map((region) => [region, 1, 1, made.deployment.id]),
		);
		const events = await state.events.after(cursor);
		assert.deepEqual(events.map((event) => [event.type, event.data['state'], event.data['from']]).slice(0, 5), [
			['deployment.state', 'Queued', null],
			['deployment.state', 'Building', 'Queued'],
			['deployment.state', 'Uploading', 'Building'],
			['deployment.state', 'ReadyToDeploy', 'Uploading'],
			['deployment.state', 'Deploying', 'ReadyToDeploy'],
		]);
		assert.equal(events.length, 5 + REGIONS.length);
		assert.deepEqual(await state.deployments.deployment(made.deployment.id), made.deployment);
		assert.equal((await state.audit.list({ app: 'notes', limit: 1 }))[0]?.action, 'deployment.created');
	});

	test('completes a migration: from that release on, and never back', async () => {
		const app = 'migrated';
		await state.blobs.own(app, BLOBS);
		const { deployment, fence, version } = await state.deployments.create(newDeployment(app));
		assert.equal(await state.deployments.floor(app, 'production'), null);
		const step = { deployment: deployment.id, fence, at: 5 };
		await state.deployments.advance({ ...step, version, floor: 4 });
		await state.deployments.advance({ ...step, version: version + 1, floor: 3 });
		assert.equal(await state.deployments.floor(app, 'production'), 4);
		assert.equal(await state.deployments.floor(app, 'staging'), null);
		await assert.rejects(state.deployments.advance({ ...step, version, floor: 9 }), { code: 'stale' });
		assert.equal(await state.deployments.floor(app, 'production'), 4, 'a step that is refused leaves it as it is');
	});

	test('walks: one transaction a step, each over the version of the last', async () => {
		const app = 'walker';
		await state.blobs.own(app, BLOBS);
		const { deployment, fence, version } = await state.deployments.create(newDeployment(app));
		const seen = { epoch: 1, version: 1 };
		const canary = await state.deployments.advance({
			deployment: deployment.id, fence, version, at: 2000, to: 'CanaryCheck', writes: serving(1, seen, ['fra']), rollout: { phase: 'canary' },
		}); // prettier-ignore
		assert.equal(canary.version, 2);
		assert.deepEqual(
			canary.wants.map((want) => [want.region, want.version, want.pointer.primary]),
			[['fra', 2, 1]],
		);
		const rolling = await state.deployments.advance({
			deployment: deployment.id, fence, version: 2, at: 2100, to: 'RollingOut', writes: serving(1, seen, ['ams', 'lhr']),
			events: [{ type: 'deployment.region', data: { region: 'fra', state: 'live' } }],
		}); // prettier-ignore
		const cursor = await state.events.latest();
		const done = await state.deployments.advance({
			deployment: deployment.id, fence, version: rolling.version, at: 2200, to: 'Deployed', watchUntil: 302_200, reason: null,
			detail: 'null \0 and half a pair \ud800', canary: { region: 'fra', status: 200, p50Ms: 3, maxMs: 9 }, coldStarts: 2,
			timings: { prepareMs: 1, canaryMs: 2, rolloutMs: 3 }, regions: [{ name: 'fra', state: 'live', ms: 12, reason: null }],
		}); // prettier-ignore
		assert.equal(done.deployment.state, 'Deployed');
		assert.equal(done.deployment.endedAt, 2200);
		assert.equal(done.deployment.detail, 'null \ufffd and half a pair \ufffd');
		assert.deepEqual(
			done.deployment.stages.slice(-3).map((stage) => stage.state),
			['CanaryCheck', 'RollingOut', 'Deployed'],
		);
		assert.equal(done.deployment.coldStarts, 2);
		assert.deepEqual(
			(await state.events.after(cursor)).map((event) => event.type),
			['deployment.state'],
		);
		assert.ok(
			(await state.deployments.open()).some((held) => held.deployment.id === deployment.id),
			'still watching',
		);
		await state.deployments.advance({ deployment: deployment.id, fence, version: done.version, at: 302_200, watchUntil: null });
		assert.ok(!(await state.deployments.open()).some((held) => held.deployment.id === deployment.id));
	});

	test('a step of a former owner, an old version, and an edge that is not there are refused and change nothing', async () => {
		const app = 'fenced';
		await state.blobs.own(app, BLOBS);
		const { deployment, fence, version } = await state.deployments.create(newDeployment(app));
		const taken = await state.deployments.take(deployment.id, 'control-2');
		assert.deepEqual([taken.fence, taken.version, taken.rollout], [fence + 1, version, { phase: 'prepare', release: 1 }]);
		const cursor = await state.events.latest();
		const step = { deployment: deployment.id, fence: taken.fence, version, at: 1 };
		await assert.rejects(state.deployments.advance({ ...step, fence, to: 'CanaryCheck' }), { code: 'fenced' });
		await assert.rejects(state.deployments.advance({ ...step, version: 7, to: 'CanaryCheck' }), { code: 'stale' });
		await assert.rejects(state.deployments.advance({ ...step, to: 'Deployed' }), { code: 'illegal_transition' });
		await assert.rejects(state.deployments.advance({ ...step, deployment: 'dpl_00000000' }), { code: 'unknown' });
		// One region of three was written by somebody else: none is written.
		await state.deployments.write({ app, environment: 'production', writes: serving(1, { epoch: 1, version: 1 }, ['ams']) });
		const wave = state.deployments.advance({ ...step, to: 'RollingOut', writes: serving(1, { epoch: 1, version: 1 }) });
		await assert.rejects(wave, { code: 'stale' });
		const wants = await state.deployments.wants({ app });
		assert.deepEqual(wants.map((want) => [want.region, want.version]), [['ams', 2], ['fra', 1], ['lhr', 1]]); // prettier-ignore
		assert.equal((await state.deployments.deployment(deployment.id))?.state, 'Deploying');
		assert.deepEqual(
			(await state.events.after(cursor)).map((event) => event.type),
			['pointer.written'],
		);
	});

	test('a release whose blobs are not there is refused, and its app gets no release', async () => {
		await state.blobs.own('holes', BLOBS.slice(1));
		await assert.rejects(state.deployments.create(newDeployment('holes')), {
			code: 'blob_missing',
			message: /holes has not stored sha256:[0-9a-f]{64}/,
		});
		assert.deepEqual(await state.deployments.releases('holes', [1]), []);
		assert.deepEqual(await state.deployments.wants({ app: 'holes' }), []);
		// Another app's blobs are not this one's.
		await state.blobs.own('other', BLOBS);
		await assert.rejects(state.deployments.create(newDeployment('holes')), { code: 'blob_missing' });
	});

	test('eight at once get eight numbers; the first pointer of a region is written once', async () => {
		const app = 'crowd';
		await state.blobs.own(app, BLOBS);
		const plain: NewDeployment['plan'] = (release) => ({ rollout: release, regions: [], writes: [] });
		const made = await Promise.all(Array.from({ length: 8 }, () => state.deployments.create(newDeployment(app, { plan: plain }))));
		assert.deepEqual(
			made.map((one) => one.deployment.release).toSorted((a, b) => a - b),
			[1, 2, 3, 4, 5, 6, 7, 8],
		);
		assert.ok(
			made.every((one) => one.rollout === one.deployment.release),
			'plan is told the number that it got',
		);
		const write = () => state.deployments.write({ app, environment: 'production', writes: prepared(1) });
		const outcomes = await Promise.allSettled([write(), write(), write()]);
		assert.deepEqual(outcomes.map((outcome) => outcome.status).toSorted(), ['fulfilled', 'rejected', 'rejected']);
	});

	test('a newer one supersedes those that wait, in its own transaction', async () => {
		const app = 'queue';
		await state.blobs.own(app, BLOBS);
		const plain: NewDeployment['plan'] = () => ({ rollout: null, regions: [], writes: [] });
		const waiting = await state.deployments.create(newDeployment(app, { plan: plain, state: 'ReadyToDeploy' }));
		await state.deployments.create(newDeployment(app, { plan: plain, supersedes: [waiting.deployment.id] }));
		const old = await state.deployments.deployment(waiting.deployment.id);
		assert.deepEqual([old?.state, old?.reason, old?.stages.at(-1)?.state], ['Superseded', 'superseded', 'Superseded']);
		const late = { deployment: waiting.deployment.id, fence: waiting.fence, version: waiting.version, at: 1, to: 'Deploying' as const };
		await assert.rejects(state.deployments.advance(late), { code: 'fenced' });
		// One that moved a pointer can't be: nothing at all happens.
		const moved = await state.deployments.create(newDeployment(app, { plan: plain }));
		await state.deployments.advance({ deployment: moved.deployment.id, fence: 1, version: 1, at: 1, to: 'RollingOut' });
		await assert.rejects(state.deployments.create(newDeployment(app, { plan: plain, supersedes: [moved.deployment.id] })), {
			code: 'illegal_transition',
		});
		assert.equal((await state.deployments.history({ app, limit: 10 })).length, 3);
	});

	test('a rollback refers to a release that exists', async () => {
		const app = 'back';
		await state.blobs.own(app, BLOBS);
		await state.deployments.create(newDeployment(app));
		const rollback = {
			kind: 'rollback',
			release: 1,
			previous: 1,
			stages: [],
			git: null,
			modules: null,
			plan: () => ({ rollout: null, regions: [], writes: [] }),
		} as const;
		const made = await state.deployments.create(newDeployment(app, { ...rollback, stages: [] }));
		assert.deepEqual([made.deployment.kind, made.deployment.artifact, made.deployment.commit], ['rollback', ARTIFACT, 'c0ffee']);
		await assert.rejects(state.deployments.create(newDeployment(app, { ...rollback, stages: [], release: 9 })), { code: 'unknown' });
		const [first] = await state.deployments.releases(app, [1, 2]);
		assert.deepEqual([first?.release, first?.commit, first?.env], [1, 'c0ffee', { LOG_LEVEL: 'info' }]);
		const whole = await state.deployments.release(app, 1);
		assert.deepEqual(whole?.blobs, BLOBS);
		assert.deepEqual(whole?.spec, newRelease(app).spec);
	});

	test('history is newest first and pages by time', async () => {
		const app = 'pages';
		await state.blobs.own(app, BLOBS);
		const ids: string[] = [];
		for (let i = 0; i < 3; i++) {
			const made = await state.deployments.create(newDeployment(app, { plan: () => ({ rollout: null, regions: [], writes: [] }) }));
			ids.push(made.deployment.id);
		}
		const all = await state.deployments.history({ app, limit: 10 });
		assert.equal(all.length, 3);
		assert.deepEqual(new Set(all.map((one) => one.id)), new Set(ids));
		const older = await state.deployments.history({ app, limit: 10, before: all[0]?.createdAt });
		assert.ok(older.every((one) => one.createdAt < (all[0]?.createdAt ?? 0)));
		assert.deepEqual(await state.deployments.history({ app, environment: 'staging', limit: 10 }), []);
	});

	test('a raised epoch makes every later pointer newer; a read-only app gets none', async () => {
		const app = 'epochs';
		await state.blobs.own(app, BLOBS);
		const made = await state.deployments.create(newDeployment(app));
		const epoch = await state.raiseEpoch('token:ann');
		assert.equal((await state.installation()).epoch, epoch);
		const [want] = await state.deployments.write({ app, environment: 'production', writes: serving(1, { epoch: 1, version: 1 }, ['fra']) });
		assert.deepEqual([want?.epoch, want?.version, want?.deployment], [epoch, 2, null]);
		await state.apps.setReadOnly(app, 'fra has seen 9/9', 'jibe');
		const step = {
			deployment: made.deployment.id,
			fence: 1,
			version: 1,
			at: 1,
			to: 'RollingOut' as const,
			writes: serving(1, { epoch, version: 2 }, ['fra']),
		};
		await assert.rejects(state.deployments.advance(step), { code: 'read_only', message: 'fra has seen 9/9' });
		assert.equal((await state.apps.list()).find((row) => row.app === app)?.readOnly, 'fra has seen 9/9');
	});

	test('an app that was removed is gone from the list, told to the regions, and can begin anew', async () => {
		const app = 'gone';
		await state.blobs.own(app, BLOBS);
		await state.deployments.create(newDeployment(app));
		const writes = REGIONS.map((region) => ({
			region,
			expect: { epoch: 1, version: 1 },
			pointer: { primary: null, candidate: null, hold: null },
			run: [],
		}));
		const epoch = (await state.installation()).epoch;
		const wants = await state.deployments.write({
			app,
			environment: 'production',
			removed: true,
			writes: writes.map((write) => ({ ...write, expect: { epoch, version: 1 } })),
		});
		assert.ok(wants.length === 3 && wants.every((want) => want.removed));
		await state.apps.remove(app, 'token:ann');
		assert.ok(!(await state.apps.list()).some((row) => row.app === app));
		assert.equal((await state.deployments.history({ app, limit: 10 })).length, 1);
		await assert.rejects(state.deployments.create(newDeployment(app)), { code: 'blob_missing' });
		await state.blobs.own(app, BLOBS);
		const again = await state.deployments.create(
			newDeployment(app, { plan: (release) => ({ rollout: null, regions: [], writes: prepared(release, { epoch, version: 2 }) }) }),
		);
		assert.equal(again.deployment.release, 2);
		assert.ok(again.wants.every((want) => want.removed === undefined && want.version === 3));
	});
});

describe('events', () => {
	test('come in the order of their cursors to every subscriber, none twice, none missed, while many write', async () => {
		const own = await cluster.state();
		await own.blobs.own('busy', BLOBS);
		const heard: Event[] = [];
		const begin = await own.events.latest();
		const writers = 12;
		const each = 8;
		const total = writers * each;
		await new Promise<void>((resolve, reject) => {
			const stop = own.events.subscribe((event) => {
				heard.push(event);
				if (heard.length < total) return;
				stop();
				resolve();
			});
			const write = async () => {
				for (let i = 0; i < each; i++) {
					await own.events.add([{ at: i, type: 'region.lost', app: null, environment: null, deployment: null, data: { region: 'fra' } }]);
				}
			};
			Promise.all(Array.from({ length: writers }, write)).catch(reject);
		});
		const cursors = heard.map((event) => event.cursor);
		assert.deepEqual(
			cursors,
			cursors.toSorted((a, b) => a - b),
		);
		assert.equal(new Set(cursors).size, total);
		assert.deepEqual(
			(await own.events.after(begin)).map((event) => event.cursor),
			cursors,
		);
		assert.equal((await own.events.after(begin, 5)).length, 5);
	});

	test('a transaction that commits late is not overtaken: a reader past its cursor would never see it', async () => {
		const database = await cluster.database();
		const own = await cluster.state({ database });
		const heard: unknown[] = [];
		own.events.subscribe((event) => heard.push(event.data['n']));
		const [slow, watcher] = [new pg.Client(database), new pg.Client(database)];
		await Promise.all([slow.connect(), watcher.connect()]);
		const event = (n: number) => ({ at: 1, type: 'test', app: null, environment: null, deployment: null, data: { n } });
		await slow.query('begin');
		await slow.query('select jibe.publish($1)', [JSON.stringify([event(1)])]);
		let committed = false;
		const second = own.events.add([event(2)]).then(() => (committed = true));
		const waits = async () => (await watcher.query(`select from pg_locks where locktype = 'advisory' and not granted`)).rowCount === 1;
		while (!committed && !(await waits()));
		await slow.query('commit');
		await second;
		await own.events.add([event(3)]);
		while (!heard.includes(3)) await new Promise((resolve) => own.events.subscribe(resolve));
		assert.deepEqual(heard, [1, 2, 3]);
		await Promise.all([slow.end(), watcher.end()]);
	});

	test('another process that writes is heard too', async () => {
		const database = await cluster.database();
		const [one, other] = [await cluster.state({ database }), await cluster.state({ database })];
		const heard = new Promise<Event>((resolve) => one.events.subscribe(resolve));
		await other.events.add([{ at: 7, type: 'region.back', app: null, environment: null, deployment: null, data: { region: 'ams' } }]);
		assert.deepEqual((await heard).data, { region: 'ams' });
	});

	test('a cursor that was pruned or never was is refused: a snapshot is needed', async () => {
		const own = await cluster.state();
		await own.events.add([{ at: 1000, type: 'region.lost', app: null, environment: null, deployment: null, data: {} }]);
		const latest = await own.events.latest();
		assert.deepEqual(await own.events.after(latest), []);
		await assert.rejects(own.events.after(latest + 1), { code: 'cursor_pruned' });
		const collected = await own.collect(1000 + 91 * 86_400_000);
		assert.equal(collected.events, 1);
		await assert.rejects(own.events.after(latest - 1), { code: 'cursor_pruned' });
		assert.deepEqual(await own.events.after(latest), []);
	});
});

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { systemClock } from '#clock/clock.ts';
import type { StepReport } from '#wire/builds.ts';
import { COMMITS, newBuild } from '../../test/fixtures/build.ts';
import { startCluster, testLog, type TestCluster } from '../../test/fixtures/database.ts';
import { newDeployment, newRelease, BLOBS } from '../../test/fixtures/release.ts';
import type { Fence } from './builds.ts';
import { openState } from './open.ts';
import type { State, StateError } from './state.ts';

const [A, B, C] = COMMITS as [string, string, string];
const LEASE = { leaseMs: 30_000, limitMs: 1_800_000 };
const LINUX = 'linux-x64-glibc';
const END = { reason: null, detail: null, at: 5 };
const OVER = -1;

let cluster: TestCluster;
before(async () => (cluster = await startCluster()));
after(() => cluster.stop());

const claim = async (state: State, worker: string, of: Partial<typeof LEASE> & { platform?: string } = {}) => {
	const job = await state.builds.claim({ worker, platform: LINUX, ...LEASE, ...of });
	return job && { id: job.id, attempt: job.attempt, worker, job };
};
const claimed = async (...of: Parameters<typeof claim>): Promise<Fence> => (await claim(...of))!;
const stateOf = async (state: State, id: string) => (await state.builds.build(id))!.state;
const step = (name: string, change: Partial<StepReport> = {}): StepReport => ({
	name,
	kind: 'build',
	state: 'passed',
	cached: false,
	startedAt: 1,
	endedAt: 2,
	exitCode: 0,
	key: null,
	summary: null,
	...change,
});

describe('claims', () => {
	test('the higher priority first, one at a time of a lane, lanes by turns, and inside a lane apps by turns', async () => {
		const state = await cluster.state();
		const ask = (app: string, lane: string, commit: string, change = {}) =>
			state.builds.enqueue(newBuild({ app, lane, commit, branch: commit, ancestors: [], ...change }));
		const one = await ask('notes', 'mono', A);
		const two = await ask('notes', 'mono', B);
		const api = await ask('api', 'mono', A);
		const shop = await ask('shop', 'shop', A);
		const shop2 = await ask('shop', 'shop', B);
		const urgent = await ask('late', 'late', A, { priority: 'hotfix' });

		const first = [await claimed(state, 'w1'), await claimed(state, 'w2'), await claimed(state, 'w3')];
		assert.deepEqual(first.map(({ id }) => id), [urgent.id, one.id, shop.id]); // prettier-ignore
		assert.equal(await claim(state, 'w4'), null, 'each lane runs one');
		for (const of of first) await state.builds.finish(of, { state: 'BuildFailed', ...END });
		const then = [await claimed(state, 'w1'), await claimed(state, 'w2')];
		assert.deepEqual(then.map(({ id }) => id), [api.id, shop2.id]); // prettier-ignore
		await state.builds.finish(then[0]!, { state: 'BuildFailed', ...END });
		assert.equal((await claimed(state, 'w1')).id, two.id);
		assert.deepEqual(await state.builds.queue(), { waiting: 0, claimable: 0, running: 2, dead: 0, oldestMs: null });
	});

	test('many workers at once: each job is claimed once, whoever asks again gets what it has', async (t) => {
		const database = await cluster.database();
		const replicas = await Promise.all([1, 2, 3].map(() => openState({ database, log: testLog, clock: systemClock })));
		t.after(() => Promise.all(replicas.map((state) => state.close())));
		const asked = [];
		for (let n = 0; n < 30; n++) asked.push((await replicas[0]!.builds.enqueue(newBuild({ app: `a${n}`, lane: `a${n}` }))).id);
		const jobs: string[] = [];
		const work = async (worker: number) => {
			for (let tries = 0; tries < 60 && jobs.length < asked.length; tries++) {
				const of = await claim(replicas[worker % 3]!, `w${worker}`);
				if (!of) continue;
				assert.deepEqual((await claim(replicas[(worker + 1) % 3]!, `w${worker}`))?.job, of.job);
				jobs.push(of.id);
				await replicas[0]!.builds.finish(of, { state: 'TestFailed', ...END });
			}
		};
		await Promise.all([...Array.from({ length: 9 }).keys()].map(work));
		assert.deepEqual(jobs.toSorted(), asked.toSorted());
	});

	test('what is asked at the same time is answered each by itself: a refusal is nobody else’s, and a claim sees all before it', async (t) => {
		const state = await openState({ database: await cluster.database(), log: testLog, clock: systemClock });
		t.after(() => state.close());
		const ask = (commit: string, change = {}) => state.builds.enqueue(newBuild({ commit, branch: commit, ancestors: [], ...change }));
		const bad = { app: 'bad', lane: 'bad', force: 'perhaps' as unknown as boolean };
		const [first, second, refused, broken, job, none] = await Promise.allSettled([
			ask(A),
			ask(B),
			state.builds.finish({ id: 'dpl_00000000', attempt: 1, worker: 'w1' }, { state: 'BuildFailed', ...END }),
			ask(A, bad),
			claim(state, 'w1'),
			claim(state, 'w2'),
		]);
		assert.ok(first.status === 'fulfilled' && second.status === 'fulfilled' && job.status === 'fulfilled' && none.status === 'fulfilled');
		assert.deepEqual([job.value?.id, none.value], [first.value.id, null]);
		assert.equal(refused.status === 'rejected' && (refused.reason as StateError).code, 'unknown');
		assert.equal(broken.status, 'rejected');
		const [over, next, again] = await Promise.all([
			state.builds.finish(job.value!, { state: 'BuildFailed', ...END }),
			claim(state, 'w1'),
			claim(state, 'w1'),
		]);
		assert.deepEqual([over.state, next?.id, again?.id], ['BuildFailed', second.value.id, second.value.id]);
		const told = (await state.events.after(0)).map(({ deployment, data }) => [deployment, data['state']]);
		assert.deepEqual(told, [[first.value.id, 'Queued'], [second.value.id, 'Queued'], [first.value.id, 'Building'], [first.value.id, 'BuildFailed']]); // prettier-ignore
	});

	test('a job for another platform waits for its builder, and keeps nobody', async () => {
		const state = await cluster.state();
		const arm = await state.builds.enqueue(newBuild({ platform: 'linux-arm64-glibc', commit: A, branch: 'arm' }));
		const any = await state.builds.enqueue(newBuild({ commit: B, branch: 'any' }));
		assert.equal((await claimed(state, 'x64')).id, any.id);
		assert.equal(await claim(state, 'x64-too'), null);
		assert.equal((await claimed(state, 'arm', { platform: 'linux-arm64-glibc' })).id, arm.id);
	});
});

describe('what is needless', () => {
	test('the same commit is on its way already; a newer push supersedes what waits of its branch, and stops what runs', async () => {
		const state = await cluster.state();
		const first = await state.builds.enqueue(newBuild({ commit: A }));
		assert.deepEqual(await state.builds.enqueue(newBuild({ commit: A })), { id: first.id, already: true });
		const running = await claimed(state, 'w1');
		assert.deepEqual(await state.builds.enqueue(newBuild({ commit: A })), { id: first.id, already: true });
		const second = await state.builds.enqueue(newBuild({ commit: B, ancestors: [B, A] }));
		assert.deepEqual(await state.builds.beat(running, LEASE.leaseMs), { stop: 'superseded' });
		assert.equal(await stateOf(state, first.id), 'Superseded');
		assert.equal(await claim(state, 'w2'), null, 'the lane is not free before its builder has let go');
		const third = await state.builds.enqueue(newBuild({ commit: C, ancestors: [C, B, A] }));
		assert.equal(await stateOf(state, second.id), 'Superseded');
		assert.equal((await state.builds.finish(running, { state: 'Superseded', ...END })).was, 'stopping');
		assert.equal((await claimed(state, 'w2')).id, third.id);
		// What comes late of an older push.
		assert.deepEqual(await state.builds.enqueue(newBuild({ commit: B, ancestors: [B, A] })), { id: third.id, already: true });
	});

	test('what was deployed last is not built again, but something else in between is', async () => {
		const state = await cluster.state();
		await state.blobs.own('notes', BLOBS);
		const git = { commit: A, branch: 'main', dirty: false };
		const { deployment } = await state.deployments.create(newDeployment('notes', { git, state: 'Deploying' }));
		assert.deepEqual(await state.builds.enqueue(newBuild({ commit: A })), { id: deployment.id, already: true });
		const other = await state.builds.enqueue(newBuild({ commit: A, dirty: true, source: { kind: 'tar', digest: BLOBS[0]! } }));
		assert.equal(other.already, false);
		const forced = await state.builds.enqueue(newBuild({ commit: A, force: true }));
		assert.equal(forced.already, false);
	});
});

describe('the fence', () => {
	test('whoever is silent loses it: the next attempt has it, and every word of the former one is refused', async () => {
		const state = await cluster.state();
		const { id } = await state.builds.enqueue(newBuild());
		const first = await claimed(state, 'w1', { leaseMs: OVER });
		await state.builds.report(first, { state: 'Testing', at: 3, steps: [step('compile')], leaseMs: OVER });
		assert.deepEqual(await state.builds.sweep(3), [{ id, attempt: 1, worker: 'w1', outcome: 'lost', deployed: false }]);
		await assert.rejects(state.builds.beat(first, 1), { code: 'fenced' });
		const second = await claimed(state, 'w2');
		assert.deepEqual([second.id, second.attempt], [id, 2]);
		await state.blobs.own('notes', BLOBS);
		for (const words of [
			() => state.builds.beat(first, 1),
			() => state.builds.report(first, { state: 'Packaging', at: 4, steps: [], leaseMs: 1 }),
			() => state.builds.log(first, { first: 0, count: 1, bytes: 1, packed: Buffer.from('x') }),
			() => state.builds.finish(first, { state: 'BuildFailed', ...END }),
			() => state.deployments.create(newDeployment('notes', { build: { ...first, published: 1, gating: false, metadata: null } })),
		]) {
			await assert.rejects(words(), { code: 'fenced' });
		}
		// The second goes through what the first had been through.
		await state.builds.report(second, { state: 'Building', at: 5, steps: [], leaseMs: LEASE.leaseMs });
		assert.equal(await stateOf(state, id), 'Testing');
	});

	test('after three that were lost it is a dead letter, which a person may queue again', async () => {
		const state = await cluster.state();
		const { id } = await state.builds.enqueue(newBuild());
		for (const attempt of [1, 2, 3]) {
			assert.equal((await claimed(state, `w${attempt}`, { leaseMs: OVER })).attempt, attempt);
			const [swept] = await state.builds.sweep(3);
			assert.equal(swept?.outcome, attempt === 3 ? 'dead' : 'lost');
		}
		const dead = await state.builds.build(id);
		assert.deepEqual([dead?.state, dead?.reason, dead?.dead, dead?.phase], ['TimedOut', 'builders_lost', true, 'ended']);
		assert.deepEqual((await state.builds.list({ which: 'dead', limit: 9 })).map((one) => one.id), [id]); // prettier-ignore
		const again = await state.builds.enqueue(newBuild());
		await state.builds.retried(id, again.id);
		assert.deepEqual((await state.builds.list({ which: 'dead', limit: 9 })).length, 0);
	});

	test('one that takes too long is stopped, one that was cancelled frees its lane when its builder is gone', async () => {
		const state = await cluster.state();
		const { id } = await state.builds.enqueue(newBuild());
		const slow = await claimed(state, 'w1', { limitMs: -1 });
		assert.equal((await state.builds.sweep(3))[0]?.outcome, 'timed-out');
		assert.deepEqual(await state.builds.beat(slow, OVER), { stop: 'timed-out' });
		assert.deepEqual([await stateOf(state, id), (await state.builds.sweep(3))[0]?.outcome], ['TimedOut', 'released']);
		const next = await state.builds.enqueue(newBuild());
		const halted = await state.builds.halt(next.id, 'cancelled', 'token:ann');
		assert.deepEqual([halted.state, halted.phase], ['Cancelled', 'ended']);
		assert.equal(await claim(state, 'w2'), null);
	});
});

describe('what is reported', () => {
	test('states and steps are events once, and an end that no edge leads to is one that says as much', async () => {
		const state = await cluster.state();
		const { id } = await state.builds.enqueue(newBuild());
		const of = await claimed(state, 'w1');
		const running = step('test', { kind: 'test', state: 'running', endedAt: null });
		for (let twice = 0; twice < 2; twice++) {
			await state.builds.report(of, { state: 'Building', at: 2, steps: [step('compile')], leaseMs: 1000 });
			await state.builds.report(of, { state: 'Testing', at: 3, steps: [running], leaseMs: 1000 });
		}
		await state.builds.report(of, {
			state: null,
			at: 4,
			steps: [step('test', { kind: 'test', state: 'failed', exitCode: 1 })],
			leaseMs: 1000,
		});
		await state.builds.finish(of, { state: 'BuildFailed', reason: 'packaging', detail: 'no entry', at: 5 });
		assert.deepEqual(await state.builds.finish(of, { state: 'TestFailed', ...END }), {
			was: 'ended',
			state: 'BuildFailed',
			reason: 'packaging',
		});
		const ended = (await state.builds.build(id))!;
		assert.deepEqual(ended.stages.map((one) => one.state), ['Queued', 'Building', 'Testing', 'Packaging', 'BuildFailed']); // prettier-ignore
		assert.deepEqual(ended.steps.map((one) => [one.name, one.state]), [['compile', 'passed'], ['test', 'failed']]); // prettier-ignore
		const told = (await state.events.after(0)).filter((event) => event.deployment === id);
		assert.deepEqual(
			told.map(({ type, data }) => (type === 'build.step' ? (data['step'] as StepReport).name : data['state'])),
			['Queued', 'Building', 'compile', 'Testing', 'test', 'test', 'Packaging', 'BuildFailed'],
		);
	});

	test('lines that come twice are stored once, of every attempt', async () => {
		const state = await cluster.state();
		const { id } = await state.builds.enqueue(newBuild());
		const of = await claimed(state, 'w1');
		const send = (first: number, count: number, text: string) =>
			state.builds.log(of, { first, count, bytes: text.length, packed: Buffer.from(text) });
		assert.deepEqual(await send(0, 2, 'one'), { next: 2, bytes: 3, stop: null });
		assert.deepEqual(await send(0, 3, 'again'), { next: 2, bytes: 3, stop: null });
		assert.deepEqual(await send(2, 1, 'two'), { next: 3, bytes: 6, stop: null });
		// After a gap: PostgreSQL lost its last moment.
		assert.deepEqual(await send(9, 1, 'ten'), { next: 10, bytes: 9, stop: null });
		const lines = await state.builds.lines({ id, attempt: 1, from: 2, limit: 10 });
		assert.deepEqual(lines.map(({ first, packed }) => [first, packed.toString()]), [[2, 'two'], [9, 'ten']]); // prettier-ignore
	});
});

test('logs are kept for 30 days, builds for 90; what waits stays', async () => {
	const state = await cluster.state();
	const day = 86_400_000;
	const now = systemClock.now();
	const waiting = await state.builds.enqueue(newBuild({ app: 'shop', lane: 'shop' }));
	const { id } = await state.builds.enqueue(newBuild({ priority: 'hotfix' }));
	const of = await claimed(state, 'w1');
	await state.builds.log(of, { first: 0, count: 1, bytes: 1, packed: Buffer.from('x') });
	await state.builds.finish(of, { state: 'BuildFailed', ...END, at: now });
	const lines = () => state.builds.lines({ id, attempt: 0, from: 0, limit: 9 });
	await state.collect(now + 29 * day);
	assert.equal((await lines()).length, 1);
	await state.collect(now + 31 * day);
	assert.deepEqual([(await lines()).length, (await state.builds.build(id))?.state], [0, 'BuildFailed']);
	await state.collect(now + 91 * day);
	assert.equal(await state.builds.build(id), null);
	assert.equal((await claimed(state, 'w2')).id, waiting.id);
});

describe('the artifact', () => {
	test('takes the build over as the deployment of the same id, once, and tells no stage twice', async () => {
		const state = await cluster.state();
		await state.blobs.own('notes', BLOBS);
		const { id } = await state.builds.enqueue(newBuild());
		const of = await claimed(state, 'w1');
		await state.builds.report(of, { state: 'Uploading', at: 2, steps: [], leaseMs: 1000 });
		const { stages } = (await state.builds.build(id))!;
		const build = { ...of, published: stages.length, gating: false, metadata: null };
		const input = newDeployment('notes', { release: newRelease('notes'), state: 'Deploying', stages, build });
		const [first, second] = [await state.deployments.create(input), await state.deployments.create(input)];
		assert.deepEqual([first.deployment.id, second.deployment.release], [id, first.deployment.release]);
		const told = (await state.events.after(0)).filter(({ type, deployment }) => deployment === id && type.endsWith('.state'));
		assert.deepEqual(told.map(({ type, data }) => `${type} ${String(data['state'])}`), [
			'build.state Queued', 'build.state Uploading', 'deployment.state Deploying',
		]); // prettier-ignore
		const taken = (await state.builds.build(id))!;
		assert.deepEqual([taken.phase, taken.deployed], ['ended', true]);
		assert.deepEqual(await state.builds.list({ which: 'undeployed', limit: 9 }), []);
	});

	test('of one that a person cancelled meanwhile comes too late', async () => {
		const state = await cluster.state();
		await state.blobs.own('notes', BLOBS);
		const { id } = await state.builds.enqueue(newBuild());
		const of = await claimed(state, 'w1');
		await state.builds.halt(id, 'cancelled', 'token:ann');
		const build = { ...of, published: 1, gating: false, metadata: null };
		await assert.rejects(state.deployments.create(newDeployment('notes', { build })), { code: 'fenced', message: /has ended: Cancelled/ });
		assert.equal(await state.deployments.deployment(id), null);
	});

	test('while gates go on, the builder is still heard, and told when the deployment is over', async () => {
		const state = await cluster.state();
		await state.blobs.own('notes', BLOBS);
		const { id } = await state.builds.enqueue(newBuild());
		const of = await claimed(state, 'w1');
		const build = { ...of, published: 1, gating: true, metadata: null };
		const stages = (await state.builds.build(id))!.stages;
		const held = await state.deployments.create(
			newDeployment('notes', { release: newRelease('notes'), state: 'Deploying', stages, build }),
		);
		await state.builds.report(of, { state: null, at: 3, steps: [step('types', { kind: 'gate' })], leaseMs: 1000 });
		await state.deployments.advance({
			deployment: id,
			fence: held.fence,
			version: held.version,
			at: 9,
			to: 'DeployFailed',
			reason: 'start',
		});
		assert.equal((await state.builds.sweep(3))[0]?.outcome, 'stopped');
		assert.deepEqual(await state.builds.beat(of, 1000), { stop: 'cancelled' });
		await state.builds.finish(of, { state: 'gates-passed', ...END });
		assert.equal((await state.builds.build(id))?.phase, 'ended');
	});
});

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Deployment } from '#wire/api.ts';
import type { BuildJob, BuildLogLine, BuildNews, BuildView } from '#wire/builds.ts';
import { COMMITS, newBuild } from '../../../test/fixtures/build.ts';
import { fakeBuilder, step } from '../../../test/fixtures/builder.ts';
import { FILES, startControl, type TestControl } from '../../../test/fixtures/control.ts';
import { startCluster, type TestCluster } from '../../../test/fixtures/database.ts';
import { enqueue, follow } from './builds.ts';

const [A, B] = COMMITS as [string, string];
const QUICK = { strategy: { type: 'walk' as const, watch: '0s' } };
const NO_REASON = { reason: null, detail: null, at: 5 };

let cluster: TestCluster;
before(async () => (cluster = await startCluster()));
after(() => cluster.stop());

/** All that is told of it, once its end was. */
function toEnd(house: TestControl, id: string): Promise<BuildNews[]> {
	const told: BuildNews[] = [];
	return new Promise((resolve) => {
		follow(house.control.house, id, (news) => {
			told.push(news);
			if (news.type === 'end') resolve(told);
		});
	});
}

const statesIn = (told: readonly BuildNews[]) => told.flatMap((news) => (news.type === 'stage' ? [news.state] : []));
const endOf = (told: readonly BuildNews[]) => {
	const last = told.at(-1);
	assert.equal(last?.type, 'end');
	return last.end;
};
const queue = (house: TestControl, change: Parameters<typeof newBuild>[0] = {}) => enqueue(house.control.house, newBuild(change));

describe('a build', () => {
	test('is claimed by a builder that waits, told as it goes, and becomes the deployment of its id', async (t) => {
		const house = await startControl(t, cluster);
		await house.obedientDepot().next('welcome');
		const builder = fakeBuilder(house);
		const claiming = builder.claim();
		const { id } = await queue(house);
		const told = toEnd(house, id);
		const job = (await claiming)!;
		assert.deepEqual([job.id, job.attempt, job.secrets], [id, 1, {}]);
		await builder.say(job, 'stages', { state: 'Building', at: 2, steps: [step('compile', { state: 'running', endedAt: null })] });
		const lines = ['one', 'two'].map((text): BuildLogLine => ({ at: 3, step: 'compile', stream: 'out', text }));
		assert.deepEqual((await builder.say(job, 'log', { from: 0, lines })).json(), { next: 2, stop: null });
		assert.deepEqual((await builder.say(job, 'log', { from: 0, lines: [...lines, { ...lines[0]!, text: 'three' }] })).json(), {
			next: 3,
			stop: null,
		});
		await builder.say(job, 'stages', { state: 'Uploading', at: 4, steps: [step('compile')] });
		const brought = await builder.bring(job, { config: QUICK });
		assert.equal(brought.status, 200, brought.text);
		assert.equal((await builder.bring(job, { config: QUICK })).json<{ deployment: Deployment }>().deployment.id, id, 'brought again');

		const news = await told;
		assert.deepEqual(statesIn(news), [
			'Queued', 'Building', 'Uploading', 'ReadyToDeploy', 'Deploying', 'CanaryCheck', 'RollingOut', 'Deployed',
		]); // prettier-ignore
		assert.deepEqual(news.flatMap((one) => (one.type === 'log' ? one.lines.map(({ text }) => text) : [])), ['one', 'two', 'three']); // prettier-ignore
		const { build, deployment, already } = endOf(news);
		assert.deepEqual([build?.id, deployment?.id, deployment?.state, deployment?.commit, already], [id, id, 'Deployed', A, false]);
		assert.deepEqual(deployment?.stages.slice(0, 3).map((one) => one.state), ['Queued', 'Building', 'Uploading']); // prettier-ignore

		const log = (await house.ask('GET', `/api/v1/builds/${id}/log?follow=1`)).lines<BuildLogLine>();
		assert.deepEqual(log.map(({ text }) => text), ['one', 'two', 'three']); // prettier-ignore
		assert.deepEqual((await house.ask('GET', `/api/v1/builds/${id}/log?step=other`)).text, '');
		// Whoever comes late is told the same.
		assert.deepEqual(statesIn((await house.ask('GET', `/api/v1/builds/${id}/progress`)).lines<BuildNews>()), statesIn(news));
	});

	test('whose artifact is what serves already ends with that deployment', async (t) => {
		const house = await startControl(t, cluster);
		await house.obedientDepot().next('welcome');
		const builder = fakeBuilder(house);
		const first = await queue(house, { commit: A });
		await builder.bring((await builder.claim())!, { config: QUICK });
		await toEnd(house, first.id);
		assert.deepEqual(await queue(house, { commit: A }), { id: first.id, already: true });
		const second = await queue(house, { commit: B, ancestors: [B, A] });
		const job = (await builder.claim())!;
		const answer = (await builder.bring(job, { base: FILES, config: QUICK })).json<{ deployment: Deployment; already: boolean }>();
		assert.deepEqual([answer.already, answer.deployment.id], [true, first.id]);
		const { build, deployment, already } = endOf(await toEnd(house, second.id));
		assert.deepEqual([build?.state, build?.reason, deployment?.id, already], ['Superseded', 'already_live', first.id, true]);
		// Its answer was lost.
		assert.equal((await builder.bring(job, { base: FILES, config: QUICK })).json<{ already: boolean }>().already, true);
	});

	test('that a person cancels: its builder hears of it at once, and its artifact comes too late', async (t) => {
		const house = await startControl(t, cluster);
		const builder = fakeBuilder(house);
		const { id } = await queue(house);
		const job = (await builder.claim())!;
		const held = builder.say(job, 'beat', { hold: true });
		const answer = await house.ask('POST', `/api/v1/builds/${id}/cancel`);
		assert.equal(answer.json<{ build: BuildView }>().build.state, 'Cancelled', answer.text);
		assert.deepEqual((await held).json(), { stop: 'cancelled' });
		const late = await builder.bring(job);
		assert.deepEqual([late.status, late.json().error.code], [409, 'stopped']);
		assert.equal((await builder.say(job, 'end', { state: 'Cancelled', ...NO_REASON })).status, 200);
		assert.equal((await house.ask('POST', `/api/v1/builds/${id}/cancel`)).json().error.code, 'already_ended');
		assert.equal((await house.ask('GET', '/api/v1/deployments')).json<{ deployments: Deployment[] }>().deployments.length, 0);
	});

	test('that failed can be queued again, once', async (t) => {
		const house = await startControl(t, cluster);
		const builder = fakeBuilder(house);
		const { id } = await queue(house);
		assert.equal((await house.ask('POST', `/api/v1/builds/${id}/retry`)).json().error.code, 'not_ended');
		const job = (await builder.claim())!;
		const other = await queue(house, { app: 'shop', lane: 'shop' });
		const end = { state: 'TestFailed', reason: 'exit', detail: '3 of 4 failed', at: 9 };
		// Told once more because its answer was lost, the answer is the same; and so is that to a claim.
		for (let twice = 0; twice < 2; twice++) {
			const { job: next } = (await builder.say(job, 'end', { ...end, next: 'linux-x64-glibc' })).json<{ job: BuildJob }>();
			assert.deepEqual([next.id, next.attempt, next.secrets], [other.id, 1, {}]);
		}
		const next = (await builder.claim())!;
		assert.equal(next.id, other.id);
		assert.deepEqual((await builder.say(next, 'end', { ...end, next: 'linux-x64-glibc' })).json(), {});
		const { build } = endOf(await toEnd(house, id));
		assert.deepEqual([build?.state, build?.detail], ['TestFailed', '3 of 4 failed']);
		const again = (await house.ask('POST', `/api/v1/builds/${id}/retry`)).json<{ id: string; already: boolean }>();
		assert.deepEqual((await house.ask('POST', `/api/v1/builds/${id}/retry`)).json(), { id: again.id, already: true });
		assert.equal((await builder.claim())?.id, again.id);
	});
});

describe('what a builder brings', () => {
	test('for another app or environment, or refused by the house, ends the build with the reason', async (t) => {
		const house = await startControl(t, cluster);
		const builder = fakeBuilder(house);
		const other = await queue(house);
		const job = (await builder.claim())!;
		assert.equal((await builder.bring({ ...job, app: 'shop' })).json().error.code, 'app_mismatch');
		assert.equal((await builder.say(job, 'end', { state: 'BuildFailed', reason: 'app_mismatch', detail: null, at: 9 })).status, 200);
		assert.equal(endOf(await toEnd(house, other.id)).build?.state, 'BuildFailed');
		const { id } = await queue(house);
		const again = (await builder.claim())!;
		assert.equal((await builder.bring(again, { config: { regions: ['nowhere'] } })).json().error.code, 'unknown_region');
		const { build } = endOf(await toEnd(house, id));
		assert.deepEqual([build?.state, build?.reason], ['DeployFailed', 'unknown_region']);
		assert.match(build?.detail ?? '', /there is no region nowhere/);
	});

	test('in parts: what is missing is asked for, and the same attempt brings it', async (t) => {
		const house = await startControl(t, cluster);
		await house.obedientDepot().next('welcome');
		const builder = fakeBuilder(house);
		const { id } = await queue(house);
		const job = (await builder.claim())!;
		assert.equal((await builder.bring(job, { blobs: [], config: QUICK })).json().error.code, 'blobs_missing');
		assert.equal((await builder.bring(job, { config: QUICK })).status, 200);
		assert.equal(endOf(await toEnd(house, id)).deployment?.state, 'Deployed');
	});

	test('nobody else may say anything of it', async (t) => {
		const house = await startControl(t, cluster);
		const builder = fakeBuilder(house);
		await queue(house);
		const job = (await builder.claim())!;
		const other = fakeBuilder(house);
		for (const answer of [
			await other.say(job, 'beat'),
			await other.say(job, 'stages', { state: 'Testing', at: 1, steps: [] }),
			await other.say(job, 'log', { from: 0, lines: [] }),
			await other.say(job, 'end', { state: 'BuildFailed', ...NO_REASON }),
			await other.bring(job),
			await other.ask('GET', `/${job.id}/source?worker=${other.worker}&attempt=1`),
		]) {
			assert.deepEqual([answer.status, answer.json().error.code], [409, 'fenced']);
		}
		const asPerson = await house.ask('POST', '/api/v1/builds/claim', { json: { worker: 'x', platform: 'linux-x64' } });
		assert.equal(asPerson.json().error.code, 'bad_credential');
		assert.equal((await other.ask('GET', '')).json().error.code, 'unauthenticated');
	});
});

test('several builders wait: each job goes to one, from whichever control it was queued at', async (t) => {
	const database = await cluster.database();
	const one = await startControl(t, cluster, { database });
	const two = await startControl(t, cluster, { database });
	const builders = [fakeBuilder(one), fakeBuilder(two), fakeBuilder(two)];
	const claims = builders.map((builder) => builder.claim());
	const ids = [];
	for (const app of ['a', 'b', 'c']) ids.push((await queue(one, { app: `app-${app}`, lane: app })).id);
	const jobs = await Promise.all(claims);
	assert.deepEqual(new Set(jobs.map((job) => job?.id)), new Set(ids));
	// Its news reach readers at the other one.
	const told = toEnd(one, jobs[1]!.id);
	await builders[1]!.say(jobs[1]!, 'end', { state: 'BuildFailed', reason: 'exit', detail: 'no', at: 9 });
	assert.equal(endOf(await told).build?.detail, 'no');
});

test('the queue tells at once when more waits than builders do', async (t) => {
	const house = await startControl(t, cluster);
	const asked = house.ask('GET', '/api/v1/builds/queue?wait=20000');
	await queue(house);
	const { oldestMs: _, ...numbers } = (await asked).json<{ oldestMs: number }>();
	assert.deepEqual(numbers, { waiting: 1, claimable: 1, running: 0, dead: 0, idle: 0 });
});

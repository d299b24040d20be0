import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import type { Run } from '#wire/region.ts';
import { ask, openStage, reportObeying, reportOf, specOf, startInstance, wantOf, wantsOf } from './fixture.ts';

const run = (local: number): Run => ({ release: 1, instances: 2, as: 'serving', placed: { local, elsewhere: 2 - local } });
const ASKED = 20;

async function two(t: TestContext) {
	const stage = await openStage(t);
	const stays = await startInstance(t, 1, (_req, res) => res.end('stays'), 'stays');
	const goes = await startInstance(t, 1, (_req, res) => res.end('goes'), 'goes');
	stage.tell(reportOf(stays.as('serving'), goes.as('serving')));
	stage.tell(wantsOf(wantOf(1, 1, { run: [run(2)] }), specOf(1)));
	const asked = async () => new Set(await Promise.all(Array.from({ length: ASKED }, async () => (await ask(stage.port)).body)));
	return { stage, stays, goes, asked };
}

test('of more instances than are placed on their server only the first are sent requests', async (t) => {
	const { stage, asked } = await two(t);
	assert.deepEqual((await asked()).size, 2);
	stage.tell(wantsOf(wantOf(2, 1, { run: [run(1)] }), specOf(1)));
	assert.deepEqual(await asked(), new Set(['stays']));
	stage.tell(wantsOf(wantOf(3, 1, { run: [run(2)] }), specOf(1)));
	assert.deepEqual((await asked()).size, 2);
});

test('one that drains does not count among the first', async (t) => {
	const { stage, stays, goes, asked } = await two(t);
	stage.tell(wantsOf(wantOf(2, 1, { run: [run(1)] }), specOf(1)));
	stage.tell(reportOf(stays.as('draining'), goes.as('serving')));
	assert.deepEqual(await asked(), new Set(['goes']));
});

test('where nobody else is left, one that is about to go still answers', async (t) => {
	const { stage, stays, goes, asked } = await two(t);
	stage.tell(wantsOf(wantOf(2, 1, { run: [run(0)] }), specOf(1)));
	assert.deepEqual((await asked()).size, 2);
	stage.tell(reportOf(stays.as('failed', { address: null, healthy: false }), goes.as('serving')));
	assert.deepEqual(await asked(), new Set(['goes']));
});

test('one that was to go is not asked again before its agent has said that it stays', async (t) => {
	const { stage, stays, goes, asked } = await two(t);
	const said = (version: number) => reportObeying(version, stays.as('serving'), goes.as('serving'));
	stage.tell(wantsOf(wantOf(2, 1, { run: [run(1)] }), specOf(1)));
	stage.tell(said(1));
	stage.tell(wantsOf(wantOf(3, 1, { run: [run(2)] }), specOf(1)));
	assert.deepEqual(await asked(), new Set(['stays']), 'it may be leaving, and called back too late');
	stage.tell(said(3));
	assert.deepEqual((await asked()).size, 2);
});

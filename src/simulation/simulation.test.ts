import assert from 'node:assert/strict';
import { test } from 'node:test';
import { simulate, type Variant } from './run.ts';

const SEEDS = 100;
const TESTED_SEEDS = 30;
/** A broken variant has to show itself within these. */
const VARIANT_SEEDS = 100;

test(`${SEEDS} lives of an installation keep every invariant`, async () => {
	for (let seed = 0; seed < SEEDS; seed++) {
		const { broken } = await simulate(seed);
		assert.deepEqual(broken, [], `seed ${seed}`);
	}
});

/** Lives that once went wrong: stale reports believed, and a lane that two controls took from each other. */
const LESSONS = [592, 628, 1565, 1743, 1761, 705];

test('lives that taught something go well', async () => {
	for (const seed of LESSONS) assert.deepEqual((await simulate(seed)).broken, [], `seed ${seed}`);
});

test(`${TESTED_SEEDS} lives in which some releases wait for their tests`, async () => {
	const states = new Set<string>();
	for (let seed = 0; seed < TESTED_SEEDS; seed++) {
		const life = await simulate(seed, { tests: true });
		assert.deepEqual(life.broken, [], `seed ${seed}`);
		for (const state of life.states) states.add(state.split(' ')[2]!);
	}
	for (const seen of ['TestFailed', 'TimedOut', 'Deployed']) assert.ok(states.has(seen), `none was ${seen}`);
});

test('the same seed gives the same life', async () => {
	assert.deepEqual(await simulate(7), await simulate(7));
});

const variants: [what: string, variant: Variant, shows: RegExp][] = [
	['an edge that obeys before the release is healthy', { fault: 'eager-edge' }, /was never healthy there/],
	['an agent that does not wait for the edges', { fault: 'hasty-agent' }, /while an edge served it/],
	['an edge that goes by what was said before a release was wanted again', { fault: 'credulous-edge' }, /while an edge served it/],
	['an edge that leaves out versions', { fault: 'deaf-edge' }, /wanted is/],
	['a control that takes a write for a confirmation', { mistake: 'trusts-itself' }, /is Deployed, but/],
	['a control that forgets to swing back', { mistake: 'forgets-to-swing' }, /is RolledBack, but|is stuck|should serve/],
	['a database without fence and compare-and-set', { checks: { fence: false, compareAndSet: false } }, /./],
];

for (const [what, variant, shows] of variants) {
	test(`caught: ${what}`, async () => {
		for (let seed = 0; seed < VARIANT_SEEDS; seed++) {
			const { broken } = await simulate(seed, variant);
			if (broken.some((one) => shows.test(one))) return;
		}
		assert.fail(`no seed below ${VARIANT_SEEDS} showed it`);
	});
}

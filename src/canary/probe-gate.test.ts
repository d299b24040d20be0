import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { judgeProbes, PROBE_COUNT, PROBE_DISCARD, probeError, type ProbeSample } from './probe-gate.ts';

const ask = { release: 2, current: 1, strict: true };

/** `discard + count` samples of one release, all with this status and time. */
function samples(release: number, status: number, ms: number, count = PROBE_DISCARD + PROBE_COUNT): ProbeSample[] {
	return Array.from({ length: count }, () => ({ release, status, ms }));
}

test('as good as what serves: pass, with the maximum shown because 20 samples have no 99th percentile', () => {
	const slowest = samples(2, 200, 3).with(-1, { release: 2, status: 200, ms: 9 });
	const verdict = judgeProbes([...samples(1, 200, 3), ...slowest], ask);
	assert.deepEqual(verdict, {
		verdict: 'pass',
		reason: null,
		status: 200,
		p50Ms: 3,
		tail: { name: 'max', ms: 9 },
		currentP50Ms: 3,
		judged: 20,
	});
});

test('one wrong status among the judged fails, one among the discarded does not', () => {
	const good = samples(2, 200, 3);
	const late = good.with(10, { release: 2, status: 500, ms: 3 });
	const early = good.with(2, { release: 2, status: 500, ms: 300 });
	assert.equal(judgeProbes([...samples(1, 200, 3), ...late], ask).verdict, 'fail');
	assert.equal(judgeProbes([...samples(1, 200, 3), ...late], ask).status, 500);
	assert.equal(judgeProbes([...samples(1, 200, 3), ...early], ask).verdict, 'pass');
});

test('no answer at all is a wrong status', () => {
	assert.deepEqual(
		[judgeProbes(samples(2, 0, 2000), ask).verdict, judgeProbes(samples(2, 0, 2000), { ...ask, strict: false }).verdict],
		['fail', 'fail'],
	);
});

test('without a health section any answer below 500 is right, with one only 2xx and 3xx', () => {
	assert.equal(judgeProbes(samples(2, 404, 3), { ...ask, strict: false }).verdict, 'pass');
	assert.equal(judgeProbes(samples(2, 404, 3), ask).verdict, 'fail');
	assert.equal(judgeProbes(samples(2, 302, 3), ask).verdict, 'pass');
});

test('the median may be twice the current one, or 20 ms above it, whichever is more', () => {
	const verdict = (current: number, next: number) => judgeProbes([...samples(1, 200, current), ...samples(2, 200, next)], ask).verdict;
	assert.deepEqual([verdict(3, 23), verdict(3, 24), verdict(50, 100), verdict(50, 101)], ['pass', 'fail', 'pass', 'fail']);
});

test('what serves now is not compared with when it answers wrongly itself', () => {
	assert.equal(judgeProbes([...samples(1, 500, 1), ...samples(2, 200, 90)], ask).verdict, 'pass');
});

test('no data, or too little of it, never passes', () => {
	assert.equal(judgeProbes([], ask).verdict, 'inconclusive');
	assert.equal(judgeProbes(samples(1, 200, 3), ask).verdict, 'inconclusive');
	assert.equal(judgeProbes(samples(2, 200, 3, PROBE_DISCARD + PROBE_COUNT - 1), ask).verdict, 'inconclusive');
	assert.equal(probeError().verdict, 'error');
});

test('property: a pass has all its judged samples right and within the limit', () => {
	const sample = fc.record({
		release: fc.constantFrom(1, 2),
		status: fc.constantFrom(0, 200, 404, 500),
		ms: fc.integer({ min: 0, max: 100 }),
	});
	fc.assert(
		fc.property(fc.array(sample, { maxLength: 120 }), fc.boolean(), (all, strict) => {
			const verdict = judgeProbes(all, { release: 2, current: 1, strict });
			if (verdict.verdict !== 'pass') return;
			const judged = all.filter((one) => one.release === 2).slice(PROBE_DISCARD);
			assert.ok(judged.length >= PROBE_COUNT);
			assert.ok(judged.every((one) => (strict ? one.status === 200 : one.status === 200 || one.status === 404)));
			if (verdict.currentP50Ms !== null) assert.ok(verdict.p50Ms <= Math.max(2 * verdict.currentP50Ms, verdict.currentP50Ms + 20));
		}),
	);
});

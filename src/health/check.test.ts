import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
	BAD_ANSWERS_TIMEOUT_MS,
	CHECK_PERIOD_MS,
	judge,
	nextStep,
	record,
	resumeCheck,
	startCheck,
	START_TIMEOUT_MS,
	type Check,
	type Outcome,
} from './check.ts';

const strict = { path: '/healthz', timeoutMs: 2000, strict: true };
const lax = { path: '/', timeoutMs: 2000, strict: false };
const ok: Outcome = { type: 'answered', status: 200 };
const bad: Outcome = { type: 'answered', status: 500 };

test('with a health path 2xx and 3xx are healthy; without one anything below 500', () => {
	const statuses = [200, 204, 302, 399, 400, 404, 499, 500, 503];
	const healthy = (rule: typeof strict) => statuses.filter((status) => judge(rule, { type: 'answered', status }) === null);
	assert.deepEqual(healthy(strict), [200, 204, 302, 399]);
	assert.deepEqual(healthy(lax), [200, 204, 302, 399, 400, 404, 499]);
});

test('a problem is told in the words of what was asked', () => {
	assert.equal(judge(strict, { type: 'refused', code: 'ECONNREFUSED' }), 'nothing listens (ECONNREFUSED)');
	assert.equal(judge(strict, { type: 'timeout', after: 'request' }), 'no answer to GET /healthz within 2000 ms');
	assert.equal(judge(strict, { type: 'timeout', after: 'connect' }), 'no connection within 2000 ms');
	assert.equal(judge(strict, bad), 'GET /healthz answered 500');
});

test('a start is asked soon at first, then less often, and one good answer ends it', () => {
	let check = startCheck(strict, 1000);
	const asked: number[] = [];
	for (let i = 0; i < 10; i++) {
		const step = nextStep(check);
		assert.equal(step.do, 'ask');
		if (step.do !== 'ask') return;
		asked.push(step.at);
		check = record(check, { type: 'refused', code: 'ENOENT' }, step.at);
	}
	assert.deepEqual(asked, [1000, 1002, 1007, 1017, 1037, 1077, 1157, 1317, 1567, 1817]);
	assert.equal(check.healthy, false);
	check = record(check, ok, 2000);
	assert.deepEqual([check.healthy, check.phase, check.nextAt], [true, 'steady', 2000 + CHECK_PERIOD_MS]);
});

/** Runs a start until it is given up: when, and with which problem. */
function givenUp(outcomeAt: (at: number) => Outcome): { at: number; problem: string } {
	let check = startCheck(strict, 0);
	let at = 0;
	for (;;) {
		const step = nextStep(check);
		if (step.do === 'giveUp') return { at, problem: step.problem };
		at = step.at;
		check = record(check, outcomeAt(at), at);
	}
}

test('a start that never answers is given up after 30 s with the last problem', () => {
	const { at, problem } = givenUp(() => ({ type: 'refused', code: 'ENOENT' }));
	assert.equal(problem, 'nothing listens (ENOENT)');
	assert.ok(at <= START_TIMEOUT_MS && at > START_TIMEOUT_MS - 1000);
});

test('a start that answers badly each time is given up sooner; one that stops answering has its time', () => {
	const { at, problem } = givenUp(() => bad);
	assert.equal(problem, 'GET /healthz answered 500');
	assert.ok(at <= BAD_ANSWERS_TIMEOUT_MS && at > BAD_ANSWERS_TIMEOUT_MS - 1000);
	const now = givenUp((time) => (time < 6000 || time > 15_000 ? bad : { type: 'refused', code: 'ENOENT' }));
	assert.ok(now.at > 15_000 + BAD_ANSWERS_TIMEOUT_MS - 1000 && now.at < START_TIMEOUT_MS - 1000, String(now.at));
});

test('three misses in a row eject, two do not, one good answer brings it back', () => {
	let check: Check = record(startCheck(strict, 0), ok, 0);
	const after = (...outcomes: Outcome[]) => outcomes.map((outcome) => (check = record(check, outcome, 0)).healthy);
	assert.deepEqual(after(bad, bad, ok), [true, true, true]);
	assert.deepEqual(after(bad, { type: 'timeout', after: 'request' }, { type: 'broken', code: 'ECONNRESET' }), [true, true, false]);
	assert.deepEqual(after(bad, ok), [false, true]);
});

test('a thawed instance is unhealthy until its first good answer; an adopted one stays healthy until it misses', () => {
	assert.equal(record(resumeCheck(strict, false, 0), bad, 0).healthy, false);
	assert.equal(record(resumeCheck(strict, false, 0), ok, 0).healthy, true);
	assert.equal(record(resumeCheck(strict, true, 0), bad, 0).healthy, true);
});

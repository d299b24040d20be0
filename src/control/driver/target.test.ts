import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseTarget, type Ask, type Past } from './target.ts';

const none: Ask = { to: null, undo: null, again: false };
const deploy = (release: number, state: Past['state'] = 'Deployed', reason: string | null = null): Past => ({
	id: `dpl_d${release}`,
	kind: 'deploy',
	release,
	previous: null,
	state,
	reason,
});
const rollback = (release: number, previous: number, state: Past['state'] = 'Deployed'): Past => ({
	id: `dpl_r${previous}to${release}`,
	kind: 'rollback',
	release,
	previous,
	state,
	reason: null,
});

/** Oldest first, as it happened. */
function choose(past: Past[], serving: number | null, ask: Partial<Ask> = {}, running: Past | null = null) {
	const choice = chooseTarget(past.toReversed(), running, serving, { ...none, ...ask });
	switch (choice.kind) {
		case 'go':
			return `v${choice.release} undoing ${choice.cause}`;
		case 'refused':
			return choice.code;
		case 'running':
		case 'cancel':
			return `${choice.kind} ${choice.deployment}`;
	}
}

test('without arguments: the release before the one that serves', () => {
	assert.equal(choose([deploy(1), deploy(2), deploy(3)], 3), 'v2 undoing dpl_d3');
});

test('again: one further, never to and fro', () => {
	const past = [deploy(1), deploy(2), deploy(3), rollback(2, 3)];
	assert.equal(choose(past, 2), 'v1 undoing dpl_r3to2');
	assert.equal(choose([...past, rollback(1, 2)], 1), 'no_previous');
});

test('what never reached Deployed, was rolled back or did harm is passed over', () => {
	assert.equal(choose([deploy(1), deploy(2, 'RolledBack'), deploy(3, 'DeployFailed'), deploy(4)], 4), 'v1 undoing dpl_d4');
	assert.equal(choose([deploy(1), deploy(2), rollback(1, 2), deploy(3)], 3), 'v1 undoing dpl_d3');
	assert.equal(choose([deploy(1), deploy(2, 'Deployed', 'harm'), deploy(3)], 3), 'v1 undoing dpl_d3');
});

test('nothing before, or nothing at all', () => {
	assert.equal(choose([deploy(1)], 1), 'no_previous');
	assert.equal(choose([], null), 'nothing_serves');
	assert.equal(choose([deploy(1)], null), 'nothing_serves');
});

test('--to: exactly that, unless it serves or was rolled back', () => {
	const past = [deploy(1), deploy(2), deploy(3), rollback(2, 3)];
	assert.equal(choose(past, 2, { to: 1 }), 'v1 undoing dpl_r3to2');
	assert.equal(choose(past, 2, { to: 2 }), 'already_serves');
	assert.equal(choose(past, 2, { to: 3 }), 'was_rolled_back');
	assert.equal(choose(past, 2, { to: 3, again: true }), 'v3 undoing dpl_r3to2');
});

test('a release that was insisted on is good again', () => {
	const past = [deploy(1), deploy(2), rollback(1, 2), rollback(2, 1), deploy(3)];
	assert.equal(choose(past, 3), 'v2 undoing dpl_d3');
});

test('undo: only what serves', () => {
	const past = [deploy(1), deploy(2), deploy(3)];
	assert.equal(choose(past, 3, { undo: 'dpl_d3' }), 'v2 undoing dpl_d3');
	assert.equal(choose(past, 3, { undo: 'dpl_d2' }), 'not_serving');
	const refused = chooseTarget(past.toReversed(), null, 3, { ...none, undo: 'dpl_d2' });
	assert.deepEqual(refused, {
		kind: 'refused',
		code: 'not_serving',
		message: 'dpl_d2 does not serve: v3 (dpl_d3) does',
		hint: '`jibe rollback` would go from v3 to v2',
	});
});

test('undoing a rollback goes forward again, if it is insisted on', () => {
	const past = [deploy(1), deploy(2), rollback(1, 2)];
	assert.equal(choose(past, 1, { undo: 'dpl_r2to1' }), 'was_rolled_back');
	assert.equal(choose(past, 1, { undo: 'dpl_r2to1', again: true }), 'v2 undoing dpl_r2to1');
});

test('while a deploy walks: back to what was healthy last, which may still serve', () => {
	const running = deploy(3, 'RollingOut');
	assert.equal(choose([deploy(1), deploy(2), running], 2, {}, running), 'v2 undoing dpl_d3');
	assert.equal(choose([running], null, {}, running), 'cancel dpl_d3');
	assert.equal(choose([deploy(1), deploy(2), running], 2, { undo: 'dpl_d2' }, running), 'v1 undoing dpl_d2');
});

test('while a rollback walks: the same one, twice', () => {
	const running = rollback(2, 3, 'RollingOut');
	const past = [deploy(1), deploy(2), deploy(3), running];
	assert.equal(choose(past, 3, {}, running), 'running dpl_r3to2');
	assert.equal(choose(past, 3, { to: 2 }, running), 'running dpl_r3to2');
	assert.equal(choose(past, 3, { to: 1 }, running), 'v1 undoing dpl_r3to2');
});

test('a release that does not know the data any more is not gone to unasked, by whatever words', () => {
	const past = [deploy(1), deploy(2), deploy(3)];
	assert.equal(choose(past, 3, { floor: 2 }), 'v2 undoing dpl_d3');
	assert.equal(choose(past, 3, { floor: 3 }), 'schema_floor');
	assert.equal(choose(past, 3, { to: 1, floor: 2 }), 'schema_floor');
	assert.equal(choose(past, 3, { to: 1, floor: null }), 'v1 undoing dpl_d3', 'where a person insists');
});

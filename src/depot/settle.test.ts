import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Clock } from '#clock/clock.ts';
import type { Known } from '#wire/region.ts';
import { EDGE_GONE_AFTER_MS, Settling } from './settle.ts';

test('an edge whose link broke counts until it was gone long enough: it may still be serving', () => {
	const { settling, settled, clock } = house();
	for (const edge of ['a', 'b']) settling.joined(edge, ['fra']);
	settling.applied('a', [at(2)]);
	settling.left('b');
	clock.pass(EDGE_GONE_AFTER_MS - 1);
	assert.deepEqual(settled, []);
	clock.pass(1);
	assert.deepEqual(settled, [at(2)]);
});

test('an edge that is back in time says anew what it obeys, and only then is anything settled', () => {
	const { settling, settled, clock } = house();
	for (const edge of ['a', 'b']) settling.joined(edge, ['fra']);
	settling.applied('a', [at(2)]);
	settling.left('b');
	settling.joined('b', ['fra']);
	clock.pass(EDGE_GONE_AFTER_MS);
	assert.deepEqual(settled, []);
	settling.applied('b', [at(2)]);
	assert.deepEqual(settled, [at(2)]);
});

test('a restarted depot waits for the edges that it remembers', () => {
	const { settling, settled, clock } = house([{ id: 'b', regions: ['fra'] }]);
	settling.joined('a', ['fra']);
	settling.applied('a', [at(2)]);
	assert.deepEqual(settled, []);
	clock.pass(EDGE_GONE_AFTER_MS);
	assert.deepEqual(settled, [at(2)]);
});

test('without any edge nothing is settled, and what is settled never goes back', () => {
	const { settling, settled } = house();
	settling.applied('nobody', [at(2)]);
	assert.deepEqual(settled, []);
	settling.joined('a', ['fra']);
	settling.applied('a', [at(3)]);
	settling.joined('b', ['fra']);
	settling.applied('b', [at(2)]);
	settling.applied('a', [at(4)]);
	assert.deepEqual(settled, [at(3)]);
	settling.applied('b', [at(4)]);
	assert.deepEqual(settled, [at(3), at(4)]);
});

function at(version: number): Known {
	return { region: 'fra', app: 'notes', environment: 'production', epoch: 1, version };
}

function house(remembered: { id: string; regions: string[] }[] = []) {
	const clock = handClock();
	const settled: Known[] = [];
	return { settling: new Settling({ clock, onSettled: (items) => settled.push(...items), remembered }), settled, clock };
}

function handClock(): Clock & { pass(ms: number): void } {
	let now = 0;
	const timers = new Set<{ at: number; task: () => void }>();
	return {
		now: () => now,
		monotonic: () => now,
		after(delayMs, task) {
			const timer = { at: now + delayMs, task };
			timers.add(timer);
			return { cancel: () => timers.delete(timer) };
		},
		every: () => ({ cancel: () => {} }),
		pass(ms) {
			now += ms;
			for (const timer of timers) if (timer.at <= now && timers.delete(timer)) timer.task();
		},
	};
}

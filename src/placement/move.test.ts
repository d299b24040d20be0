import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { nextPlaced } from './move.ts';
import { count } from './place.ts';

const nobody: ReadonlySet<string> = new Set();

test('what is new starts first, and what it takes the place of goes once all of it is healthy', () => {
	const move = { current: { a: 2 }, target: { a: 1, b: 1 }, gone: nobody };
	assert.deepEqual(nextPlaced({ ...move, healthy: { a: 2 } }), { a: 2, b: 1 });
	const told = { ...move, current: { a: 2, b: 1 } };
	assert.deepEqual(nextPlaced({ ...told, healthy: { a: 2 } }), { a: 2, b: 1 });
	assert.deepEqual(nextPlaced({ ...told, healthy: { a: 2, b: 1 } }), { a: 1, b: 1 });
});

test('what was said to be healthy before it was placed does not count', () => {
	assert.deepEqual(nextPlaced({ current: { a: 1 }, target: { b: 1 }, gone: nobody, healthy: { a: 1, b: 1 } }), { a: 1, b: 1 });
});

test('of a server that is gone nothing is waited for', () => {
	assert.deepEqual(nextPlaced({ current: { a: 1, b: 1 }, target: { b: 2 }, gone: new Set(['a']), healthy: { b: 1 } }), { b: 2 });
});

const placed = fc.dictionary(fc.constantFrom('a', 'b', 'c', 'd'), fc.integer({ min: 1, max: 3 }));

test('property: nothing goes that is not gone before as many as wanted are healthy where they stay', () => {
	fc.assert(
		fc.property(placed, placed, placed, (current, target, healthy) => {
			const next = nextPlaced({ current, target, gone: nobody, healthy });
			for (const server of Object.keys(target)) assert.ok((next[server] ?? 0) >= target[server]!);
			const shrinks = Object.keys(current).some((server) => (next[server] ?? 0) < current[server]!);
			const staying = Object.keys(target).reduce((sum, server) => sum + Math.min(target[server]!, healthy[server] ?? 0), 0);
			if (shrinks) assert.ok(staying >= count(target));
		}),
	);
});

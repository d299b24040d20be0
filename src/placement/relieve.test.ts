import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { place, samePlaced, type Placed } from './place.ts';
import { relieve, type Load } from './relieve.ts';

const load = (name: string, budgetMiB: number, othersMiB: number, open = true): Load => ({
	name,
	open,
	budgetMiB,
	othersMiB,
	instanceMiB: 100,
});

test('an instance leaves a crowded server for an empty one', () => {
	assert.deepEqual(relieve([load('a', 1000, 500), load('b', 1000, 0)], { a: 1 }), { b: 1 });
	assert.deepEqual(relieve([load('a', 1000, 500), load('b', 1000, 400), load('c', 1000, 0)], { a: 1, b: 1 }), { b: 1, c: 1 });
});

test('not for a little, not where it would stand closer, and not onto a server that takes nothing', () => {
	const stay = (loads: Load[], placed: Placed) => assert.deepEqual(relieve(loads, placed), placed);
	stay([load('a', 1000, 100), load('b', 1000, 0)], { a: 1 });
	stay([load('a', 1000, 0), load('b', 1000, 0)], { a: 1 });
	stay([load('a', 1000, 700), load('b', 1000, 0)], { a: 1, b: 1 });
	stay([load('a', 1000, 700), load('b', 1000, 0, false)], { a: 1 });
	stay([load('a', 4000, 2000), load('b', 400, 0)], { a: 1 });
});

test('property: apps that crowd servers come to rest, and what moves is placed the same while it moves', () => {
	const apps = fc.array(fc.record({ server: fc.nat(3), instances: fc.constantFrom(1, 1, 1, 2) }), { minLength: 1, maxLength: 20 });
	const budgets = fc.array(fc.constantFrom(500, 1000, 2000), { minLength: 2, maxLength: 4 });
	fc.assert(
		fc.property(apps, budgets, (list, sizes) => {
			const placed = list.map(({ server, instances }): Placed => ({ [`s${server % sizes.length}`]: instances }));
			const others = (server: string, but: number) => placed.reduce((sum, one, i) => sum + (i === but ? 0 : (one[server] ?? 0) * 100), 0);
			for (let moves = 0, calm = 0, app = 0; calm < placed.length; app = (app + 1) % placed.length) {
				const loads = sizes.map((size, i) => load(`s${i}`, size, others(`s${i}`, app)));
				const now = placed[app]!;
				const next = relieve(loads, now);
				calm = samePlaced(next, now) ? calm + 1 : 0;
				if (calm > 0) continue;
				assert.ok(++moves < 500, 'it never ends');
				const both = Object.fromEntries(loads.map(({ name }) => [name, Math.max(now[name] ?? 0, next[name] ?? 0)]));
				const servers = loads.map(({ name, budgetMiB, othersMiB }) => ({
					name,
					labels: [],
					takes: 'any' as const,
					home: 0,
					running: both[name]!,
					freeMiB: budgetMiB - othersMiB - both[name]! * 100,
				}));
				const instances = Object.values(now).reduce((sum, one) => sum + one, 0);
				const again = place(servers, { instances, instanceMiB: () => 100, labels: [] });
				if (instances === 1) assert.deepEqual(again.placed, next);
				placed[app] = next;
			}
		}),
	);
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { count, place, type Placement, type Server } from './place.ts';

const server = (name: string, freeMiB: number, running = 0, more: Partial<Server> = {}): Server => ({
	name,
	freeMiB,
	running,
	home: 0,
	labels: [],
	takes: 'any',
	...more,
});
const one = { instances: 1, instanceMiB: () => 64, labels: [] };
const on = (placed: Record<string, number>) => ({ placed, refused: null });

test('one server takes what fits', () => {
	assert.deepEqual(place([server('a', 256)], { ...one, instances: 3 }), on({ a: 3 }));
});

test('instances are spread, and the server with more room takes the odd one', () => {
	assert.deepEqual(place([server('a', 200), server('b', 500)], { ...one, instances: 3 }), on({ a: 1, b: 2 }));
});

test('what runs already stays, even on a server that is full', () => {
	assert.deepEqual(place([server('a', 0, 1), server('b', 500)], one), on({ a: 1 }));
});

test("a new release goes where the app's blobs are", () => {
	assert.deepEqual(place([server('a', 100, 0, { home: 1 }), server('b', 500)], one), on({ a: 1 }));
	const four = [server('a', 900), server('b', 500, 0, { home: 1 }), server('c', 900), server('d', 500, 0, { home: 1 })];
	assert.deepEqual(place(four, { ...one, instances: 2 }), on({ b: 1, d: 1 }));
});

test('no room is refused with the nearest server and the missing MiB', () => {
	assert.deepEqual(place([server('a', 40), server('b', 100)], { ...one, instances: 2 }), {
		placed: { b: 1 },
		refused: { reason: 'room', server: 'a', missingMiB: 24 },
	});
});

test('labels choose the servers', () => {
	const servers = [server('a', 500), server('b', 500, 0, { labels: ['gpu'] })];
	assert.deepEqual(place(servers, { ...one, labels: ['gpu'] }), on({ b: 1 }));
	assert.deepEqual(place(servers, { ...one, labels: ['arm'] }), { placed: {}, refused: { reason: 'no_server' } });
});

test('a server that takes nothing new keeps what it has, and one that drains or is lost keeps nothing', () => {
	const both = { ...one, instances: 2 };
	assert.deepEqual(place([server('a', 500, 1, { takes: 'kept' }), server('b', 500)], both), on({ a: 1, b: 1 }));
	assert.deepEqual(place([server('a', 500, 2, { takes: 'none' }), server('b', 500)], both), on({ b: 2 }));
	assert.deepEqual(place([server('a', 500, 0, { takes: 'none' })], one), { placed: {}, refused: { reason: 'closed' } });
	assert.deepEqual(place([server('a', 500, 1, { takes: 'kept' })], both), { placed: { a: 1 }, refused: { reason: 'closed' } });
});

const servers = fc
	.array(fc.record({ freeMiB: fc.nat(600), running: fc.nat(3) }), { minLength: 1, maxLength: 8 })
	.map((list) => list.map((part, index) => server(`s${index}`, part.freeMiB, part.running)));
const placing = fc
	.record({ instances: fc.integer({ min: 1, max: 12 }), miB: fc.integer({ min: 1, max: 200 }) })
	.map(({ instances, miB }) => ({ instances, miB, instanceMiB: () => miB, labels: [] }));
const all = ({ placed }: Placement) => Object.entries(placed);
const roomOf = (one: Server, instanceMiB: number) => one.running + Math.floor(one.freeMiB / instanceMiB);

test('property: all are placed, and no server beyond its room, exactly when there is room for all', () => {
	fc.assert(
		fc.property(servers, placing, (list, wanted) => {
			const room = list.reduce((sum, each) => sum + roomOf(each, wanted.miB), 0);
			const answer = place(list, wanted);
			assert.equal(answer.refused === null, room >= wanted.instances);
			assert.equal(count(answer.placed), Math.min(room, wanted.instances));
			for (const [name, instances] of all(answer)) {
				assert.ok(
					instances <=
						roomOf(
							list.find((each) => each.name === name)!,
							wanted.miB,
						),
				);
			}
		}),
	);
});

test('property: no server has two more than another that still has room', () => {
	fc.assert(
		fc.property(servers, placing, (list, wanted) => {
			const answer = place(list, wanted);
			if (answer.refused) return;
			const at = (name: string) => answer.placed[name] ?? 0;
			for (const full of list) {
				for (const other of list) {
					if (at(other.name) < roomOf(other, wanted.miB)) assert.ok(at(full.name) <= at(other.name) + 1);
				}
			}
		}),
	);
});

test('property: what was placed is placed the same again, whatever else changed in room', () => {
	fc.assert(
		fc.property(servers, placing, fc.array(fc.nat(600), { minLength: 8, maxLength: 8 }), (list, wanted, rooms) => {
			const first = place(
				list.map((each) => ({ ...each, running: 0, freeMiB: 10_000 })),
				wanted,
			);
			const later = list.map((each, i) => ({ ...each, running: first.placed[each.name] ?? 0, freeMiB: rooms[i]! }));
			assert.deepEqual(place(later, wanted).placed, first.placed);
		}),
	);
});

test('property: the order in which servers are named does not matter', () => {
	fc.assert(
		fc.property(servers, placing, (list, wanted) => {
			assert.deepEqual(place(list.toReversed(), wanted), place(list, wanted));
		}),
	);
});

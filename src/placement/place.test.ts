import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { place, type Server } from './place.ts';

const server = (name: string, freeMiB: number, running = 0, labels: string[] = []): Server => ({ name, freeMiB, running, labels });
const one = { instances: 1, instanceMiB: 64, labels: [] };

test('one server takes what fits', () => {
	assert.deepEqual(place([server('a', 256)], { ...one, instances: 3 }), { placed: true, servers: [{ name: 'a', instances: 3 }] });
});

test('instances are spread, and the server with more room takes the odd one', () => {
	assert.deepEqual(place([server('a', 200), server('b', 500)], { ...one, instances: 3 }), {
		placed: true,
		servers: [
			{ name: 'a', instances: 1 },
			{ name: 'b', instances: 2 },
		],
	});
});

test('what runs already stays, even on a server that is full', () => {
	assert.deepEqual(place([server('a', 0, 1), server('b', 500)], one), { placed: true, servers: [{ name: 'a', instances: 1 }] });
});

test('no room is refused with the nearest server and the missing MiB', () => {
	assert.deepEqual(place([server('a', 40), server('b', 100)], { ...one, instances: 2 }), {
		placed: false,
		reason: 'room',
		server: 'a',
		missingMiB: 24,
		room: 1,
	});
});

test('labels choose the servers', () => {
	const servers = [server('a', 500), server('b', 500, 0, ['gpu'])];
	assert.deepEqual(place(servers, { ...one, labels: ['gpu'] }), { placed: true, servers: [{ name: 'b', instances: 1 }] });
	assert.deepEqual(place(servers, { ...one, labels: ['arm'] }), { placed: false, reason: 'no_server', room: 0 });
});

const servers = fc
	.array(fc.record({ freeMiB: fc.nat(600), running: fc.nat(3) }), { minLength: 1, maxLength: 8 })
	.map((list) => list.map((part, index) => server(`s${index}`, part.freeMiB, part.running)));
const placing = fc.record({
	instances: fc.integer({ min: 1, max: 12 }),
	instanceMiB: fc.integer({ min: 1, max: 200 }),
	labels: fc.constant([]),
});
const roomOf = (one: Server, instanceMiB: number) => one.running + Math.floor(one.freeMiB / instanceMiB);

test('property: all are placed, and no server beyond its room, exactly when there is room for all', () => {
	fc.assert(
		fc.property(servers, placing, (list, wanted) => {
			const room = list.reduce((sum, each) => sum + roomOf(each, wanted.instanceMiB), 0);
			const answer = place(list, wanted);
			assert.equal(answer.placed, room >= wanted.instances);
			if (!answer.placed) return assert.equal(answer.room, room);
			assert.equal(
				answer.servers.reduce((sum, each) => sum + each.instances, 0),
				wanted.instances,
			);
			for (const { name, instances } of answer.servers) {
				assert.ok(
					instances <=
						roomOf(
							list.find((each) => each.name === name)!,
							wanted.instanceMiB,
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
			if (!answer.placed) return;
			const on = (name: string) => answer.servers.find((each) => each.name === name)?.instances ?? 0;
			for (const full of list) {
				for (const other of list) {
					if (on(other.name) < roomOf(other, wanted.instanceMiB)) assert.ok(on(full.name) <= on(other.name) + 1);
				}
			}
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

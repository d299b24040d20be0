import assert from 'node:assert/strict';
import { test } from 'node:test';
import { tellOfFleet, told } from './fixtures/fleet-story.ts';

/** Machines are cut off from one another, in one direction or both, or much of what they say is lost: what serves goes on. */

const story = tellOfFleet({ fra: 3, iad: 1 }, { instances: 3 });
const { skip } = story;

for (const [from, to] of [
	['control', 'fra-2'],
	['fra-2', 'control'],
] as const) {
	test(`nothing that ${from} says arrives at ${to}: no request fails, and a deploy goes live by way of the others`, { skip }, async () => {
		const { fleet } = story;
		await using visitors = fleet.visit('app');
		await visitors.allAnswer(story.now, fleet.servers);
		fleet.hosts.cut(from, to);
		await visitors.allAnswer(await story.deployNext(), fleet.servers);
		fleet.hosts.heal(from, to);
		await fleet.connected(fleet.servers);
		await visitors.stop();
		assert.deepEqual(told(visitors.failures()), []);
	});
}

for (const [from, to] of [
	['fra-1', 'fra-2'],
	['fra-2', 'fra-1'],
] as const) {
	test(`nothing that ${from} says arrives at its neighbour ${to}: no request fails, and a deploy goes live`, { skip }, async () => {
		const { fleet } = story;
		await using visitors = fleet.visit('app');
		await visitors.allAnswer(story.now, fleet.servers);
		fleet.hosts.cut(from, to);
		await visitors.allAnswer(await story.deployNext(), fleet.servers);
		fleet.hosts.heal(from, to);
		await visitors.stop();
		assert.deepEqual(told(visitors.failures()), []);
	});
}

const ROUND_TRIP_MS = 60;
const LOSS = 0.05;

test(
	'of all that control and servers say a part is lost: no request fails, and a deploy and the way back go live everywhere',
	{ skip },
	async () => {
		const { fleet } = story;
		const machines = ['control', ...fleet.servers];
		const wire = async (ms: number, loss: number) => {
			for (const [i, one] of machines.entries())
				for (const other of machines.slice(i + 1)) await fleet.hosts.roundTrip(one, other, ms, loss);
		};
		await using visitors = fleet.visit('app');
		const before = story.now;
		await visitors.allAnswer(before, fleet.servers);
		await wire(ROUND_TRIP_MS, LOSS);
		await visitors.allAnswer(await story.deployNext(), fleet.servers);
		await story.rollback();
		await visitors.allAnswer(before, fleet.servers);
		await wire(1, 0);
		await visitors.allAnswer(await story.deployNext(), fleet.servers);
		await visitors.stop();
		assert.deepEqual(told(visitors.failures()), []);
	},
);

test('control cut off from all: they serve on, also one that reboots meanwhile; healed, all take the next deploy', { skip }, async () => {
	const { fleet } = story;
	await using visitors = fleet.visit('app');
	await visitors.allAnswer(story.now, fleet.servers);
	for (const server of fleet.servers) fleet.hosts.part('control', server);
	await fleet.lost(fleet.servers);
	const off = Date.now();
	fleet.powerOff('fra-3');
	await fleet.boot('fra-3');
	const on = Date.now();
	await visitors.allAnswer(story.now, fleet.servers);
	for (const server of fleet.servers) fleet.hosts.join('control', server);
	await fleet.connected(fleet.servers);
	await visitors.allAnswer(await story.deployNext(), fleet.servers);
	await visitors.stop();
	// But for the one that had no power, and what its neighbours had under way there.
	const there = visitors.failures(fleet.servers.filter((name) => name !== 'fra-3'));
	assert.ok(
		there.every(({ at, ms }) => at + ms >= off && at <= on + SLACK_MS),
		told(there).join('\n'),
	);
	const others = visitors.failures(['fra-3']);
	assert.ok(others.length <= 2 && others.every(({ at, ms, target }) => target.startsWith('fra') && at + ms >= off && at <= on), told(others).join('\n')); // prettier-ignore
});

/** Its edges say that they are ready before the last of its instances is. */
const SLACK_MS = 5_000;

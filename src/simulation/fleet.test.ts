import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Refusal } from '#control/ports.ts';
import type { Run } from '#wire/region.ts';
import { ENVIRONMENT } from './control-process.ts';
import { inputOf, liveFleet } from './fleet-life.ts';
import type { FleetFault } from './fleet-server.ts';
import { Fleet } from './fleet.ts';

const SEEDS = 100;
/** A broken variant has to show itself within these. */
const VARIANT_SEEDS = 20;

test(`${SEEDS} lives of a fleet keep every invariant`, async () => {
	let moves = 0;
	for (let seed = 0; seed < SEEDS; seed++) {
		const life = await liveFleet(seed);
		assert.deepEqual(life.broken, [], `seed ${seed}`);
		moves += life.moves;
	}
	assert.ok(moves > 5 * SEEDS, 'they are lives in which something moves');
});

const faults: [what: string, fault: FleetFault, shows: RegExp][] = [
	['an agent that runs all of a run', 'agent-ignores-placing', /and s\d+ runs/],
	['an agent that does not wait for the edges', 'agent-leaves-at-once', /leaves while requests are sent to it/],
	['a control that takes what starts for healthy', 'credulous-control', /leaves, and only \d of \d are left/],
	['a control that gives a server up at once', 'hasty-control', /moved without need/],
	['a control that does not see labels', 'blind-to-labels', /which lacks gpu/],
	['a control that does not see budgets', 'blind-to-room', /are reserved/],
];

for (const [what, fault, shows] of faults) {
	test(`caught: ${what}`, async () => {
		for (let seed = 0; seed < VARIANT_SEEDS; seed++) {
			const { broken } = await liveFleet(seed, { fault });
			if (broken.some((one) => shows.test(one))) return;
		}
		assert.fail(`no seed below ${VARIANT_SEEDS} showed it`);
	});
}

const SECOND = 1000;
const MINUTE = 60_000;

/** A fleet whose servers have these memories, with one app of so many instances live. */
async function live(budgets: readonly number[], instances: number): Promise<Fleet> {
	const fleet = new Fleet(1);
	for (const budgetMiB of budgets) fleet.join({ budgetMiB });
	await fleet.clock.pass(5 * SECOND);
	await deploy(fleet, 'notes', 'one', instances);
	return fleet;
}

async function deploy(fleet: Fleet, app: string, content: string, instances: number, labels: readonly string[] = []): Promise<void> {
	await answer(fleet, fleet.driver.deploy(inputOf(app, content, instances, labels)));
	await fleet.clock.pass(20 * SECOND);
}

async function answer<T>(fleet: Fleet, asked: Promise<T>): Promise<T> {
	const settled = asked.then(
		(value) => ({ value }),
		(error: unknown) => ({ error }),
	);
	await fleet.clock.pass(50);
	const result = await settled;
	if ('error' in result) throw result.error;
	return result.value;
}

function runOf(fleet: Fleet, app = 'notes', as: Run['as'] = 'serving'): Run | undefined {
	return fleet.database.wants.get(`fra/${app}/${ENVIRONMENT}`)?.run.find((run) => run.as === as);
}

const placedOf = (fleet: Fleet, app = 'notes', as: Run['as'] = 'serving') => runOf(fleet, app, as)?.placed;
const server = (fleet: Fleet, name: string) => fleet.region.servers.find((one) => one.name === name)!;
const versionOf = (fleet: Fleet) => fleet.database.wants.get(`fra/notes/${ENVIRONMENT}`)!.version;

test('a server that joins takes its share, and one that is not needed takes nothing', async () => {
	const fleet = await live([1000], 3);
	assert.deepEqual(placedOf(fleet), { s0: 3 });
	fleet.join();
	await fleet.clock.pass(20 * SECOND);
	assert.deepEqual(placedOf(fleet), { s0: 2, s1: 1 });
	fleet.join();
	await fleet.clock.pass(20 * SECOND);
	assert.deepEqual(placedOf(fleet), { s0: 1, s1: 1, s2: 1 });
	fleet.join();
	await fleet.clock.pass(20 * SECOND);
	assert.deepEqual(placedOf(fleet), { s0: 1, s1: 1, s2: 1 });
	assert.deepEqual(fleet.broken, []);
});

test('a server that joins a crowded one takes over apps that have one instance each', async () => {
	const fleet = new Fleet(1);
	fleet.join({ budgetMiB: 500 });
	await fleet.clock.pass(5 * SECOND);
	for (const app of ['notes', 'mail', 'chat']) await deploy(fleet, app, 'one', 1, []);
	assert.equal(server(fleet, 's0').usedMiB(), 300);
	fleet.join({ budgetMiB: 500 });
	await fleet.clock.pass(MINUTE);
	assert.deepEqual(
		fleet.region.servers.map((one) => one.usedMiB()),
		[200, 100],
	);
	assert.deepEqual(fleet.broken, []);
});

test('a new release goes where the app is; what stands by stays where it is', async () => {
	const fleet = await live([2000, 2000, 9000, 9000], 2);
	const first = placedOf(fleet);
	await deploy(fleet, 'notes', 'two', 2);
	assert.deepEqual([placedOf(fleet), placedOf(fleet, 'notes', 'warm')], [first, first]);
});

test('a server that drains is left: what moves is healthy elsewhere before', async () => {
	const fleet = await live([1000, 1000], 2);
	assert.deepEqual(placedOf(fleet), { s0: 1, s1: 1 });
	fleet.drain(server(fleet, 's0'));
	await fleet.clock.pass(70);
	assert.deepEqual(placedOf(fleet), { s0: 1, s1: 2 });
	await fleet.clock.pass(20 * SECOND);
	assert.deepEqual(placedOf(fleet), { s1: 2 });
	assert.equal(server(fleet, 's0').usedMiB(), 0);
	fleet.drain(server(fleet, 's0'), false);
	await fleet.clock.pass(20 * SECOND);
	assert.deepEqual(placedOf(fleet), { s0: 1, s1: 1 });
	assert.deepEqual(fleet.broken, []);
});

test('a server that drains with nowhere to go keeps what it has, until there is room', async () => {
	const fleet = await live([1000, 200], 4);
	assert.deepEqual(placedOf(fleet), { s0: 2, s1: 2 });
	fleet.drain(server(fleet, 's0'));
	await fleet.clock.pass(5 * MINUTE);
	assert.deepEqual(placedOf(fleet), { s0: 2, s1: 2 });
	fleet.join({ budgetMiB: 300 });
	await fleet.clock.pass(MINUTE);
	assert.deepEqual(placedOf(fleet), { s1: 2, s2: 2 });
	assert.deepEqual(fleet.broken, []);
});

test('a lost server is given up after 60 s and not before; back, it is trusted again after a while', async () => {
	const fleet = await live([1000, 1000], 2);
	fleet.lose(server(fleet, 's0'), 50 * SECOND);
	await fleet.clock.pass(55 * SECOND);
	assert.deepEqual(placedOf(fleet), { s0: 1, s1: 1 });
	await fleet.clock.pass(MINUTE);
	const version = versionOf(fleet);
	fleet.lose(server(fleet, 's0'), 100 * SECOND);
	await fleet.clock.pass(50 * SECOND);
	assert.equal(versionOf(fleet), version);
	await fleet.clock.pass(40 * SECOND);
	assert.deepEqual(placedOf(fleet), { s1: 2 });
	await fleet.clock.pass(50 * SECOND);
	assert.deepEqual(placedOf(fleet), { s1: 2 }, 'it has just come back');
	await fleet.clock.pass(2 * MINUTE);
	assert.deepEqual(placedOf(fleet), { s0: 1, s1: 1 });
});

test('a deploy does not wait for a server that is lost while it prepares: what was to be there begins elsewhere', async () => {
	const fleet = await live([1000, 1000, 1000], 3);
	const { deployment } = await answer(fleet, fleet.driver.deploy(inputOf('notes', 'two', 3)));
	assert.deepEqual(placedOf(fleet, 'notes', 'prepared'), { s0: 1, s1: 1, s2: 1 });
	fleet.lose(server(fleet, 's0'), 10 * MINUTE);
	await fleet.clock.pass(30 * SECOND);
	assert.equal(fleet.database.history({ limit: 10 }).find(({ id }) => id === deployment.id)?.state, 'Deployed');
	assert.equal(placedOf(fleet)?.['s0'], undefined);
	assert.deepEqual(placedOf(fleet, 'notes', 'warm'), { s0: 1, s1: 1, s2: 1 }, 'what serves nobody there waits for its return');
});

test('a server that comes and goes for hours makes little move', async () => {
	const fleet = await live([1000, 1000], 2);
	const before = versionOf(fleet);
	const start = fleet.clock.monotonic();
	while (fleet.clock.monotonic() - start < 6 * 60 * MINUTE) {
		fleet.lose(server(fleet, 's0'), 70 * SECOND, false);
		await fleet.clock.pass(150 * SECOND);
	}
	// 144 losses. Twice an hour at most, once it has shown what it is like.
	assert.ok(versionOf(fleet) - before < 30, `${versionOf(fleet) - before} writes`);
	fleet.lose(server(fleet, 's0'), 5 * SECOND);
	assert.equal(fleet.broken.length, 0);
});

test('all servers of a region gone: nothing is moved, and they find it as it was', async () => {
	const fleet = await live([1000, 1000], 2);
	const version = versionOf(fleet);
	for (const one of fleet.region.servers) fleet.lose(one, 10 * MINUTE);
	await fleet.clock.pass(9 * MINUTE);
	assert.equal(versionOf(fleet), version);
	await fleet.clock.pass(3 * MINUTE);
	assert.deepEqual(placedOf(fleet), { s0: 1, s1: 1 });
	const running = fleet.region.servers.map((one) => one.usedMiB());
	assert.deepEqual(running, [100, 100]);
});

test('a server with a full disk keeps what it runs and gets nothing new', async () => {
	const fleet = await live([1000, 1000], 2);
	fleet.fillDisk(server(fleet, 's1'), 10);
	await fleet.clock.pass(5 * SECOND);
	await deploy(fleet, 'notes', 'two', 2);
	assert.deepEqual([placedOf(fleet), placedOf(fleet, 'notes', 'warm')], [{ s0: 2 }, { s0: 1, s1: 1 }]);
	fleet.fillDisk(server(fleet, 's0'), 10);
	await fleet.clock.pass(5 * SECOND);
	await assert.rejects(deploy(fleet, 'notes', 'three', 2), {
		code: 'no_server',
		message: 'no server of region fra takes new instances of notes now: s0 has a full disk, s1 has a full disk',
	});
	assert.deepEqual(placedOf(fleet), { s0: 2 });
});

test('no room is refused with server and MiB, before anything moved', async () => {
	const fleet = await live([300, 250], 2);
	const version = versionOf(fleet);
	const before = fleet.database.deployments.size;
	await assert.rejects(deploy(fleet, 'mail', 'one', 4), (error) => {
		assert.ok(error instanceof Refusal);
		assert.deepEqual([error.code, error.status, error.data], ['room', 507, { region: 'fra', server: 's1', missingMiB: 50 }]);
		assert.match(error.message, /server s1 lacks 50 MiB of memory \(its budget is 250 MiB\), and the other servers have less room/);
		return true;
	});
	assert.deepEqual([versionOf(fleet), fleet.database.deployments.size], [version, before]);
	await deploy(fleet, 'mail', 'two', 3);
	assert.deepEqual(placedOf(fleet, 'mail'), { s0: 2, s1: 1 });
});

test('two apps that are deployed at the same moment see each other', async () => {
	const fleet = new Fleet(1);
	fleet.join({ budgetMiB: 300 });
	await fleet.clock.pass(5 * SECOND);
	const both = [fleet.driver.deploy(inputOf('notes', 'one', 2)), fleet.driver.deploy(inputOf('mail', 'one', 2))];
	const settled = Promise.allSettled(both);
	await fleet.clock.pass(MINUTE);
	assert.deepEqual(
		(await settled).map((one) => (one.status === 'rejected' ? (one.reason as Refusal).code : one.status)),
		['fulfilled', 'room'],
	);
});

test('labels choose the servers, and without any that has them the deploy is refused', async () => {
	const fleet = new Fleet(1);
	fleet.join();
	await fleet.clock.pass(5 * SECOND);
	await assert.rejects(deploy(fleet, 'notes', 'one', 1, ['gpu']), {
		code: 'no_server',
		status: 422,
		message: 'no server of region fra has the labels that notes asks for with "servers": gpu',
	});
	fleet.join({ labels: ['gpu'] });
	await fleet.clock.pass(5 * SECOND);
	await deploy(fleet, 'notes', 'two', 2, ['gpu']);
	assert.deepEqual(placedOf(fleet), { s1: 2 });
	fleet.lose(server(fleet, 's1'), 5 * MINUTE);
	await fleet.clock.pass(3 * MINUTE);
	assert.deepEqual(placedOf(fleet), { s1: 2 }, 'there is nowhere else');
});

test('a rollback to what stood by on a server that is away starts elsewhere', async () => {
	const fleet = await live([1000, 1000], 1);
	await deploy(fleet, 'notes', 'two', 1);
	const [was] = Object.keys(placedOf(fleet)!);
	fleet.lose(server(fleet, was!), 10 * MINUTE);
	await fleet.clock.pass(20 * SECOND);
	const ask = { app: 'notes', environment: ENVIRONMENT, to: null, undo: null, again: false, by: 'ada', why: null };
	await answer(fleet, fleet.driver.rollback(ask));
	await fleet.clock.pass(10 * SECOND);
	const other = was === 's0' ? 's1' : 's0';
	assert.deepEqual([runOf(fleet)?.release, placedOf(fleet)], [1, { [other]: 1 }]);
	assert.equal(fleet.region.obeyed.get(`fra/notes/${ENVIRONMENT}`)?.pointer.primary, 1);
});

test('a control that starts anew goes on with a move', async () => {
	const fleet = await live([1000], 2);
	fleet.join();
	await fleet.clock.pass(30);
	await fleet.restartControl();
	await fleet.clock.pass(MINUTE);
	assert.deepEqual(placedOf(fleet), { s0: 1, s1: 1 });
	assert.deepEqual(fleet.broken, []);
});

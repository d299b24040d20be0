import assert from 'node:assert/strict';
import { test } from 'node:test';
import { tellOfFleet, told } from './fixtures/fleet-story.ts';
import { eventually, kill, type Program } from './fixtures/jibe.ts';

/** Each program of a server, and control, is killed and frozen in turn, and control loses its power: users see nothing of it. */

const story = tellOfFleet({ fra: 2, iad: 1 }, { instances: 2 });
const { skip } = story;
const SERVER = 'fra-1';

/** As many as there were, and none of those. */
async function replaced(role: string, old: readonly Program[]): Promise<void> {
	const pids = new Set(old.map(({ pid }) => pid));
	await eventually(() => {
		const now = story.fleet.programs(SERVER, role);
		return now.length >= old.length && now.every(({ pid }) => !pids.has(pid)) ? true : null;
	}, `new ${role} on ${SERVER}`);
}

for (const role of ['depot', 'agent'] as const) {
	test(`${role} of a server killed: no request fails anywhere, and the next deploy is live everywhere`, { skip }, async () => {
		await using visitors = story.fleet.visit('app');
		await visitors.allAnswer(story.now, story.fleet.servers);
		const old = story.fleet.programs(SERVER, role);
		assert.equal(old.length, 1);
		for (const { pid } of old) kill(pid, 'SIGKILL');
		await replaced(role, old);
		await visitors.allAnswer(await story.deployNext(), story.fleet.servers);
		await visitors.stop();
		assert.deepEqual(told(visitors.failures()), []);
	});
}

test('its supervisor killed: what it started goes on, and jibe up takes it over', { skip }, async () => {
	await using visitors = story.fleet.visit('app');
	const [up] = story.fleet.programs(SERVER, 'up');
	const edges = story.fleet.programs(SERVER, 'edge').map(({ pid }) => pid);
	kill(up!.pid, 'SIGKILL');
	await visitors.allAnswer(await story.deployNext(), story.fleet.servers);
	await story.fleet.boot(SERVER);
	assert.deepEqual(
		story.fleet.programs(SERVER, 'edge').map(({ pid }) => pid),
		edges,
	);
	await visitors.stop();
	assert.deepEqual(told(visitors.failures()), []);
});

test('one of its two edges killed: only what that one had in hand breaks', { skip }, async () => {
	await using visitors = story.fleet.visit('app', story.fleet.servers, 5);
	await visitors.allAnswer(story.now, story.fleet.servers);
	const old = story.fleet.programs(SERVER, 'edge');
	assert.equal(old.length, 2);
	kill(old[0]!.pid, 'SIGKILL');
	await eventually(() => (story.fleet.programs(SERVER, 'edge').length === 2 ? true : null), 'second edge');
	await visitors.allAnswer(await story.deployNext(), story.fleet.servers);
	await visitors.stop();
	assert.deepEqual(told(visitors.failures([SERVER])), []);
	// One user asks there, one request at a time.
	assert.ok(visitors.failures().length <= 1, told(visitors.failures()).join('\n'));
});

test('one of its two edges frozen: it is replaced, and only what that one had in hand breaks', { skip }, async () => {
	await using visitors = story.fleet.visit('app', story.fleet.servers, 5);
	await visitors.allAnswer(story.now, story.fleet.servers);
	const [frozen] = story.fleet.programs(SERVER, 'edge');
	kill(frozen!.pid, 'SIGSTOP');
	await eventually(() => {
		const now = story.fleet.programs(SERVER, 'edge').map(({ pid }) => pid);
		return now.length === 2 && !now.includes(frozen!.pid) ? true : null;
	}, 'edge in the place of the frozen one');
	await visitors.allAnswer(await story.deployNext(), story.fleet.servers);
	await visitors.stop();
	assert.deepEqual(told(visitors.failures([SERVER])), []);
	assert.ok(visitors.failures().length <= 1, told(visitors.failures()).join('\n'));
});

for (const role of ['depot', 'agent', 'up'] as const) {
	test(`${role} of a server frozen: no request fails anywhere, and it goes on when it thaws`, { skip }, async () => {
		await using visitors = story.fleet.visit('app');
		await visitors.allAnswer(story.now, story.fleet.servers);
		const [program] = story.fleet.programs(SERVER, role);
		kill(program!.pid, 'SIGSTOP');
		const until = Date.now() + FROZEN_MS;
		await visitors.until(until);
		kill(program!.pid, 'SIGCONT');
		await visitors.allAnswer(await story.deployNext(), story.fleet.servers);
		await visitors.stop();
		assert.deepEqual(told(visitors.failures()), []);
	});
}

const FROZEN_MS = 3_000;

for (const [what, harm] of [
	['frozen', () => freezeControl()],
	['killed with its database', () => killControl()],
	['without power', () => cutControlOff()],
] as const) {
	test(`control ${what}: no request fails, and it goes on where it was`, { skip }, async () => {
		await using visitors = story.fleet.visit('app');
		await visitors.allAnswer(story.now, story.fleet.servers);
		const mend = harm();
		await visitors.until(Date.now() + AWAY_MS);
		await mend();
		await story.fleet.connected(story.fleet.servers);
		await visitors.allAnswer(await story.deployNext(), story.fleet.servers);
		await visitors.stop();
		assert.deepEqual(told(visitors.failures()), []);
	});
}

const AWAY_MS = 2_000;

function freezeControl(): () => Promise<void> {
	const [control] = story.fleet.programs('control', 'control');
	kill(control!.pid, 'SIGSTOP');
	return async () => void kill(control!.pid, 'SIGCONT');
}

/** Its supervisor starts them again. */
function killControl(): () => Promise<void> {
	for (const role of ['control', 'postgres']) for (const { pid } of story.fleet.programs('control', role)) kill(pid, 'SIGKILL');
	return async () => {};
}

function cutControlOff(): () => Promise<void> {
	story.fleet.powerOff('control');
	return async () => await story.fleet.boot('control');
}

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { startFleet, type Fleet } from './fixtures/fleet.ts';
import { noHosts } from './fixtures/hosts.ts';
import { eventually, kill, type Program } from './fixtures/jibe.ts';
import type { Visit } from './fixtures/visitors.ts';

/** Each program of a server, and control, is killed and frozen in turn, and control loses its power: users see nothing of it. */

const skip = noHosts();
const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;
const SERVER = 'fra-1';

let fleet: Fleet;
let app: App;
let edition = 0;

before(async () => {
	if (skip !== false) return;
	fleet = await startFleet({ fra: 2, iad: 1 });
	app = tinyApp('app', text('edition 0'), { instances: 2 });
	await fleet.expect(0, 'control', ['deploy', '--json'], { cwd: app.dir });
});
after(async () => {
	if (skip !== false) return;
	app[Symbol.dispose]();
	await fleet.stop();
});

async function deployNext(): Promise<string> {
	const words = `edition ${++edition}`;
	app.write('server.ts', text(words));
	await fleet.expect(0, 'control', ['deploy', '--json'], { cwd: app.dir });
	return words;
}

/** As many as there were, and none of those. */
async function replaced(role: string, old: readonly Program[]): Promise<void> {
	const pids = new Set(old.map(({ pid }) => pid));
	await eventually(() => {
		const now = fleet.programs(SERVER, role);
		return now.length >= old.length && now.every(({ pid }) => !pids.has(pid)) ? true : null;
	}, `new ${role} on ${SERVER}`);
}

const said = ({ target, at, ms, status, error, body }: Visit) => `${target} at ${at % 100_000} +${ms}: ${status} ${error ?? body}`;

for (const role of ['depot', 'agent'] as const) {
	test(`${role} of a server killed: no request fails anywhere, and the next deploy is live everywhere`, { skip }, async () => {
		await using visitors = fleet.visit('app');
		await visitors.allAnswer(`edition ${edition}`, fleet.servers);
		const old = fleet.programs(SERVER, role);
		assert.equal(old.length, 1);
		for (const { pid } of old) kill(pid, 'SIGKILL');
		await replaced(role, old);
		await visitors.allAnswer(await deployNext(), fleet.servers);
		await visitors.stop();
		assert.deepEqual(visitors.failures().map(said), []);
	});
}

test('its supervisor killed: what it started goes on, and jibe up takes it over', { skip }, async () => {
	await using visitors = fleet.visit('app');
	const [up] = fleet.programs(SERVER, 'up');
	const edges = fleet.programs(SERVER, 'edge').map(({ pid }) => pid);
	kill(up!.pid, 'SIGKILL');
	await visitors.allAnswer(await deployNext(), fleet.servers);
	await fleet.boot(SERVER);
	assert.deepEqual(
		fleet.programs(SERVER, 'edge').map(({ pid }) => pid),
		edges,
	);
	await visitors.stop();
	assert.deepEqual(visitors.failures().map(said), []);
});

test('one of its two edges killed: only what that one had in hand breaks', { skip }, async () => {
	await using visitors = fleet.visit('app', fleet.servers, 5);
	await visitors.allAnswer(`edition ${edition}`, fleet.servers);
	const old = fleet.programs(SERVER, 'edge');
	assert.equal(old.length, 2);
	kill(old[0]!.pid, 'SIGKILL');
	await eventually(() => (fleet.programs(SERVER, 'edge').length === 2 ? true : null), 'second edge');
	await visitors.allAnswer(await deployNext(), fleet.servers);
	await visitors.stop();
	assert.deepEqual(visitors.failures([SERVER]).map(said), []);
	// One user asks there, one request at a time.
	assert.ok(visitors.failures().length <= 1, visitors.failures().map(said).join('\n'));
});

test('one of its two edges frozen: it is replaced, and only what that one had in hand breaks', { skip }, async () => {
	await using visitors = fleet.visit('app', fleet.servers, 5);
	await visitors.allAnswer(`edition ${edition}`, fleet.servers);
	const [frozen] = fleet.programs(SERVER, 'edge');
	kill(frozen!.pid, 'SIGSTOP');
	await eventually(() => {
		const now = fleet.programs(SERVER, 'edge').map(({ pid }) => pid);
		return now.length === 2 && !now.includes(frozen!.pid) ? true : null;
	}, 'edge in the place of the frozen one');
	await visitors.allAnswer(await deployNext(), fleet.servers);
	await visitors.stop();
	assert.deepEqual(visitors.failures([SERVER]).map(said), []);
	assert.ok(visitors.failures().length <= 1, visitors.failures().map(said).join('\n'));
});

for (const role of ['depot', 'agent', 'up'] as const) {
	test(`${role} of a server frozen: no request fails anywhere, and it goes on when it thaws`, { skip }, async () => {
		await using visitors = fleet.visit('app');
		await visitors.allAnswer(`edition ${edition}`, fleet.servers);
		const [program] = fleet.programs(SERVER, role);
		kill(program!.pid, 'SIGSTOP');
		const until = Date.now() + FROZEN_MS;
		await visitors.until(until);
		kill(program!.pid, 'SIGCONT');
		await visitors.allAnswer(await deployNext(), fleet.servers);
		await visitors.stop();
		assert.deepEqual(visitors.failures().map(said), []);
	});
}

const FROZEN_MS = 3_000;

for (const [what, harm] of [
	['frozen', () => freezeControl()],
	['killed with its database', () => killControl()],
	['without power', () => cutControlOff()],
] as const) {
	test(`control ${what}: no request fails, and it goes on where it was`, { skip }, async () => {
		await using visitors = fleet.visit('app');
		await visitors.allAnswer(`edition ${edition}`, fleet.servers);
		const mend = harm();
		await visitors.until(Date.now() + AWAY_MS);
		await mend();
		await fleet.connected(fleet.servers);
		await visitors.allAnswer(await deployNext(), fleet.servers);
		await visitors.stop();
		assert.deepEqual(visitors.failures().map(said), []);
	});
}

const AWAY_MS = 2_000;

function freezeControl(): () => Promise<void> {
	const [control] = fleet.programs('control', 'control');
	kill(control!.pid, 'SIGSTOP');
	return async () => void kill(control!.pid, 'SIGCONT');
}

/** Its supervisor starts them again. */
function killControl(): () => Promise<void> {
	for (const role of ['control', 'postgres']) for (const { pid } of fleet.programs('control', role)) kill(pid, 'SIGKILL');
	return async () => {};
}

function cutControlOff(): () => Promise<void> {
	fleet.powerOff('control');
	return async () => await fleet.boot('control');
}

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { temporary } from '../fixture.ts';
import { regionPrograms } from './programs.ts';
import { oneServes, serves, sharesPorts } from './serving.ts';

const LAYOUT = { data: '/tmp', regions: ['fra', 'ams'], port: 7070, edgePort: 8080, separate: false };
const [, , one, other] = regionPrograms(LAYOUT);

/** Two edges that say of themselves what `says` holds; null: it is not there. */
async function edges(t: TestContext, says: Record<string, string | null>) {
	const directory = temporary(t, 'jibe-serving-');
	const asked: string[] = [];
	for (const name of Object.keys(says).filter((name) => says[name] !== null)) {
		const server = createServer((socket) => {
			asked.push(name);
			socket.end(`${says[name]} 1\n`);
		}).listen(join(directory, name));
		await once(server, 'listening');
		t.after(() => server.close());
	}
	const health = ({ name }: { name: string }) => ({ target: { greeting: join(directory, name) }, limitMs: 1_000 });
	return { health, asked };
}

test('an edge serves while it holds its ports: not when it has only begun, is about to end, or is not there', async (t) => {
	for (const [said, is] of [
		['alive', true],
		['starting', false],
		['closing', false],
		[null, false],
	] as const) {
		assert.equal(await serves(await edges(t, { 'edge-0': said }), one!), is, String(said));
	}
});

test('the other edge is waited for until it serves, unless there is no other or waiting has no point', async (t) => {
	const says: Record<string, string | null> = { 'edge-0': 'closing', 'edge-1': 'starting' };
	const ground = await edges(t, says);
	await oneServes(ground, [], () => assert.fail('nobody is waited for'));
	await oneServes(ground, [one!, other!], () => {
		if (ground.asked.length >= ENOUGH) says['edge-1'] = 'alive';
	});
	assert.ok(ground.asked.length >= ENOUGH);
	const failure = new Error('it ends as soon as it is started');
	const hopeless = oneServes(await edges(t, { 'edge-0': null }), [one!], () => {
		throw failure;
	});
	await assert.rejects(hopeless, failure);
});

const ENOUGH = 4;

test('edges of the same regions share ports', () => {
	assert.ok(sharesPorts(one!, other!));
	const [, , fra, , , , ams] = regionPrograms({ ...LAYOUT, separate: true });
	assert.ok(!sharesPorts(fra!, ams!));
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { tellOfFleet, told } from './fixtures/fleet-story.ts';
import { COMMAND_POLL_MS, eventually } from './fixtures/jibe.ts';

/** Servers come and go as a team wants: one joins and takes its share, one is drained and leaves, and no request fails for it. */

const config = { instances: 4, regions: ['fra', 'iad'], strategy: { type: 'walk', minRegions: 1 } };
const story = tellOfFleet({ fra: 2, iad: 1 }, config, { later: ['fra-3'] });
const { skip } = story;

/** Server → how many healthy instances of what serves it has. */
async function running(): Promise<Record<string, number>> {
	const { json } = await story.fleet.cli('control', ['status', 'app', '--json']);
	const { serving, regions } = json as unknown as { serving: number; regions: { region: string; instances: Instance[] }[] };
	const of = regions
		.filter(({ region }) => region === 'fra')
		.flatMap(({ instances }) => instances)
		.filter(({ release, state, healthy }) => release === serving && state === 'serving' && healthy);
	return Object.fromEntries([...Map.groupBy(of, ({ server }) => server)].map(([server, all]) => [server, all.length]));
}

interface Instance {
	server: string;
	release: number;
	state: string;
	healthy: boolean;
}

async function runs(...counts: [server: string, instances: number][]): Promise<void> {
	const wanted = Object.fromEntries(counts);
	await eventually(
		async () => {
			const now = await running();
			assert.deepEqual(now, wanted);
			return true;
		},
		`instances as ${JSON.stringify(wanted)}`,
		{ eachMs: COMMAND_POLL_MS },
	);
}

test('a server joins: it takes its share of what runs, answers at once, and nobody notices', { skip }, async () => {
	await runs(['fra-1', 2], ['fra-2', 2]);
	await using visitors = story.fleet.visit('app', ['fra-1', 'fra-2']);
	await story.fleet.join('fra-3');
	await story.fleet.connected(['fra-3']);
	await eventually(async () => (((await running())['fra-3'] ?? 0) > 0 ? true : null), 'share of the new server', {
		eachMs: COMMAND_POLL_MS,
	});
	assert.deepEqual(await story.fleet.askAll('app.localhost', '/', (body) => body === story.now), []);
	await visitors.stop();
	assert.deepEqual(told(visitors.failures()), []);
});

test('a server is drained: what it ran is healthy elsewhere before it stops there; then it is removed', { skip }, async () => {
	await using visitors = story.fleet.visit('app', ['fra-2', 'fra-3']);
	await story.fleet.expect(0, 'control', ['server', 'drain', 'fra-1', '--json']);
	await runs(['fra-2', 2], ['fra-3', 2]);
	await story.fleet.expect(0, 'control', ['server', 'remove', 'fra-1', '--json']);
	await visitors.allAnswer(await story.deployNext(), ['fra-2', 'fra-3']);
	await visitors.stop();
	assert.deepEqual(told(visitors.failures()), []);
	const { json } = await story.fleet.expect(0, 'control', ['server', 'list', '--json']);
	const { servers } = json as unknown as { servers: { name: string }[] };
	assert.deepEqual(servers.map(({ name }) => name).sort(), ['fra-2', 'fra-3', 'iad-1']);
});

test('what was removed serves nothing new: nobody tells it anything any more', { skip }, async () => {
	assert.deepEqual(await story.fleet.askAll('app.localhost', '/', (body) => body === story.now), ['fra-1']);
});

test('all servers of a region gone: the others go on without it; back, it takes what is live', { skip }, async () => {
	await using visitors = story.fleet.visit('app', ['fra-2', 'fra-3']);
	story.fleet.powerOff('iad-1');
	await story.fleet.regionIs('lost', 'iad');
	const words = story.edit();
	assert.deepEqual(await story.deploy(), { fra: 'live', iad: 'skipped' });
	await story.fleet.boot('iad-1');
	await using back = story.fleet.visit('app', ['iad-1']);
	await back.allAnswer(words, ['iad-1']);
	await visitors.allAnswer(words, ['fra-2', 'fra-3']);
	await visitors.stop();
	assert.deepEqual(told(visitors.failures()), []);
});

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { startFleet, type Fleet } from './fixtures/fleet.ts';
import { noHosts } from './fixtures/hosts.ts';
import { eventually, type CliResult } from './fixtures/jibe.ts';

/** Two regions of five machines: one of them is cut off from control before its turn, after its pointer moved, and comes back. */

const skip = noHosts();
const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;
const FRA = ['fra-1', 'fra-2', 'fra-3'];
const IAD = ['iad-1', 'iad-2'];
const LOST_WITHIN_MS = 30_000;

let fleet: Fleet;
let app: App;

before(async () => {
	if (skip !== false) return;
	fleet = await startFleet({ fra: 3, iad: 2 });
	app = tinyApp('app', text('one'), { instances: 3, regions: ['fra', 'iad'], strategy: { type: 'walk', minRegions: 1 } });
	await fleet.expect(0, 'control', ['deploy', '--json'], { cwd: app.dir });
});
after(async () => {
	if (skip !== false) return;
	app[Symbol.dispose]();
	await fleet.stop();
});

function stateOf(result: CliResult, region: string): string | undefined {
	const { regions } = result.json as unknown as { regions: { name: string; state: string }[] };
	return regions.find(({ name }) => name === region)?.state;
}

async function becomes(state: 'lost' | 'connected', region: string): Promise<void> {
	await eventually(
		async () => {
			const { json } = await fleet.cli('control', ['region', 'list', '--json']);
			const regions = json?.['regions'] as { name: string; state: string }[];
			return regions.find(({ name }) => name === region)?.state === state ? true : null;
		},
		`${region} being ${state}`,
		LOST_WITHIN_MS,
	);
}

const SECONDS = 1_000;

test('a region lost before its turn is skipped, serves on, and catches up when it is back', { skip }, async () => {
	await using visitors = fleet.visit('app');
	await visitors.allAnswer('one', fleet.servers);
	for (const server of IAD) fleet.hosts.part('control', server);
	await becomes('lost', 'iad');
	app.write('server.ts', text('two'));
	const result = await fleet.expect(0, 'control', ['deploy', '--json'], { cwd: app.dir });
	assert.deepEqual([stateOf(result, 'fra'), stateOf(result, 'iad')], ['live', 'skipped']);
	assert.match(result.stderr, /iad/);
	await visitors.allAnswer('two', FRA);
	await visitors.allAnswer('one', IAD);
	for (const server of IAD) fleet.hosts.join('control', server);
	await visitors.allAnswer('two', IAD, 40 * SECONDS);
	await visitors.stop();
	assert.deepEqual(visitors.failures(), []);
});

test('a region lost after its pointer moved is pending alone, and nobody goes back for it', { skip }, async () => {
	await using visitors = fleet.visit('app');
	// What control says takes its time to iad: long enough to cut the way back before iad can have answered.
	for (const server of IAD) await fleet.hosts.roundTrip('control', server, 3 * SECONDS);
	app.write('server.ts', text('three'));
	const deploying = fleet.expect(0, 'control', ['deploy', '--json'], { cwd: app.dir });
	await visitors.allAnswer('three', FRA);
	for (const server of IAD) fleet.hosts.cut(server, 'control');
	const result = await deploying;
	assert.deepEqual([stateOf(result, 'fra'), stateOf(result, 'iad')], ['live', 'pending']);
	for (const server of IAD) {
		await fleet.hosts.roundTrip('control', server, 1);
		fleet.hosts.heal(server, 'control');
	}
	await visitors.allAnswer('three', fleet.servers, 40 * SECONDS);
	await becomes('connected', 'iad');
	const rollback = await fleet.expect(0, 'control', ['rollback', '--json'], { cwd: app.dir });
	assert.equal(stateOf(rollback, 'iad'), 'live');
	await visitors.allAnswer('two', fleet.servers);
	await visitors.stop();
	assert.deepEqual(visitors.failures(), []);
});

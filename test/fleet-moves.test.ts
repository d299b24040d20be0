import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { startFleet, type Fleet } from './fixtures/fleet.ts';
import { noHosts } from './fixtures/hosts.ts';
import { eventually } from './fixtures/jibe.ts';
import type { Visit } from './fixtures/visitors.ts';

/** Servers come and go as a team wants: one joins and takes its share, one is drained and leaves, and no request fails for it. */

const skip = noHosts();
const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;

let fleet: Fleet;
let app: App;

before(async () => {
	if (skip !== false) return;
	fleet = await startFleet({ fra: 2, iad: 1 }, { later: ['fra-3'] });
	app = tinyApp('app', text('one'), { instances: 4, regions: ['fra', 'iad'], strategy: { type: 'walk', minRegions: 1 } });
	await fleet.expect(0, 'control', ['deploy', '--json'], { cwd: app.dir });
});
after(async () => {
	if (skip !== false) return;
	app[Symbol.dispose]();
	await fleet.stop();
});

/** Server → how many healthy instances of what serves it has. */
async function running(): Promise<Record<string, number>> {
	const { json } = await fleet.cli('control', ['status', 'app', '--json']);
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
	);
}

const said = ({ target, at, ms, status, error, body }: Visit) => `${target} at ${at % 100_000} +${ms}: ${status} ${error ?? body}`;

test('a server joins: it takes its share of what runs, answers at once, and nobody notices', { skip }, async () => {
	await runs(['fra-1', 2], ['fra-2', 2]);
	await using visitors = fleet.visit('app', ['fra-1', 'fra-2']);
	await fleet.join('fra-3');
	await fleet.connected(['fra-3']);
	await eventually(async () => (((await running())['fra-3'] ?? 0) > 0 ? true : null), 'share of the new server');
	assert.deepEqual(await fleet.askAll('app.localhost', '/', (body) => body === 'one'), []);
	await visitors.stop();
	assert.deepEqual(visitors.failures().map(said), []);
});

test('a server is drained: what it ran is healthy elsewhere before it stops there; then it is removed', { skip }, async () => {
	await using visitors = fleet.visit('app', ['fra-2', 'fra-3']);
	await fleet.expect(0, 'control', ['server', 'drain', 'fra-1', '--json']);
	await runs(['fra-2', 2], ['fra-3', 2]);
	await fleet.expect(0, 'control', ['server', 'remove', 'fra-1', '--json']);
	app.write('server.ts', text('two'));
	await fleet.expect(0, 'control', ['deploy', '--json'], { cwd: app.dir });
	await visitors.allAnswer('two', ['fra-2', 'fra-3']);
	await visitors.stop();
	assert.deepEqual(visitors.failures().map(said), []);
	const { json } = await fleet.expect(0, 'control', ['server', 'list', '--json']);
	const { servers } = json as unknown as { servers: { name: string }[] };
	assert.deepEqual(servers.map(({ name }) => name).sort(), ['fra-2', 'fra-3', 'iad-1']);
});

test('what was removed serves nothing new: nobody tells it anything any more', { skip }, async () => {
	assert.deepEqual(await fleet.askAll('app.localhost', '/', (body) => body === 'two'), ['fra-1']);
});

test('all servers of a region gone: the others go on without it; back, it takes what is live', { skip }, async () => {
	await using visitors = fleet.visit('app', ['fra-2', 'fra-3']);
	fleet.powerOff('iad-1');
	await eventually(
		async () => {
			const { regions } = (await fleet.cli('control', ['region', 'list', '--json'])).json as unknown as {
				regions: { name: string; state: string }[];
			};
			return regions.some(({ name, state }) => name === 'iad' && state === 'lost') ? true : null;
		},
		'loss of the region',
		30_000,
	);
	app.write('server.ts', text('three'));
	const { json } = await fleet.expect(0, 'control', ['deploy', '--json'], { cwd: app.dir });
	const states = (json as unknown as { regions: { name: string; state: string }[] }).regions.map(({ name, state }) => `${name} ${state}`);
	assert.deepEqual(states.sort(), ['fra live', 'iad skipped']);
	await fleet.boot('iad-1');
	await using back = fleet.visit('app', ['iad-1']);
	await back.allAnswer('three', ['iad-1']);
	await visitors.allAnswer('three', ['fra-2', 'fra-3']);
	await visitors.stop();
	assert.deepEqual(visitors.failures().map(said), []);
});

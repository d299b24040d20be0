import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { eventually, kill, startJibe, type CliResult, type Jibe } from './fixtures/jibe.ts';
import { startTraffic } from './fixtures/traffic.ts';

/** One region of two whose agent alone is stopped, before its turn and after it: its depot and edges go on. */

const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;
const HOST = 'app.localhost';

let jibe: Jibe;
let app: App;
before(async () => {
	jibe = await startJibe({ regions: 2, separate: true });
	app = tinyApp('app', text('one'));
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
});
after(async () => {
	app[Symbol.dispose]();
	await jibe.stop();
});

async function statesIn(region: string): Promise<string[]> {
	const { body } = await jibe.api('/api/v1/apps/app/status?environment=production');
	const { regions } = JSON.parse(body) as { regions: { region: string; instances: { state: string }[] }[] };
	return regions.find((of) => of.region === region)?.instances.map(({ state }) => state) ?? [];
}

function stateOf(result: CliResult, region: string): string | undefined {
	return (result.json?.['regions'] as { name: string; state: string }[] | undefined)?.find(({ name }) => name === region)?.state;
}

test('only the agent of a region stopped, before its turn: it is replaced, and the deploy goes on to all regions', async () => {
	const [agent] = jibe.programs('agent', 'agent-ams');
	assert.ok(agent);
	await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
	kill(agent.pid, 'SIGSTOP');
	try {
		app.write('server.ts', text('two'));
		const result = await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
		assert.deepEqual(['fra', 'ams'].map((region) => stateOf(result, region)), ['live', 'live']); // prettier-ignore
	} finally {
		kill(agent.pid, 'SIGCONT');
	}
	for (const region of [0, 1]) assert.equal((await jibe.request(region, HOST, '/')).body, 'two');
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
});

test('only the agent of a region stopped, after its turn: that region alone is pending, goes on serving, and catches up', async () => {
	app.write('server.ts', text('three'));
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	// Until it is frozen the way back needs no agent: the edges just swing.
	await eventually(async () => ((await statesIn('ams')).includes('warm') ? true : null), 'rest of the release before');
	const [agent] = jibe.programs('agent', 'agent-ams');
	assert.ok(agent);
	await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
	kill(agent.pid, 'SIGSTOP');
	try {
		const result = await jibe.expect(0, ['rollback', '--json'], { cwd: app.dir });
		assert.deepEqual(['fra', 'ams'].map((region) => stateOf(result, region)), ['live', 'pending']); // prettier-ignore
		assert.match(result.stderr, /ams: pending/);
		assert.equal((await jibe.request(0, HOST, '/')).body, 'two');
		assert.equal((await jibe.request(1, HOST, '/')).body, 'three');
	} finally {
		kill(agent.pid, 'SIGCONT');
	}
	await eventually(async () => ((await jibe.request(1, HOST, '/')).body === 'two' ? true : null), 'catching up of the region');
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
});

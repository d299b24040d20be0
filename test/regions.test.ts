import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { eventually, kill, startJibe, type CliResult, type Jibe, type Program } from './fixtures/jibe.ts';

/** A region that can't be reached is skipped or pending, and catches up through its own gate. */

const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;
const HOST = 'app.localhost';

let jibe: Jibe;
let app: App;

before(async () => {
	jibe = await startJibe({ regions: 3, separate: true });
	app = tinyApp('app', text('one'));
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
});
after(async () => {
	app[Symbol.dispose]();
	await jibe.stop();
});

function depotAndAgentOf(region: string): Program[] {
	return [...jibe.programs('depot', `depot-${region}`), ...jibe.programs('agent', `agent-${region}`)];
}

async function isLost(region: string): Promise<true | null> {
	const { body } = await jibe.api('/api/v1/regions');
	const { regions } = JSON.parse(body) as { regions: { name: string; state: string }[] };
	return regions.find(({ name }) => name === region)?.state === 'lost' ? true : null;
}

function stateOf(result: CliResult, region: string): string | undefined {
	const { regions } = result.json as unknown as { regions: { name: string; state: string }[] };
	return regions.find(({ name }) => name === region)?.state;
}

test('a region lost before its turn is skipped, and catches up when it is back', async () => {
	const programs = depotAndAgentOf('lhr');
	assert.equal(
		programs.length,
		2,
		jibe
			.pids()
			.map(({ line }) => line)
			.join('\n'),
	);
	for (const { pid } of programs) kill(pid, 'SIGSTOP');
	try {
		await eventually(() => isLost('lhr'), 'loss of the region');
		app.write('server.ts', text('two'));
		const result = await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
		assert.equal(stateOf(result, 'lhr'), 'skipped');
		assert.equal(stateOf(result, 'fra'), 'live');
		assert.match(result.stderr, /lhr/);
		assert.equal((await jibe.request(2, HOST, '/')).body, 'one', 'it goes on serving what it served');
	} finally {
		for (const { pid } of programs) kill(pid, 'SIGCONT');
	}
	await eventually(async () => ((await jibe.request(2, HOST, '/')).body === 'two' ? true : null), 'catching up of the region that is back');
});

test('a rollback reaches every region that can be reached, and lists the other as pending', async () => {
	const programs = depotAndAgentOf('ams');
	for (const { pid } of programs) kill(pid, 'SIGSTOP');
	try {
		await eventually(() => isLost('ams'), 'loss of the region');
		const result = await jibe.expect(0, ['rollback', '--json'], { cwd: app.dir });
		assert.equal(stateOf(result, 'ams'), 'pending');
		assert.equal((await jibe.request(0, HOST, '/')).body, 'one');
	} finally {
		for (const { pid } of programs) kill(pid, 'SIGCONT');
	}
	await eventually(async () => ((await jibe.request(1, HOST, '/')).body === 'one' ? true : null), 'rollback in the region that is back');
});

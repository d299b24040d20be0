import assert from 'node:assert/strict';
import { test } from 'node:test';
import { whyNot } from '#builder/sandbox/testbed.ts';
import { builds, leftovers, small } from './fixtures/builds.ts';
import { startJibe } from './fixtures/jibe.ts';

const HOST = 'made.localhost';

test('steps of an app, from the command line to what is live', { skip: whyNot() }, async (t) => {
	await using jibe = await startJibe({ regions: 2 });
	using app = small('made', {
		build: { word: { run: "sed 's/one/made of one/' words/word.txt > src/word.ts", inputs: ['words/**'], outputs: ['src/word.ts'] } },
		test: { check: { run: 'echo looking; grep -q made src/word.ts', inputs: ['nothing'] } },
	});
	app.write('words/word.txt', "export const word = 'one';\n");
	const deploy = () => jibe.expect(0, ['deploy', '--json', app.dir]);
	const steps = async () => {
		const [build] = await builds(jibe, 'made');
		const own = build!.steps.filter(({ kind }) => ['build', 'test'].includes(kind));
		return own.map(({ name, state, cached }) => `${name} ${state}${cached ? ' cached' : ''}`).sort();
	};

	await t.test('what a step makes is compiled, tested and live, though the laptop has no such file', async () => {
		const { stderr } = await deploy();
		assert.match(stderr, /Its build steps run on a builder/);
		assert.equal((await jibe.request(0, HOST, '/')).body, 'made of one');
		assert.deepEqual(await steps(), ['check passed', 'word passed']);
	});

	await t.test('what a change does not concern comes from the cache, with its log', async () => {
		app.write('README.md', 'x\n');
		app.write('src/other.ts', 'export {};\n');
		await deploy();
		assert.deepEqual(await steps(), ['check passed cached', 'word passed cached']);
		const [build] = await builds(jibe, 'made');
		const { stdout } = await jibe.expect(0, ['logs', '--build', build!.id, '--step', 'check']);
		assert.match(stdout, /taken from the cache[^]*looking/);
	});

	await t.test('what changed is what jibe why names', async () => {
		app.write('words/word.txt', "export const word = 'one more';\n");
		await deploy();
		assert.equal((await jibe.request(0, HOST, '/')).body, 'made of one more');
		assert.deepEqual(await steps(), ['check passed', 'word passed']);
		assert.match((await jibe.expect(0, ['why', 'word', 'made'])).stdout, /\n {2}words\/word\.txt changed\n$/);
		assert.match((await jibe.expect(0, ['why', 'check', 'made'])).stdout, /\n {2}what word made is different\n$/);
	});

	await t.test('a test that fails ends it, with its last lines; what serves goes on', async () => {
		app.write('words/word.txt', "export const word = 'two';\n");
		const { stderr, json } = await jibe.expect(1, ['deploy', '--json', app.dir]);
		assert.equal(json?.['state'], 'TestFailed');
		assert.match(stderr, /The step check failed: exit code 1\n\s*looking/);
		assert.equal((await jibe.request(0, HOST, '/')).body, 'made of one more');
		assert.deepEqual(leftovers(jibe), []);
	});

	await t.test('a check that fails beside the deploy takes it back, or never lets it begin', async () => {
		using checked = small('checked', { test: { scan: { run: 'test ! -e bad', gate: 'promotion' } } });
		const remote = ['deploy', '--remote', '--json', checked.dir];
		await jibe.expect(0, remote);
		checked.write('bad', '').edit('src/word.ts', "'one'", "'two'");
		const { code, stderr, json } = await jibe.cli(remote);
		// Whichever was first: the check, or the pointer of the first region.
		assert.match(`${code} ${String(json?.['state'])}`, /^(3 RolledBack|1 DeployFailed)$/);
		assert.equal(json?.['reason'], 'checks');
		assert.match(stderr, /The step scan failed: exit code 1/);
		for (const region of [0, 1]) assert.equal((await jibe.request(region, 'checked.localhost', '/')).body, 'one');
	});
});

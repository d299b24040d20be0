import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { whyNot } from '#builder/sandbox/testbed.ts';
import type { BuildView } from '#wire/builds.ts';
import { builds, leftovers, running, small, withPackage } from './fixtures/builds.ts';
import { eventually, startJibe } from './fixtures/jibe.ts';

const HOST = (app: string) => `${app}.localhost`;

test('a builder makes of a source what the laptop makes of it, and it goes live', async (t) => {
	await using jibe = await startJibe({ regions: 1 });
	using app = small('plain');
	await t.test('an app without dependencies', async () => {
		assert.deepEqual(jibe.programs('builder'), [], 'none runs while there is nothing to build');
		const remote = await jibe.expect(0, ['deploy', '--remote', '--json', app.dir]);
		assert.equal((await jibe.request(0, HOST('plain'), '/')).body, 'one');
		const local = await jibe.expect(0, ['deploy', '--json', app.dir]);
		assert.equal(local.json?.['artifact'], remote.json?.['artifact']);
		assert.equal(local.json?.['deployment'], remote.json?.['deployment'], 'it was live already');
		assert.equal(jibe.programs('builder').length, 1);
	});

	await t.test('a fault of the app ends it, and says where', async () => {
		app.edit('src/word.ts', "'one';", "'two'; }");
		const { stderr, json } = await jibe.expect(1, ['deploy', '--remote', '--json', app.dir]);
		assert.match(stderr, /src\/word\.ts:1/);
		assert.equal(json?.['state'], 'BuildFailed');
		const [build] = await builds(jibe, 'plain');
		assert.deepEqual([build?.state, build?.id], ['BuildFailed', json?.['deployment']]);
		assert.equal((await jibe.request(0, HOST('plain'), '/')).body, 'one');
		assert.deepEqual(leftovers(jibe), []);
	});

	await t.test('what goes on the command line of a laptop and not of a builder is refused', async () => {
		const { stderr } = await jibe.expect(2, ['deploy', '--remote', '--regions', 'fra', app.dir]);
		assert.match(stderr, /--regions does not go with --remote/);
	});

	await t.test(
		'dependencies are installed once for a lockfile, tests run, and both are kept',
		{ skip: whyNot() || needsNpm() },
		async () => {
			using app = withPackage(
				small('packed', { test: "node -e \"import('greeting').then((m) => process.exit(m.default === 'hello' ? 0 : 1))\"" }),
			);
			const first = await jibe.expect(0, ['deploy', '--remote', '--json', app.dir]);
			assert.equal((await jibe.request(0, HOST('packed'), '/')).body, 'hello');
			const step = (build: BuildView | undefined, name: string) => build?.steps.find((one) => one.name === name);
			const [build] = await builds(jibe, 'packed');
			assert.equal(step(build, 'dependencies')?.cached, false);
			assert.deepEqual([step(build, 'test')?.state, step(build, 'test')?.cached], ['passed', false]);

			app.write('README.md', 'changed');
			await jibe.expect(0, ['deploy', '--remote', '--json', app.dir]);
			const [second] = await builds(jibe, 'packed');
			assert.equal(step(second, 'dependencies')?.cached, true);
			assert.match(step(second, 'dependencies')?.summary ?? '', /hit rate 50 % of 2/);

			spawnSync('npm', ['ci', '--no-audit', '--no-fund'], { cwd: app.dir });
			rmSync(join(app.dir, 'README.md'));
			const local = await jibe.expect(0, ['deploy', '--json', app.dir]);
			assert.equal(local.json?.['artifact'], first.json?.['artifact']);
			assert.deepEqual(leftovers(jibe), []);
		},
	);

	await t.test('a build that a person cancels ends at once, with all that it started', { skip: whyNot() }, async () => {
		using app = small('slow', { build: { wait: { run: 'sleep 987', outputs: [] } } });
		const deploying = jibe.cli(['deploy', '--remote', '--json', app.dir]);
		const { id } = await eventually(() => running(jibe, 'slow', 'wait'), 'build');
		await jibe.expect(0, ['cancel', id]);
		const { code, json } = await deploying;
		assert.deepEqual([code, json?.['state']], [3, 'Cancelled']);
		await eventually(() => (sleepers().length === 0 ? true : null), 'end of what the build started');
		assert.deepEqual(leftovers(jibe), []);
	});
});

function sleepers(): string[] {
	return spawnSync('ps', ['-axww', '-o', 'args='], { encoding: 'utf8' })
		.stdout.split('\n')
		.filter((line) => line === 'sleep 987');
}

function needsNpm(): string | false {
	return spawnSync('npm', ['--version']).status === 0 ? false : 'needs npm on PATH';
}

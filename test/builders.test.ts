import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { whyNot } from '#builder/sandbox/testbed.ts';
import { packSource } from '#cli/remote/source.ts';
import type { BuildView } from '#wire/builds.ts';
import { encodeUpload, UPLOAD_TYPE } from '#wire/upload.ts';
import { builds, leftovers, running, small, withPackage } from './fixtures/builds.ts';
import { eventually, startJibe, type Jibe } from './fixtures/jibe.ts';

const HOST = (app: string) => `${app}.localhost`;

test('a builder makes of a source what the laptop makes of it, and it goes live', async (t) => {
	await using jibe = await startJibe({ regions: 1, env: { JIBE_VERIFY_ONE_IN: '1' } });
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
		await eventually(() => (leftovers(jibe).length === 0 ? true : null), 'tidied builder');
	});

	await t.test('what goes on the command line of a laptop and not of a builder is refused', async () => {
		const { stderr } = await jibe.expect(2, ['deploy', '--remote', '--regions', 'fra', app.dir]);
		assert.match(stderr, /--regions does not go with --remote/);
	});

	await t.test('what laptops deploy is built once more: the same is verified, something else is told by its paths', async () => {
		app.write('src/word.ts', `export const word: string = 'again';\n`);
		const { json } = await jibe.expect(0, ['deploy', '--json', app.dir]);
		const id = String(json?.['deployment']);
		const [verified] = await eventually(() => comparisons(jibe, 'plain', 1), 'verification');
		assert.deepEqual([verified?.verifies, verified?.reason], [id, 'verified']);
		assert.equal((await jibe.newest('plain'))?.id, id, 'nothing was deployed by it');

		app.write('src/word.ts', `export const word: string = 'something else';\n`);
		const source = packSource(app.dir, []);
		const ask = (path: string, method: string, type: string, body: Buffer | string) =>
			fetch(`${jibe.url}/api/v1${path}`, { method, headers: { authorization: `Bearer ${jibe.token}`, 'content-type': type }, body });
		assert.equal((await ask('/apps/plain/blobs', 'PUT', UPLOAD_TYPE, encodeUpload({}, [source.bytes]))).status, 200);
		const sample = JSON.stringify({ digest: source.digest, directory: '' });
		assert.equal((await ask(`/deployments/${id}/source`, 'POST', 'application/json', sample)).status, 200);
		const [other] = await eventually(() => comparisons(jibe, 'plain', 2), 'verification');
		assert.equal(other?.reason, 'unreproducible');
		assert.equal(other?.detail, 'modules/src/word.ts');
		const status = await jibe.expect(0, ['status', 'plain']);
		assert.match(status.stdout, /unreproducible[^]*modules\/src\/word\.ts/);
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
			await eventually(() => (leftovers(jibe).length === 0 ? true : null), 'tidied builder');
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
		await eventually(() => (leftovers(jibe).length === 0 ? true : null), 'tidied builder');
	});
});

/** The ended builds of an app that compare, once there are so many; the newest first. */
async function comparisons(jibe: Jibe, app: string, count: number): Promise<BuildView[] | null> {
	const found = (await builds(jibe, app)).filter(({ kind, endedAt }) => kind === 'verify' && endedAt !== null);
	return found.length === count ? found : null;
}

function sleepers(): string[] {
	return spawnSync('ps', ['-axww', '-o', 'args='], { encoding: 'utf8' })
		.stdout.split('\n')
		.filter((line) => line === 'sleep 987');
}

function needsNpm(): string | false {
	return spawnSync('npm', ['--version']).status === 0 ? false : 'needs npm on PATH';
}

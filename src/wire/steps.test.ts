import assert from 'node:assert/strict';
import { test } from 'node:test';
import { configFor, parseConfigFile } from './config-file.ts';
import { planSteps, stepParts } from './steps.ts';

const plan = (members: object) => {
	const config = configFor(parseConfigFile(JSON.stringify({ app: 'a', entry: 'a.ts', ...members }), 'jibe.json'));
	return planSteps(config);
};

test('a command is a step that sees everything; a build keeps what it wrote, a test nothing', () => {
	assert.deepEqual(plan({}), []);
	const [build, test] = plan({ build: 'make', test: 'make check' });
	const bare = {
		inputs: null,
		env: {},
		secrets: [],
		network: false,
		timeoutMs: 30 * 60_000,
		commitTime: false,
		strip: false,
	};
	assert.deepEqual(build, { name: 'build', kind: 'build', run: 'make', outputs: null, needs: [], ...bare });
	assert.deepEqual(test, { name: 'test', kind: 'test', run: 'make check', outputs: [], needs: ['build'], ...bare });
});

test('tests come after all of build, and after what they name; gates are of their own kind', () => {
	const steps = plan({
		build: { b: { run: 'x', needs: ['a'], timeout: '90s', outputs: ['out/**'] }, a: { run: 'y' } },
		test: { unit: { run: 'z' }, whole: { run: 'w', needs: ['unit', 'a'] }, types: { run: 'tsc', gate: 'promotion' } },
	});
	assert.deepEqual(
		steps.map(({ name, kind, needs, timeoutMs }) => [name, kind, needs.join(' '), timeoutMs]),
		[
			['b', 'build', 'a', 90_000],
			['a', 'build', '', 600_000],
			['unit', 'test', 'b a', 600_000],
			['whole', 'test', 'b a unit', 600_000],
			['types', 'gate', 'b a', 600_000],
		],
	);
	assert.deepEqual(steps[0]!.outputs, ['out/**']);
});

test('"types" is a step that holds back promotion', () => {
	const [types] = plan({ types: true });
	assert.deepEqual([types?.name, types?.kind, types?.run], ['types', 'gate', 'tsc --noEmit']);
});

test('what a step depends on has no part that nobody knows', () => {
	const parts = {
		format: 1, run: 'x', env: {}, secrets: [], network: false, outputs: null, strip: false, directory: '', epoch: 0, platform: 'linux-x64-glibc',
		toolchain: 't', sandbox: 'isolated', dependencies: null, needs: {}, inputs: `sha256:${'0'.repeat(64)}`,
	}; // prettier-ignore
	assert.deepEqual(stepParts.parse(parts), parts);
	assert.equal(stepParts.safeParse({ ...parts, value: 'hidden' }).success, false);
	assert.equal(stepParts.safeParse({ ...parts, inputs: 'sha256:1' }).success, false);
});

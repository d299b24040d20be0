import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EXIT } from './failure.ts';
import { openStage } from './fixture.ts';

const [A, B] = [`sha256:${'a'.repeat(64)}`, `sha256:${'b'.repeat(64)}`];
const RUN = { deployment: 'dpl_0000000b', at: 1, cached: false, key: B };
const BEFORE = { deployment: 'dpl_0000000a', at: 1, key: A };
const PATH = '/api/v1/apps/notes/steps/css/why';

test('why names the part of the key that changed', async (t) => {
	const stage = await openStage(t);
	stage.answers[`GET ${PATH}`] = {
		step: 'css',
		run: RUN,
		before: BEFORE,
		changes: [
			{ part: 'inputs', name: 'src/a.css', before: A, now: B },
			{ part: 'inputs', name: 'src/b.css', before: null, now: B },
			{ part: 'needs', name: 'icons', before: A, now: B },
			{ part: 'env', name: 'MODE', before: 'fast', now: 'slow\nand sure' },
			{ part: 'env', name: 'OLD', before: '1', now: null },
			{ part: 'toolchain', name: null, before: A, now: B },
		],
		more: 3,
	};
	const { exit, out, json } = await stage.jibe('why', 'css', 'notes', '--env', 'staging');
	assert.equal(exit, EXIT.done);
	assert.deepEqual(json, {});
	assert.equal(stage.asked.at(-1)!.what, `GET ${PATH}?environment=staging`);
	assert.deepEqual(
		out
			.trimEnd()
			.split('\n')
			.slice(2)
			.map((line) => line.trim()),
		[
			'src/a.css changed',
			'src/b.css is new',
			'what icons made is different',
			'the variable MODE: fast → slow and sure',
			'the variable OLD: was 1, now unset',
			"the tools of the builder's machine",
			'and 3 more',
		],
	);
	assert.match(out, /^css ran in dpl_0000000b, .* ago\ndifferent since dpl_0000000a, .* ago:\n/);
});

test('why of one build, of a first run, and where nothing changed', async (t) => {
	const stage = await openStage(t);
	stage.answers[`GET ${PATH}`] = { step: 'css', run: RUN, before: null, changes: [], more: 0 };
	assert.match((await stage.jibe('why', 'css', 'notes')).out, /it never ran here before/);
	stage.answers[`GET ${PATH}`] = { step: 'css', run: { ...RUN, cached: true }, before: BEFORE, changes: [], more: 0 };
	assert.match(
		(await stage.jibe('why', 'css', 'notes')).out,
		/came from the cache[^]*nothing it depends on is different since dpl_0000000a, .* ago\n$/,
	);
	const unknown = await stage.jibe('why', 'js', 'notes');
	assert.equal(unknown.exit, EXIT.usage);
	assert.equal((await stage.jibe('why')).exit, EXIT.usage);
	stage.answers['GET /api/v1/builds/dpl_0000000b'] = { build: { app: 'notes', environment: 'staging' } };
	await stage.jibe('why', 'css', 'dpl_0000000b');
	assert.equal(stage.asked.at(-1)!.what.split('?')[1], 'environment=staging&deployment=dpl_0000000b');
});

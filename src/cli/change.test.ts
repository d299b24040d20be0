import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ReleaseAnswer } from '#wire/api.ts';
import { appConfig } from '#wire/config.ts';
import { changeFrom, inWords, isNothing } from './change.ts';

const digest = (digit: string): `sha256:${string}` => `sha256:${digit.repeat(64)}`;
const config = appConfig.parse({ app: 'notes', entry: 'src/server.ts' });
const release: ReleaseAnswer = {
	release: 41,
	environment: 'production',
	artifact: digest('a'),
	vendor: null,
	config,
	commit: null,
	files: {
		'index.json': [digest('1'), 10, false],
		'modules/src/a.ts': [digest('2'), 10, false],
		'maps/src/a.ts.map': [digest('3'), 10, false],
		'files/page.html': [digest('4'), 10, false],
	},
};
const built = (files: Record<string, string>) => ({
	manifest: new Map(Object.entries(files).map(([path, digit]) => [path, [digest(digit), 10, false] as const])),
	vendor: null,
});

test('the app is compared with what serves by its own files', () => {
	const change = changeFrom(
		release,
		built({ 'index.json': '9', 'modules/src/a.ts': '8', 'maps/src/a.ts.map': '7', 'modules/src/b.ts': '6' }),
		{
			...config,
			instances: 2,
		},
	);
	assert.deepEqual(change, { changed: ['src/a.ts'], added: ['src/b.ts'], gone: ['page.html'], dependencies: false, config: ['instances'] });
	assert.deepEqual(inWords(change), [
		'  1 file changed, 1 added, 1 gone',
		'    src/a.ts',
		'    src/b.ts (new)',
		'    page.html (gone)',
		'  jibe.json differs in instances',
	]);
	assert.equal(isNothing(change), false);
});

test('the same files and configuration are no change; a release whose files are gone can not be compared', () => {
	const same = changeFrom(
		release,
		built({ 'index.json': '1', 'modules/src/a.ts': '2', 'maps/src/a.ts.map': '3', 'files/page.html': '4' }),
		config,
	);
	assert.ok(same);
	assert.equal(isNothing(same), true);
	assert.equal(changeFrom({ ...release, files: null }, built({}), config), null);
	assert.equal(changeFrom(null, built({}), config), null);
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { findInstalls, installKey } from './managers.ts';
import { directoryOf, lay } from './testbed.ts';

test('of each kind the nearest lockfile at the app or above it is installed', (t) => {
	const source = directoryOf(t, {
		'package-lock.json': '{}',
		'go.sum': '',
		'apps/web/pnpm-lock.yaml': '',
		'apps/web/package.json': '{}',
		'apps/api/requirements.txt': '',
		'apps/api/Cargo.lock': '',
	});
	const found = (directory: string) => findInstalls(source, directory).map(({ manager, at }) => `${manager} at ${at || 'the top'}`);
	assert.deepEqual(found(''), ['npm at the top', 'go at the top']);
	assert.deepEqual(found('apps/web'), ['pnpm at apps/web', 'go at the top']);
	assert.deepEqual(found('apps/api'), ['cargo at apps/api', 'pip at apps/api', 'npm at the top', 'go at the top']);
});

test('what is installed depends on lockfile, manifests, settings, patches and tools, and on nothing else', (t) => {
	const source = directoryOf(t, { 'package.json': '{}', 'package-lock.json': '{}', 'lib/package.json': '{}', 'src/a.ts': '' });
	const key = (toolchain = 'npm 11') => installKey(findInstalls(source, '')[0]!, source, toolchain);
	const before = key();
	lay(source, { 'src/a.ts': 'changed', 'src/b.ts': 'new', 'node_modules/x/package.json': '{}' });
	assert.equal(key(), before);
	const seen = new Set([before, key('npm 12')]);
	for (const [path, text] of [
		['package-lock.json', '{ }'],
		['lib/package.json', '{ }'],
		['.npmrc', 'a=b'],
		['patches/x.patch', '-'],
	] as const) {
		lay(source, { [path]: text });
		seen.add(key());
	}
	assert.equal(seen.size, 6);
});

test('scripts of the source itself make all of the source decide', (t) => {
	const source = directoryOf(t, { 'package.json': '{}', 'package-lock.json': '{}', 'lib/package.json': '{"scripts":{"test":"x"}}' });
	assert.equal(findInstalls(source, '')[0]?.scripted, false);
	lay(source, { 'lib/package.json': '{"scripts":{"postinstall":"patch-package"}}' });
	assert.equal(findInstalls(source, '')[0]?.scripted, true);
});

import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { sha256 } from '#digest/digest.ts';
import type { Input } from '#build/steps/key.ts';
import { matcher, readSource, select } from './source.ts';

test('files are known by what is in them, also where time and size say that nothing changed', () => {
	const root = mkdtempSync(join(tmpdir(), 'jibe-source-'));
	const checkout = join(root, 'checkouts', 'one');
	try {
		for (const folder of ['src', 'node_modules/x', '.git']) mkdirSync(join(checkout, folder), { recursive: true });
		for (const path of ['src/a', 'src/b', 'node_modules/x/y', '.git/z']) writeFileSync(join(checkout, path), 'one');
		symlinkSync('src/a', join(checkout, 'link'));
		chmodSync(join(checkout, 'src/b'), 0o755);
		const read = () => Object.fromEntries(readSource(checkout).files.map(({ path, is }) => [path, is]));
		const one = sha256('one');
		assert.deepEqual(read(), { 'src/a': one, 'src/b': `${one} x`, link: '-> "src/a"' });
		const long = new Date('2020-01-01');
		utimesSync(join(checkout, 'src/a'), long, long);
		read();
		const { mtime } = statSync(join(checkout, 'src/a'));
		writeFileSync(join(checkout, 'src/a'), 'two');
		utimesSync(join(checkout, 'src/a'), mtime, mtime);
		assert.equal(read()['src/a'], sha256('two'));
		writeFileSync(join(root, 'digests', 'one'), '{"src/a":');
		writeFileSync(join(root, 'digests', 'gone'), '{}');
		assert.equal(read()['src/a'], sha256('two'), 'what is remembered was cut short');
		assert.throws(() => statSync(join(root, 'digests', 'gone')), 'its checkout is gone');
	} finally {
		rmSync(root, { recursive: true });
	}
});

test('a step sees what it names, and package.json', () => {
	const files = [
		'package.json',
		'src/a.ts',
		'src/deep/b.ts',
		'README.md',
		'apps/x/package.json',
		'apps/x/c.ts',
		'shared/d.ts',
		'pnpm-lock.yaml',
	];
	const inputs = files.map((path): Input => ({ path, is: '' }));
	const seen = (of: { inputs?: string[]; directory?: string; watch?: string[] }) =>
		select(inputs, { inputs: null, directory: '', watch: [], ...of }).map(({ path }) => path);
	assert.deepEqual(seen({}), files);
	assert.deepEqual(seen({ inputs: ['src/**'] }), ['package.json', 'src/a.ts', 'src/deep/b.ts']);
	assert.deepEqual(seen({ inputs: ['./src', '!src/deep'] }), ['package.json', 'src/a.ts', 'src/deep/b.ts'].slice(0, 2));
	assert.deepEqual(seen({ inputs: ['*.ts'] }), ['package.json'], 'a glob is taken from the root');
	assert.deepEqual(seen({ directory: 'apps/x' }), ['package.json', 'apps/x/package.json', 'apps/x/c.ts', 'pnpm-lock.yaml']);
	assert.deepEqual(seen({ directory: 'apps/x', inputs: ['c.ts'], watch: ['shared/**'] }), [
		'package.json',
		'apps/x/package.json',
		'apps/x/c.ts',
		'shared/d.ts',
		'pnpm-lock.yaml',
	]);
});

test('globs that take away win, wherever they stand', () => {
	const matches = matcher(['!a/secret', 'a/**', 'b.txt']);
	assert.deepEqual(['a/x', 'a/secret', 'a/secret/y', 'b.txt', 'c/b.txt'].filter(matches), ['a/x', 'b.txt']);
});

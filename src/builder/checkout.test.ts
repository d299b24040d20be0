import assert from 'node:assert/strict';
import { existsSync, lstatSync, readFileSync, readlinkSync, statSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { checkOut, confine } from './checkout.ts';
import { directoryOf, lay, tarOf } from './testbed.ts';

test('what is the same stays as it is, what changed is written, what is gone is removed', async (t) => {
	const directory = join(directoryOf(t), 'source');
	await checkOut(tarOf({ 'same.txt': 'same', 'changed.txt': 'one', 'gone/deep.txt': 'x', 'run.sh': '#!/bin/sh\n' }), directory);
	const before = statSync(join(directory, 'same.txt'), { bigint: true });
	lay(directory, { 'dist/made-by-a-build.js': 'x', 'node_modules/a/index.js': 'x' });
	const { files, bytes, warnings } = await checkOut(
		tarOf({ 'same.txt': 'same', 'changed.txt': 'two', 'new/a.txt': '', 'run.sh': { run: '#!/bin/sh\n' } }),
		directory,
	);
	assert.deepEqual({ files, bytes, warnings }, { files: 4, bytes: 17, warnings: [] });
	const after = statSync(join(directory, 'same.txt'), { bigint: true });
	assert.deepEqual([after.ino, after.ctimeNs], [before.ino, before.ctimeNs]);
	assert.equal(readFileSync(join(directory, 'changed.txt'), 'utf8'), 'two');
	assert.equal(statSync(join(directory, 'run.sh')).mode & 0o777, 0o755);
	for (const path of ['gone', 'dist', 'node_modules']) assert(!existsSync(join(directory, path)), path);
});

test('a file takes the place of a folder, and a folder that of a link; nothing is written through a link', async (t) => {
	const outside = directoryOf(t, { 'victim.txt': 'untouched' });
	const directory = join(directoryOf(t), 'source');
	await checkOut(tarOf({ 'a/b.txt': 'x', c: 'file' }), directory);
	await checkOut(tarOf({ a: 'now a file', 'c/d.txt': 'now a folder' }), directory);
	assert.equal(readFileSync(join(directory, 'c/d.txt'), 'utf8'), 'now a folder');
	symlinkSync(outside, join(directory, 'through'));
	await checkOut(tarOf({ 'through/victim.txt': 'evil', a: 'x' }), directory);
	assert.equal(readFileSync(join(outside, 'victim.txt'), 'utf8'), 'untouched');
	assert(lstatSync(join(directory, 'through')).isDirectory());
});

const DEEP = 'd/'.repeat(20);

test('links within the source stay; those that lead out of it are left out, whatever way they take', async (t) => {
	const directory = join(directoryOf(t), 'source');
	const { warnings } = await checkOut(
		tarOf({
			'docs/readme.md': 'hello',
			inside: { to: 'docs/readme.md' },
			later: { to: 'dist/made-later.js' },
			absolute: { to: '/etc/passwd' },
			up: { to: '../../outside' },
			// Each is harmless by itself; one after the other they lead to the top of the machine.
			[`${DEEP}top`]: { to: '../'.repeat(20) },
			winding: { to: `${DEEP}top/${'../'.repeat(20)}etc/passwd` },
		}),
		directory,
	);
	assert.equal(readlinkSync(join(directory, 'inside')), 'docs/readme.md');
	assert(lstatSync(join(directory, 'later')).isSymbolicLink());
	for (const path of ['absolute', 'up', 'winding']) {
		assert(!lstatSync(join(directory, path), { throwIfNoEntry: false }), path);
		assert(
			warnings.some((line) => line.startsWith(`${path} is a link that leads out`)),
			path,
		);
	}
	assert.deepEqual(confine(directory), []);
});

test("the archive's own .git is left out, and an empty one above marks the top", async (t) => {
	const directory = join(directoryOf(t), 'source');
	await checkOut(tarOf({ '.git/config': '[core]\n\tfsmonitor = evil\n', 'sub/.git': 'gitdir: /elsewhere', 'a.txt': '' }), directory);
	assert(statSync(join(directory, '../.git')).isDirectory());
	assert(!existsSync(join(directory, '.git')));
	assert(!existsSync(join(directory, 'sub')));
});

test('submodules and files of Git LFS, which are not fetched, are named where they are missing', async (t) => {
	const directory = join(directoryOf(t), 'source');
	const modules = '[submodule "there"]\n\tpath = lib/there\n[submodule "gone"]\n\tpath = lib/gone\n\turl = ../gone.git\n';
	const pointer = `version https://git-lfs.github.com/spec/v1\noid sha256:${'0'.repeat(64)}\nsize 12345\n`;
	const tree = { '.gitmodules': modules, 'lib/there/a.txt': 'laptops send them', 'logo.png': pointer, 'film.mp4': pointer };
	const { warnings } = await checkOut(tarOf(tree), directory);
	assert.deepEqual(warnings, ['submodules are not fetched: lib/gone', 'files of Git LFS are not fetched: logo.png and 1 more']);
});

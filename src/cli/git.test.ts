import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { temporary } from './fixture.ts';
import { gitFacts, isAncestor, missingCommits } from './git.ts';

test('what git knows of a directory: commit, branch, changes, and who came before', async (t) => {
	const directory = temporary(t, 'jibe-git-');
	assert.equal(await gitFacts(directory), null, 'no repository');
	const git = (...args: string[]) =>
		execFileSync('git', ['-C', directory, '-c', 'user.name=A Person', '-c', 'user.email=a@b.c', ...args], { encoding: 'utf8' }).trim();
	git('init', '-q', '-b', 'main');
	assert.equal(await gitFacts(directory), null, 'no commit yet');
	const commit = (name: string) => {
		writeFileSync(join(directory, name), name);
		git('add', '.');
		git('commit', '-q', '-m', `add ${name}`);
		return git('rev-parse', 'HEAD');
	};
	const first = commit('a');
	const second = commit('b');
	assert.deepEqual(await gitFacts(directory), { commit: second, branch: 'main', dirty: false, ancestors: [second, first] });
	mkdirSync(join(directory, 'sub'));
	writeFileSync(join(directory, 'sub', 'c'), 'c');
	assert.equal((await gitFacts(join(directory, 'sub')))?.dirty, true);

	git('checkout', '-q', '--detach', first);
	assert.equal((await gitFacts(directory))?.branch, null);
	assert.equal(await isAncestor(directory, first), true);
	assert.equal(await isAncestor(directory, second), false);
	assert.equal(await isAncestor(directory, 'f'.repeat(40)), null, 'a commit that is not here');
	assert.equal(await isAncestor(directory, '--help'), null);
	assert.deepEqual(await missingCommits(directory, second), [`${second.slice(0, 7)} A Person: add b`]);
});

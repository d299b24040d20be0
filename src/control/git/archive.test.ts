import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';
import { zstdDecompressSync } from 'node:zlib';
import { archive } from './archive.ts';
import { git } from './git.ts';
import { Repositories } from './repositories.ts';

const skip = spawnSync('git', ['--version']).status === 0 ? false : 'no git';
const WHO = { GIT_AUTHOR_NAME: 'A', GIT_AUTHOR_EMAIL: 'a@b', GIT_COMMITTER_NAME: 'A', GIT_COMMITTER_EMAIL: 'a@b' };

test("a commit's files as builders get them, also of none; what is no commit is gone before anything is sent", { skip }, async (t) => {
	const data = mkdtempSync(join(tmpdir(), 'jibe-archive-'));
	t.after(() => rmSync(data, { recursive: true, force: true }));
	const repositories = new Repositories(data);
	const directory = await repositories.make('notes');
	const of = (commit: string, repository = 'notes') =>
		archive({ git: repositories, store: undefined as never }, { kind: 'git', repository, commit });
	const commitOf = async (tree: string) => (await git(['commit-tree', tree, '-m', 'x'], { directory, env: WHO })).trim();

	const blob = (await git(['hash-object', '-w', '--stdin'], { directory, input: 'a word' })).trim();
	const tree = (await git(['mktree'], { directory, input: `100644 blob ${blob}\tword.txt\n` })).trim();
	const empty = (await git(['mktree'], { directory })).trim();
	assert.match(zstdDecompressSync(await buffer(await of(await commitOf(tree)))).toString(), /word\.txt[^]*a word/);
	assert.ok(zstdDecompressSync(await buffer(await of(await commitOf(empty)))).length > 0);
	for (const nothing of ['1'.repeat(40), blob, tree]) await assert.rejects(of(nothing), { code: 'source_gone', status: 404 });
	await assert.rejects(of('1'.repeat(40), 'others'), { code: 'source_gone' });
});

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { systemClock as clock } from '#clock/clock.ts';
import type { RepositoryRow } from '#state/repositories.ts';
import { branchRules } from '#wire/repositories.ts';
import { testLog as log } from '../../../test/fixtures/database.ts';
import { noGit, startGitServer, type WorkingCopy } from '../../../test/fixtures/git-server.ts';
import { git } from '../git/git.ts';
import { Repositories } from '../git/repositories.ts';
import { Outbound } from '../outbound/outbound.ts';
import { FETCH_LIMITS, Mirrors, type FetchLimits } from './mirror.ts';

const MAIN = 'refs/heads/main';

function rowOf(url: string): RepositoryRow {
	const apps = [{ app: 'notes', directory: '' }];
	return { name: 'notes', forge: 'gitea', url, api: null, apps, rules: branchRules.parse({}), version: 1, createdAt: 0, changedAt: 0, by: 'test' }; // prettier-ignore
}

async function setUp(t: TestContext, of: { allowed?: string[]; limits?: Partial<FetchLimits> } = {}) {
	const forge = await startGitServer(t);
	const data = mkdtempSync(join(tmpdir(), 'jibe-mirror-'));
	t.after(() => rmSync(data, { recursive: true, force: true, maxRetries: 5 }));
	const { allowed = ['127.0.0.1'], limits = {} } = of;
	const outbound = new Outbound({ allowed: async () => allowed, own: () => [], clock });
	const repositories = new Repositories(data);
	const mirrors = new Mirrors({ git: repositories, outbound, log }, { ...FETCH_LIMITS, ...limits });
	const copy = forge.repository('team/notes.git');
	const row = rowOf(`${forge.url}/team/notes.git`);
	return { forge, data, mirrors, repositories, copy, row, directory: repositories.directory('notes') };
}

const filesOf = async (directory: string, commit: string) => {
	const names = (await git(['ls-tree', '-r', '--name-only', commit], { directory })).trim().split('\n');
	return Object.fromEntries(await Promise.all(names.map(async (name) => [name, await git(['show', `${commit}:${name}`], { directory })])));
};

test(
	'a branch is brought whole at its newest commit, without the old contents of files; then it moves, and goes',
	{ skip: noGit },
	async (t) => {
		const { mirrors, repositories, copy, row, directory } = await setUp(t);
		copy.push({ 'a.txt': 'old', 'b/c.txt': 'c' });
		const old = copy.git('rev-parse', 'HEAD:a.txt');
		const second = copy.push({ 'a.txt': 'new' });
		assert.deepEqual(await mirrors.bring(row, {}, MAIN, MAIN), { before: null, after: second });
		assert.deepEqual(await filesOf(directory, second), { 'a.txt': 'new', 'b/c.txt': 'c' });
		const there = await git(['cat-file', '--batch-all-objects', '--batch-check'], { directory });
		assert.doesNotMatch(there, new RegExp(old));
		assert.equal(await mirrors.has('notes', second), true);

		// Each fetch leaves packs.
		await repositories.tidy('notes', { partial: true, maxPacks: 1 });
		assert.ok(readdirSync(join(directory, 'objects', 'pack')).filter((file) => file.endsWith('.pack')).length <= 2);
		assert.equal(await mirrors.has('notes', second), true);

		const third = copy.push({ 'd.txt': 'd' });
		assert.equal(await mirrors.has('notes', third), false);
		assert.deepEqual(await mirrors.bring(row, {}, MAIN, MAIN), { before: second, after: third });
		assert.deepEqual(Object.keys(await filesOf(directory, third)), ['a.txt', 'b/c.txt', 'd.txt']);
		// History was rewritten.
		copy.git('reset', '-q', '--hard', second);
		const forced = copy.push({ 'e.txt': 'e' }, { force: true });
		assert.deepEqual(await mirrors.bring(row, {}, MAIN, MAIN), { before: third, after: forced });
		assert.deepEqual(await mirrors.bring(row, {}, MAIN, MAIN), { before: forced, after: forced });

		assert.deepEqual(await mirrors.bring(row, {}, 'refs/heads/gone', 'refs/heads/gone'), { before: null, after: null });
		await git(['update-ref', 'refs/heads/gone', forced], { directory });
		assert.deepEqual(await mirrors.bring(row, {}, 'refs/heads/gone', 'refs/heads/gone'), { before: forced, after: null });
		assert.equal((await git(['for-each-ref', 'refs/heads/gone'], { directory })).trim(), '');
	},
);

test('a server that can leave nothing out sends all, and one commit can be asked for', { skip: noGit }, async (t) => {
	const { forge, mirrors, copy, row, directory } = await setUp(t);
	const first = copy.push({ 'a.txt': 'one' });
	const second = copy.push({ 'a.txt': 'two' });
	await git(['config', 'uploadpack.allowFilter', 'false'], { directory: join(forge.root, 'team/notes.git') });
	assert.deepEqual(await mirrors.bring(row, {}, MAIN, MAIN), { before: null, after: second });
	assert.deepEqual(await mirrors.bring(row, {}, first, 'refs/jibe/asked'), { before: null, after: first });
	assert.deepEqual(await filesOf(directory, first), { 'a.txt': 'one' });
});

test('the token is shown to the forge, and kept nowhere', { skip: noGit }, async (t) => {
	const { forge, data, mirrors, copy, row } = await setUp(t);
	const commit = copy.push({ 'a.txt': 'a' });
	forge.wants = `Basic ${Buffer.from('x-access-token:t0ken-of-ann').toString('base64')}`;
	await assert.rejects(mirrors.bring(row, {}, MAIN, MAIN), { code: 'clone_unauthorised', again: false, message: /127\.0\.0\.1 \(team\/notes\) does not let Jibe read it/ }); // prettier-ignore
	assert.equal((await mirrors.bring(row, { token: 't0ken-of-ann' }, MAIN, MAIN)).after, commit);
	forge.wants = `Basic ${Buffer.from('ann:t0ken-of-ann').toString('base64')}`;
	assert.equal((await mirrors.bring(row, { token: 'x', clone: 'ann:t0ken-of-ann' }, MAIN, MAIN)).after, commit);
	for (const file of readdirSync(data, { recursive: true, withFileTypes: true })) {
		if (!file.isFile()) continue;
		const text = readFileSync(join(file.parentPath, file.name), 'latin1');
		assert.doesNotMatch(text, /t0ken|Authorization/, file.name);
	}
});

test('git connects to the address that was judged, whatever the name says by then', { skip: noGit }, async (t) => {
	const { forge, data, copy, row } = await setUp(t);
	const commit = copy.push({ 'a.txt': 'a' });
	let asked = 0;
	// Nobody else knows this name: git would find nothing there by itself.
	const resolve = async () => (asked++ === 0 ? [{ address: '127.0.0.1' }] : [{ address: '169.254.169.254' }]);
	const outbound = new Outbound({ allowed: async () => ['127.0.0.1'], own: () => [], clock, resolve });
	const mirrors = new Mirrors({ git: new Repositories(data), outbound, log });
	const named = { ...row, url: `http://forge.test:${forge.port}/team/notes.git` };
	assert.equal((await mirrors.bring(named, {}, MAIN, MAIN)).after, commit);
	assert.equal(asked, 1);
	await assert.rejects(mirrors.bring(named, {}, MAIN, MAIN), { code: 'address_refused' });
});

async function refused(of: { mirrors: Mirrors; row: RepositoryRow }, code: string, message = /./): Promise<void> {
	await assert.rejects(of.mirrors.bring(of.row, { token: 't0ken-of-ann' }, MAIN, MAIN), { code, message });
}

test('repositories that can’t be cloned: each says why', { skip: noGit }, async (t) => {
	const set = await setUp(t);
	const { forge, mirrors, copy, row } = set;
	copy.push({ 'a.txt': 'a' });
	await refused({ mirrors, row: { ...row, url: `${forge.url}/team/nothing.git` } }, 'repository_not_found');
	await refused({ mirrors, row: { ...row, url: 'http://127.0.0.1:1/x.git' } }, 'clone_unreachable');
	forge.instead = (_request, response) => response.writeHead(302, { location: 'http://169.254.169.254/' }).end();
	await refused(set, 'repository_not_found', /somewhere else/);
	forge.instead = (_request, response) => response.writeHead(500).end('\u001b[31moops');
	await refused(set, 'clone_unreachable');
	forge.instead = (_request, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<h1>Sign in</h1>');
	await refused(set, 'repository_not_found');
	forge.instead = (request) => request.socket.destroy();
	await refused(set, 'clone_unreachable');
	assert.ok(forge.asked.every(({ path }) => path.startsWith('/team/')));
});

test('private addresses, and files shown to everybody on the way, are refused before anything is sent', { skip: noGit }, async (t) => {
	const set = await setUp(t, { allowed: [] });
	await refused(set, 'address_refused', /jibe outbound allow 127\.0\.0\.1/);
	await refused({ mirrors: set.mirrors, row: { ...set.row, url: 'git@127.0.0.1:team/notes.git' } }, 'address_refused');
	await refused({ mirrors: set.mirrors, row: { ...set.row, url: 'http://140.82.121.3/team/notes.git' } }, 'insecure_url');
	assert.deepEqual(set.forge.asked, []);
});

test('too large, too slow, or not what git trusts: given up, and nothing is left of it', { skip: noGit }, async (t) => {
	const noise = Array.from({ length: 4_000 }, (_, i) => ((i * 7919) % 65_521).toString(36) + Math.sin(i)).join('');
	const { forge, mirrors, copy, row, directory } = await setUp(t, { limits: { maxPackBytes: 8_192 } });
	copy.push({ 'big.txt': noise });
	await refused({ mirrors, row }, 'repository_too_large');

	const slow = await setUp(t, { limits: { limitMs: 300 } });
	slow.copy.push({ 'a.txt': 'a' });
	slow.forge.instead = () => {};
	await refused(slow, 'clone_too_slow');

	const bad = await setUp(t);
	bad.copy.push({ 'a.txt': 'a' });
	pushDangerous(bad.copy);
	await refused(bad, 'repository_damaged');

	const grown = await setUp(t, { limits: { maxMirrorBytes: 16 * 1024 } });
	grown.copy.push({ 'big.txt': noise });
	await refused(grown, 'repository_too_large', /fetched anew/);
	assert.deepEqual(readdirSync(join(grown.data, 'git')), []);
	assert.deepEqual(readdirSync(join(directory, 'objects', 'pack')).filter((file) => file.startsWith('tmp_')), []); // prettier-ignore
	assert.ok(forge.asked.length > 0);
});

/** A tree with a file `.git/config`, which a checkout would write. */
function pushDangerous({ git: run, directory: cwd }: WorkingCopy): void {
	const mktree = (input: string) => execFileSync('git', ['mktree'], { cwd, input }).toString().trim();
	const inner = mktree(`100644 blob ${run('rev-parse', 'HEAD:a.txt')}\tconfig\n`);
	const commit = run('commit-tree', '-m', 'bad', '-p', 'HEAD', mktree(`040000 tree ${inner}\t.git\n`));
	run('push', '-q', 'origin', `${commit}:main`);
}

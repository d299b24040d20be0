import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { issueCredential } from '#wire/credential.ts';
import { startControl } from '../../../test/fixtures/control.ts';
import { startCluster, type TestCluster } from '../../../test/fixtures/database.ts';
import { noGit } from '../../../test/fixtures/git-server.ts';
import { eventually } from '../../../test/fixtures/jibe.ts';
import { startReplicas, type Replica } from '../../../test/fixtures/replicas.ts';
import { Kept } from './kept.ts';

/** What was pushed is on no control's disk alone. */

const NOWHERE = { production: null, hotfix: null, others: 'ignore' };

let cluster: TestCluster;
before(async () => (cluster = await startCluster()));
after(() => cluster.stop());

interface Said {
	code: number;
	output: string;
}

class Copy {
	readonly dir = mkdtempSync(join(tmpdir(), 'jibe-kept-'));

	constructor(t: TestContext) {
		t.after(() => rmSync(this.dir, { recursive: true, force: true }));
	}

	async git(...words: string[]): Promise<Said> {
		const who = { NAME: 'Ann', EMAIL: 'ann@example.com' };
		const names = Object.entries(who).flatMap(([key, value]) => [[`GIT_AUTHOR_${key}`, value], [`GIT_COMMITTER_${key}`, value]]); // prettier-ignore
		const env = { PATH: process.env['PATH'], HOME: this.dir, GIT_TERMINAL_PROMPT: '0', GIT_CONFIG_GLOBAL: '/dev/null', ...Object.fromEntries(names) }; // prettier-ignore
		try {
			const { stdout, stderr } = await promisify(execFile)('git', words, { cwd: this.dir, env });
			return { code: 0, output: `${stdout}${stderr}`.trim() };
		} catch (error) {
			const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
			return { code, output: `${stdout}${stderr}` };
		}
	}

	async commit(message: string): Promise<string> {
		await this.git('commit', '-q', '--allow-empty', '-m', message);
		return (await this.git('rev-parse', 'HEAD')).output;
	}

	/** With the token as git sends it. */
	at({ url, admin }: { url: string; admin: string }, ...words: string[]): Promise<Said> {
		const basic = Buffer.from(`x:${admin}`).toString('base64');
		const remote = ['-c', `http.extraHeader=Authorization: Basic ${basic}`, '-c', `remote.jibe.url=${url}/git/notes.git`];
		return this.git(...remote, ...words);
	}
}

/** Where `main` is there, as one who clones it sees. */
async function mainAt(copy: Copy, control: { url: string; admin: string }): Promise<string> {
	return (await copy.at(control, 'ls-remote', 'jibe', 'refs/heads/main')).output.split('\t')[0]!;
}

test('pushed to one control that is killed: another has it, builds it, and takes what comes next', { skip: noGit }, async (t) => {
	const store = mkdtempSync(join(tmpdir(), 'jibe-store-'));
	t.after(() => rmSync(store, { recursive: true, force: true }));
	const { all, state } = await startReplicas(t, await cluster.database(), { store: `file://${store}` });
	const [a, b] = all as [Replica, Replica];
	const copy = new Copy(t);
	await copy.git('init', '-q', '-b', 'main');
	const first = await copy.commit('first');
	const pushing = copy.at(a, 'push', 'jibe', 'main');
	const build = await eventually(async () => (await state.builds.list({ which: 'open', limit: 1 }))[0] ?? null, 'a build');
	a.signal('SIGKILL');
	assert.notEqual((await pushing).code, 0);

	const { id: installation, privatePem } = await state.installation();
	const credential = issueCredential({ installation, role: 'builder', server: 'local', regions: [], expires: 4_000_000_000 }, privatePem);
	const headers = { authorization: `Bearer ${credential}`, 'content-type': 'application/json' };
	const claim = { method: 'POST', headers, body: JSON.stringify({ worker: 'w', platform: 'linux-x64-glibc' }) };
	const { job } = (await (await fetch(`${b.url}/api/v1/builds/claim`, claim)).json()) as { job: { id: string; attempt: number } };
	assert.equal(job.id, build.id);
	const source = await fetch(`${b.url}/api/v1/builds/${job.id}/source?worker=w&attempt=${job.attempt}`, { headers });
	assert.deepEqual([source.status, (await source.arrayBuffer()).byteLength > 20], [200, true]);
	assert.equal(await mainAt(copy, b), first);

	assert.equal((await b.ask('PUT', '/api/v1/repositories/notes', { json: { forge: 'push', rules: { ...NOWHERE, forks: 'ask' } } })).status, 200); // prettier-ignore
	const second = await copy.commit('second');
	const at = await copy.at(b, 'push', 'jibe', 'main');
	assert.equal(at.code, 0, at.output);
	await a.startAgain();
	assert.equal(await mainAt(copy, a), second);
	const other = new Copy(t);
	await other.git('init', '-q', '-b', 'main');
	assert.equal((await other.at(a, 'pull', '-q', 'jibe', 'main')).code, 0);

	// Both at once, each to the other's: one is first.
	await Promise.all([copy.commit('mine'), other.commit('theirs')]);
	const both = await Promise.all([copy.at(a, 'push', 'jibe', 'main'), other.at(b, 'push', 'jibe', 'main')]);
	assert.equal(both.filter(({ code }) => code === 0).length, 1, JSON.stringify(both));
	assert.match(both.find(({ code }) => code === 1)!.output, /rejected.*(fetch first|another push came first)/);
	const won = both[0].code === 0 ? copy : other;
	const head = (await won.git('rev-parse', 'HEAD')).output;
	assert.deepEqual([await mainAt(copy, a), await mainAt(copy, b)], [head, head]);
	const apart = await Promise.all([copy.at(a, 'push', 'jibe', 'HEAD:one'), other.at(b, 'push', 'jibe', 'HEAD:two')]);
	assert.deepEqual(apart.map(({ code }) => code), [0, 0], JSON.stringify(apart)); // prettier-ignore
	for (const one of [a, b]) assert.equal((await copy.at(one, 'ls-remote', 'jibe')).output.split('\n').length, 4);

	assert.equal((await a.ask('DELETE', '/api/v1/repositories/notes')).status, 204);
	assert.match((await copy.at(b, 'ls-remote', 'jibe')).output, /there is no repository notes|not found/);
	const anew = await copy.at(b, 'push', 'jibe', 'HEAD:refs/tags/v1');
	assert.equal(anew.code, 0, anew.output);
	assert.equal((await copy.at(a, 'ls-remote', 'jibe')).output.split('\n').length, 1);
});

test(
	'killed between keeping a push and moving its branches, and whatever else a disk lost, it is whole again',
	{ skip: noGit },
	async (t) => {
		const house = await startControl(t, cluster);
		const { kept, git } = house.control.house;
		const here = { url: house.control.url, admin: house.admin };
		await house.ask('PUT', '/api/v1/repositories/notes', { json: { forge: 'push', rules: { ...NOWHERE, forks: 'ask' } } });
		const copy = new Copy(t);
		await copy.git('init', '-q', '-b', 'main');
		const commits = [await copy.commit('one')];
		const push = async (...words: string[]) => {
			const { code, output } = await copy.at(here, 'push', 'jibe', ...words);
			assert.equal(code, 0, output);
		};
		await push('main');
		for (const message of ['two', 'three']) {
			commits.push(await copy.commit(message));
			await push('main');
		}
		const [one, two, three] = commits as [string, string, string];
		const back = [{ ref: 'refs/heads/main', from: three, to: two }, { ref: 'refs/heads/older', from: null, to: one }]; // prettier-ignore
		const known = await kept.refresh('notes');
		assert.notEqual(await kept.inTurn('notes', () => kept.keep('notes', known, back, 'test')), null);
		assert.equal(await kept.inTurn('notes', () => kept.keep('notes', known, back, 'test')), null, 'it was moved meanwhile');
		assert.deepEqual(await branches(copy, here), [two, one]);

		// Folders and branches of one name, one after the other.
		await push('--delete', 'older');
		await push('HEAD~1:refs/heads/older/still');
		rmSync(git.directory('notes'), { recursive: true });
		await house.restart();
		assert.deepEqual(await branches(copy, here), [two, two]);

		// Where the copy itself is damaged, it is made anew when something comes.
		const objects = join(git.directory('notes'), 'objects', 'pack');
		for (const file of readdirSync(objects)) rmSync(join(objects, file));
		const forward = [{ ref: 'refs/heads/main', from: two, to: three }];
		const now = await house.state.repositories.pushed.get('notes');
		assert.notEqual(await house.control.house.kept.keep('notes', now, forward, 'test'), null);
		assert.deepEqual(await branches(copy, here), [three, two]);
	},
);

test(
	'a shallow clone may push where the rest of the history is here; what git finds wrong is said in its place',
	{ skip: noGit },
	async (t) => {
		const house = await startControl(t, cluster);
		const here = { url: house.control.url, admin: house.admin };
		await house.ask('PUT', '/api/v1/repositories/notes', { json: { forge: 'push', rules: { ...NOWHERE, forks: 'ask' } } });
		const copy = new Copy(t);
		await copy.git('init', '-q', '-b', 'main');
		for (const message of ['one', 'two']) await copy.commit(message);
		const shallow = new Copy(t);
		assert.equal((await shallow.git('clone', '-q', '--depth', '1', `file://${copy.dir}`, '.')).code, 0);
		const refused = await shallow.at(here, 'push', 'jibe', 'main');
		assert.equal(refused.code, 1);
		assert.match(
			refused.output,
			/! \[remote rejected\] main -> main \(.*"git fetch --unshallow", and push again\)\n.*failed to push some refs[^\n]*\s*$/,
		);

		assert.equal((await copy.at(here, 'push', 'jibe', 'main')).code, 0);
		const three = await shallow.commit('three');
		const taken = await shallow.at(here, 'push', 'jibe', 'main');
		assert.equal(taken.code, 0, taken.output);
		assert.deepEqual(await branches(copy, here), [three]);
		assert.equal((await copy.at(here, 'pull', '-q', '--ff-only', 'jibe', 'main')).code, 0);

		const wrong = await copy.at(here, 'push', 'jibe', `${await damaged(copy)}:refs/heads/bad`);
		assert.equal(wrong.code, 1);
		assert.match(
			wrong.output,
			/remote: (error|fatal): .*missing[\s\S]*! \[remote rejected\] \w+ -> bad \(unpacker error\)\n.*failed to push some refs[^\n]*\s*$/,
		);
		assert.deepEqual(await branches(copy, here), [three]);
	},
);

/** A commit that names nobody. */
async function damaged(copy: Copy): Promise<string> {
	const tree = (await copy.git('rev-parse', 'HEAD^{tree}')).output;
	writeFileSync(join(copy.dir, 'bad'), `tree ${tree}\n\nnobody's\n`);
	return (await copy.git('hash-object', '-t', 'commit', '-w', '--literally', 'bad')).output;
}

test('many packs become one, which the store keeps, and only as long as there is the repository', { skip: noGit }, async (t) => {
	const house = await startControl(t, cluster);
	const { house: inside } = house.control;
	const here = { url: house.control.url, admin: house.admin };
	await house.ask('PUT', '/api/v1/repositories/notes', { json: { forge: 'push', rules: { ...NOWHERE, forks: 'ask' } } });
	const copy = new Copy(t);
	await copy.git('init', '-q', '-b', 'main');
	for (const message of ['one', 'two', 'three']) {
		await copy.commit(message);
		assert.equal((await copy.at(here, 'push', 'jibe', 'main')).code, 0);
	}
	const packs = async () => (await house.state.repositories.pushed.get('notes'))!.packs;
	assert.equal((await packs()).length, 3);
	await new Kept({ ...inside }, { maxPacks: 2, queuedWithinMs: 0 }).consolidate('notes');
	const [all, ...none] = await packs();
	assert.deepEqual(none, []);
	const { wanted } = await house.state.collect(0);
	assert.ok(all!.parts.length > 0 && all!.parts.every((part) => wanted.has(part)));
	await inside.kept.forget('notes');
	await copy.commit('four');
	assert.equal((await copy.at(here, 'push', 'jibe', 'main')).code, 0);
	assert.equal((await packs()).length, 2);
	assert.equal((await house.ask('DELETE', '/api/v1/repositories/notes')).status, 204);
	assert.equal((await house.state.collect(0)).wanted.size, 0);
});

async function branches(copy: Copy, here: { url: string; admin: string }): Promise<string[]> {
	const { output } = await copy.at(here, 'ls-remote', '--heads', 'jibe');
	return output.split('\n').map((line) => line.split('\t')[0]!);
}

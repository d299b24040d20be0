import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { whyNot } from '#builder/sandbox/testbed.ts';
import type { App } from './fixtures/app.ts';
import { builds, running, small } from './fixtures/builds.ts';
import { noGit } from './fixtures/git-server.ts';
import { eventually, startJibe, type Jibe } from './fixtures/jibe.ts';

const CHECK = 'grep -qv broken src/word.ts';

test('git push: what is sent is built, tested and live, or says why not', { skip: noGit || whyNot() }, async (t) => {
	await using jibe = await startJibe({ regions: 1, env: { JIBE_VERIFY_ONE_IN: '0' } });
	using app = small('pushed', { test: { check: { run: CHECK, inputs: ['src/word.ts'] } } });
	app.git('init', '-q');
	const push = (...words: string[]) => pushed(jibe, app, 'pushed', words);
	const serves = async (host = 'pushed') => (await jibe.request(0, `${host}.localhost`, '/')).body;
	const change = (word: string) => {
		app.write('src/word.ts', `export const word: string = '${word}';\n`);
		return app.commit(word);
	};

	await t.test('the first push makes the repository and the app, and shows where it is', async () => {
		const commit = app.commit('first');
		const { code, output } = await push('HEAD:main');
		assert.equal(code, 0, output);
		assert.match(output, /remote: pushed is queued as dpl_\w+ \(production\)/);
		assert.match(output, /remote: ✓ check \(/);
		assert.match(output, /remote: ✓ Deployed to 1 region \(.*\n.*remote: → http:\/\/pushed\.localhost:\d+/);
		assert.equal(await serves(), 'one');
		assert.equal((await jibe.newest('pushed'))?.state, 'Deployed');
		assert.equal((await builds(jibe, 'pushed'))[0]?.commit, commit);
	});

	await t.test('a clone of it is what was pushed', async () => {
		using copy = scratch();
		const { code, output } = await git(copy.dir, jibe.token, ['clone', '-q', remote(jibe.url, 'pushed'), 'copy']);
		assert.equal(code, 0, output);
		assert.equal((await git(join(copy.dir, 'copy'), '', ['rev-parse', 'HEAD'])).output, app.git('rev-parse', 'HEAD'));
		assert.equal((await git(copy.dir, jibe.token, ['clone', '-q', remote(jibe.url, 'nobodys'), 'none'])).code, 128);
	});

	await t.test('tests that fail end the push with an error, and what served goes on', async () => {
		change('broken');
		const { code, output } = await push('HEAD:main');
		assert.notEqual(code, 0, output);
		assert.match(output, /remote: ✗ check failed after/);
		assert.match(output, /remote: ✗ The tests failed/);
		assert.match(
			output,
			/! \[remote rejected\] HEAD -> main \(it is here, and not live; what served goes on\)\nerror: failed to push some refs[^\n]*$/,
		);
		assert.equal(await serves(), 'one');
	});

	await t.test('connected, it asks for no password, and keeps none', async () => {
		using copy = scratch();
		await git(copy.dir, '', ['clone', '-q', app.dir, '.']);
		await jibe.expect(0, ['repo', 'connect'], { cwd: copy.dir });
		const { url, credential } = { url: remote(jibe.url, 'pushed'), credential: (await git(copy.dir, '', ['config', '--list'])).output };
		assert.match(credential, new RegExp(`remote.jibe.url=${url}`));
		assert.doesNotMatch(credential, new RegExp(jibe.token));
		const env = { PATH: `${join(import.meta.dirname, '../bin')}:${process.env['PATH']}`, JIBE_DATA: jibe.data, JIBE_FROM_SOURCE: '1' };
		const { code, output } = await git(copy.dir, null, ['push', 'jibe', 'HEAD:refs/tags/connected'], env);
		assert.equal(code, 0, output);
		const fill = ['-c', 'credential.helper=', '-c', 'credential.helper=!jibe git-credential', 'credential', 'fill'];
		assert.doesNotMatch((await git(copy.dir, null, fill, env, 'url=https://elsewhere.example\n\n')).output, /password=/);
	});

	await t.test('without the right, nothing is taken and nothing is queued', async () => {
		change('two');
		const before = await builds(jibe, 'pushed');
		for (const role of [['viewer'], ['deployer', '--apps', 'another'], ['deployer', '--environments', 'staging']]) {
			const made = await jibe.expect(0, ['token', 'create', `t-${role.at(-1)}`, '--json', '--role', ...role]);
			const { code, output } = await pushed(jibe, app, 'pushed', ['HEAD:main'], String(made.json?.['secret']));
			assert.notEqual(code, 0, output);
			assert.match(output, /the token "t-\w+" is (a viewer|not for the app pushed|not for the environment production)/);
		}
		for (const ref of ['refs/jibe/x', 'refs/notes/commits']) {
			const { code, output } = await push(`HEAD:${ref}`);
			assert.notEqual(code, 0, output);
			assert.match(output, /\[remote rejected\].*only branches and tags are kept here/);
		}
		assert.deepEqual(await builds(jibe, 'pushed'), before);
		assert.equal(await serves(), 'one');
		const listed = await git(app.dir, jibe.token, ['ls-remote', remote(jibe.url, 'pushed')]);
		assert.doesNotMatch(listed.output, new RegExp(app.git('rev-parse', 'HEAD')));
	});

	await t.test('what git does not send is refused, and who says nothing is asked', async () => {
		const headers = { authorization: `Basic ${Buffer.from(`x:${jibe.token}`).toString('base64')}` };
		const path = '/git/pushed.git/git-receive-pack';
		for (const body of ['what is this', '00zz', '0008abcd0000', '0032no commands here, only words of the right length0000']) {
			const answer = await jibe.api(path, { method: 'POST', headers, body });
			assert.equal(answer.status, 400, body);
			assert.equal((answer.json?.['error'] as { code: string } | undefined)?.code, 'bad_push', body);
		}
		for (const authorization of ['', 'Basic !', 'Basic eDp3cm9uZw==', 'Bearer wrong']) {
			const answer = await jibe.api('/git/pushed.git/info/refs?service=git-receive-pack', { headers: { authorization } });
			assert.equal(answer.status, 401, authorization);
			assert.match(String(answer.headers['www-authenticate']), /^Basic realm=/);
		}
		assert.equal((await jibe.api('/git/..%2Fx.git/info/refs?service=git-upload-pack', { headers })).status, 400);
	});

	await t.test('a commit that changes nothing is live already', async () => {
		app.git('reset', '-q', '--hard', 'HEAD~2');
		app.commit('nothing');
		const { code, output } = await push('--force', 'HEAD:main');
		assert.equal(code, 0, output);
		assert.match(output, /remote: ✓ check \(from the cache/);
		assert.match(output, /remote: ✓ That is what serves/);
	});

	await t.test('a branch that is forced elsewhere is deployed as it is then, also where that is further back', async () => {
		change('two');
		assert.equal((await push('--force', 'HEAD:main')).code, 0);
		app.write('src/word.ts', `export const word: string = 'amended';\n`);
		app.git('commit', '-q', '-a', '--amend', '-m', 'amended');
		assert.match((await push('HEAD:main')).output, /non-fast-forward|fetch first|rejected/);
		const aside = await push('--force', 'HEAD:main');
		assert.equal(aside.code, 0, aside.output);
		assert.equal(await serves(), 'amended');
		const back = await push('--force', 'HEAD~1:main');
		assert.equal(back.code, 0, back.output);
		assert.equal(await serves(), 'one');
		for (let n = 0; n < 60; n++) app.git('commit', '-q', '--allow-empty', '-m', `step ${n}`);
		change('far');
		const far = await push('HEAD:main');
		assert.equal(far.code, 0, far.output);
		assert.equal(await serves(), 'far');
	});

	await t.test('who may not push hears it also when what was sent is large', async () => {
		app.write('huge.bin', randomBytes(24 * 1024 * 1024));
		app.commit('huge');
		const made = await jibe.expect(0, ['token', 'create', 't-large', '--json', '--role', 'deployer', '--environments', 'staging']);
		const { code, output } = await pushed(jibe, app, 'pushed', ['HEAD:main'], String(made.json?.['secret']));
		assert.notEqual(code, 0, output);
		assert.match(output, /is not for the environment production/);
		app.git('reset', '-q', '--hard', 'HEAD~1');
	});

	await t.test('a newer push of a branch takes the place of the one that is built', async () => {
		const slow = { test: { check: { run: `${CHECK}; test ! -e slow || sleep 600` } } };
		app.write('slow', '').write('jibe.json', JSON.stringify({ app: 'pushed', entry: 'src/server.ts', ...slow }));
		change('slow');
		const first = push('HEAD:main');
		await eventually(() => running(jibe, 'pushed', 'check'), 'the slow check');
		rmSync(join(app.dir, 'slow'));
		app.git('reset', '-q', '--soft', 'HEAD~1');
		change('three');
		const [older, newer] = await Promise.all([first, push('--force', 'HEAD:main')]);
		assert.equal(newer.code, 0, newer.output);
		assert.match(older.output, /remote: ✗ A newer one took its place/);
		assert.notEqual(older.code, 0);
		assert.equal(await serves(), 'three');
		const [second, superseded] = await builds(jibe, 'pushed');
		assert.deepEqual([second?.commit, superseded?.state], [app.git('rev-parse', 'HEAD'), 'Superseded']);
	});

	await t.test('a branch has an address of its own, until it is gone', async () => {
		// More than git sends at once: it asks with nothing whether it may, and then comes in pieces.
		app.write('large.bin', randomBytes(200 * 1024));
		change('a preview');
		const { code, output } = await push('HEAD:refs/heads/new/Look');
		assert.equal(code, 0, output);
		assert.match(output, /remote: → http:\/\/new-look--pushed\.localhost:\d+/);
		assert.equal(await serves('new-look--pushed'), 'a preview');
		assert.equal(await serves(), 'three');
		const gone = await push('--delete', 'new/Look');
		assert.equal(gone.code, 0, gone.output);
		assert.match(gone.output, /remote: new\/Look is gone, and with it new-look of pushed/);
		await eventually(async () => ((await jibe.request(0, 'new-look--pushed.localhost', '/')).status === 404 ? true : null), 'its end');
		assert.equal(await serves(), 'three');
	});

	await t.test('a branch that is called as an environment that people made does not get its secrets', async () => {
		await jibe.expect(0, ['secret', 'set', 'KEY', '--app', 'pushed', '--env', 'staging'], { input: 'not for branches' });
		const { code, output } = await push('HEAD:refs/heads/staging');
		assert.equal(code, 0, output);
		assert.match(output, /remote: → http:\/\/staging-[0-9a-f]{6}--pushed\.localhost/);
	});

	await t.test('of several apps in a repository, only those are built that a change concerns', async () => {
		using both = small('mono');
		rmSync(join(both.dir, 'jibe.json'));
		for (const name of ['shop', 'site']) {
			both.write(`${name}/jibe.json`, JSON.stringify({ app: name, entry: 'server.ts' }));
			both.write(`${name}/server.ts`, `export default { fetch: () => new Response('${name}') };\n`);
		}
		both.git('init', '-q');
		both.commit('both');
		const first = await pushed(jibe, both, 'mono', ['HEAD:main']);
		assert.equal(first.code, 0, first.output);
		assert.match(first.output, /remote: shop: → http:\/\/shop\./);
		assert.deepEqual([await serves('shop'), await serves('site')], ['shop', 'site']);
		both.edit('site/server.ts', "'site'", "'a site'");
		both.commit('site');
		const { code, output } = await pushed(jibe, both, 'mono', ['HEAD:main']);
		assert.equal(code, 0, output);
		assert.match(output, /remote: shop is not built: nothing changed /);
		assert.match(output, /site is queued as/);
		assert.deepEqual([(await builds(jibe, 'shop')).length, await serves('shop'), await serves('site')], [1, 'shop', 'a site']);
	});

	await t.test('a package of the workspace concerns those apps that are made of it', async () => {
		using space = workspace();
		space.git('init', '-q');
		space.commit('all');
		const first = await pushed(jibe, space, 'space', ['HEAD:main']);
		assert.equal(first.code, 0, first.output);
		assert.equal(await serves('till'), 'two euros');
		space.edit('packages/money/index.ts', 'euros', 'francs');
		space.commit('francs');
		const { code, output } = await pushed(jibe, space, 'space', ['HEAD:main']);
		assert.equal(code, 0, output);
		assert.match(output, /remote: blog is not built: nothing changed in what it is made of since/);
		assert.match(output, /till is queued as/);
		assert.equal(await serves('till'), 'two francs');
		space.write('README.md', 'for everybody');
		space.commit('words');
		assert.match((await pushed(jibe, space, 'space', ['HEAD:main'])).output, /blog is queued as/);
	});
});

/** Two apps, and a package that one of them is made of. */
function workspace(): App {
	const manifest = { name: 'space', private: true, type: 'module', workspaces: ['apps/*', 'packages/*'] };
	const inside = { till: 'apps/till', blog: 'apps/blog', money: 'packages/money' };
	const links = Object.entries(inside).map(([name, dir]) => [`node_modules/${name}`, { resolved: dir, link: true }]);
	const till = { name: 'till', version: '1.0.0', dependencies: { money: '*' } };
	const blog = { name: 'blog', version: '1.0.0' };
	const money = { name: 'money', version: '1.0.0' };
	const packages = { '': manifest, [inside.till]: till, [inside.blog]: blog, [inside.money]: money, ...Object.fromEntries(links) };
	const app = small('space').write('package.json', JSON.stringify(manifest));
	rmSync(join(app.dir, 'jibe.json'));
	rmSync(join(app.dir, 'src'), { recursive: true });
	app.write('package-lock.json', JSON.stringify({ name: 'space', lockfileVersion: 3, requires: true, packages }));
	for (const one of [till, blog]) {
		app.write(`apps/${one.name}/package.json`, JSON.stringify({ ...one, type: 'module' }));
		app.write(`apps/${one.name}/jibe.json`, JSON.stringify({ app: one.name, entry: 'server.ts' }));
	}
	app.write('packages/money/package.json', JSON.stringify({ ...money, type: 'module', exports: './index.ts' }));
	app.write('packages/money/index.ts', "export const money: string = 'two euros';\n");
	app.write('apps/till/server.ts', "import { money } from 'money';\nexport default { fetch: () => new Response(money) };\n");
	app.write('apps/blog/server.ts', "export default { fetch: () => new Response('blog') };\n");
	return app;
}

interface Said {
	code: number | null;
	output: string;
}

function pushed({ url, token: own }: Jibe, { dir }: App, repository: string, words: string[], token = own): Promise<Said> {
	return git(dir, token, ['push', remote(url, repository), ...words]);
}

function remote(url: string, repository: string): string {
	return new URL(`/git/${repository}.git`, url).href;
}

/** The user's git, asked for a password as it asks its credential helpers; null: those that its configuration names. */
function git(cwd: string, token: string | null, words: string[], more: Record<string, string> = {}, input = ''): Promise<Said> {
	const env = {
		PATH: process.env['PATH'],
		HOME: cwd,
		GIT_TERMINAL_PROMPT: '0',
		GIT_CONFIG_NOSYSTEM: '1',
		GIT_CONFIG_GLOBAL: '/dev/null',
		GIT_CONFIG_COUNT: token === null ? '1' : '2',
		GIT_CONFIG_KEY_0: 'http.postBuffer',
		GIT_CONFIG_VALUE_0: '65536',
		GIT_CONFIG_KEY_1: 'credential.helper',
		GIT_CONFIG_VALUE_1: '!helper() { echo username=jibe; echo "password=$TOKEN"; }; helper',
		TOKEN: token ?? '',
		...more,
	};
	return new Promise((resolve, reject) => {
		const child = spawn('git', words, { cwd, env, stdio: ['pipe', 'pipe', 'pipe'] });
		child.stdin.on('error', () => {}); // most words of git read none
		child.stdin.end(input);
		let output = '';
		for (const pipe of [child.stdout, child.stderr]) pipe.setEncoding('utf8').on('data', (text: string) => (output += text));
		child.once('error', reject);
		child.once('close', (code) => resolve({ code, output: output.trim() }));
	});
}

function scratch(): Disposable & { dir: string } {
	const dir = realpathSync(mkdtempSync(join(tmpdir(), 'jibe-clone-')));
	return { dir, [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }) };
}

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { branchName, cloneUrl, directoryInside, outboundAddress } from '#wire/repositories.ts';
import { apiOf, readCloneUrl } from './clone-url.ts';

test('what a clone URL says', () => {
	const of = (text: string) => {
		assert.ok(cloneUrl.safeParse(text).success, text);
		const { protocol, user, host, port, path } = readCloneUrl(text);
		return [protocol, user, host, port, path];
	};
	assert.deepEqual(of('https://github.com/team/notes.git'), ['https', null, 'github.com', 443, 'team/notes']);
	assert.deepEqual(of('https://forge.example.com:8443/a/b/notes/'), ['https', null, 'forge.example.com', 8443, 'a/b/notes']);
	assert.deepEqual(of('git@github.com:team/notes.git'), ['ssh', 'git', 'github.com', 22, 'team/notes']);
	assert.deepEqual(of('ssh://gitea@[fd00::1]:2222/team/notes.git'), ['ssh', 'gitea', 'fd00::1', 2222, 'team/notes']);
	assert.deepEqual(of('http://127.0.0.1:3000/team/notes'), ['http', null, '127.0.0.1', 3000, 'team/notes']);
});

test('what is no clone URL, or more than one', () => {
	const bad = [
		'', 'notes', '/srv/git/notes.git', 'file:///srv/git/notes.git', 'git://github.com/team/notes', 'ext::sh -c touch% /tmp/x', 'ftp://github.com/a/b',
		'https://ann:secret@github.com/team/notes.git', 'https://t0ken@github.com/team/notes', 'https://github.com', 'https://github.com/', 'https://github.com/a b',
		'https://github.com/a?b', 'https://github.com/a#b', '--upload-pack=touch /tmp/x', 'ssh://-oProxyCommand=x/team/notes', '-oProxyCommand=x@host:a', 'git@-oProxyCommand=x:a',
		'git@host:-a', 'git@host:a\nb', 'ssh://git:secret@host/a', 'https://github.com/a\0b', `https://github.com/${'a'.repeat(1_000)}`,
	]; // prettier-ignore
	for (const text of bad) assert.ok(!cloneUrl.safeParse(text).success, JSON.stringify(text));
});

test('where a forge has its API', () => {
	assert.equal(apiOf('github', 'git@github.com:team/notes.git', null), 'https://api.github.com');
	assert.equal(apiOf('github', 'https://git.example.com/team/notes.git', null), 'https://git.example.com/api/v3');
	assert.equal(apiOf('gitlab', 'ssh://git@gitlab.example.com:2222/team/notes.git', null), 'https://gitlab.example.com/api/v4');
	assert.equal(apiOf('gitea', 'https://forge.example.com:3000/team/notes.git', null), 'https://forge.example.com:3000/api/v1');
	assert.equal(
		apiOf('gitea', 'https://forge.example.com/team/notes.git', 'https://other.example.com/api/v1/'),
		'https://other.example.com/api/v1',
	);
	assert.equal(apiOf('generic', 'https://forge.example.com/team/notes.git', null), null);
});

test('names of branches, directories, and what an admin may allow', () => {
	for (const name of ['main', 'feature/one', 'hotfix/2.1', 'ünï', 'a-b_c']) assert.ok(branchName.safeParse(name).success, name);
	for (const name of [
		'',
		'-x',
		'.x',
		'a..b',
		'a b',
		'a~b',
		'a^b',
		'a:b',
		'a?b',
		'a*b',
		'a[b',
		'a\\b',
		'a//b',
		'a/',
		'a.',
		'a@{b',
		'a.lock',
		'a/.b',
		'a\nb',
	])
		assert.ok(!branchName.safeParse(name).success, JSON.stringify(name));
	for (const name of ['', 'services/shop', 'a/b.c']) assert.ok(directoryInside.safeParse(name).success, name);
	for (const name of ['/a', '../a', 'a/../b', 'a/', 'a//b', './a', 'a\0b', 'a\\b'])
		assert.ok(!directoryInside.safeParse(name).success, name);
	for (const name of ['forge.lan', 'forge.lan:8443', '10.0.0.0/8', '[fd00::1]:443', 'fd00::/8'])
		assert.ok(outboundAddress.safeParse(name).success, name);
	for (const name of ['', 'https://forge.lan', 'a b', 'forge.lan/8', '*']) assert.ok(!outboundAddress.safeParse(name).success, name);
});

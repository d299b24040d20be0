import assert from 'node:assert/strict';
import { test } from 'node:test';
import { branchName, cloneUrl, directoryInside, outboundAddress } from './repositories.ts';

test('what is no clone URL, or more than one', () => {
	const bad = [
		'', 'notes', '/srv/git/notes.git', 'file:///srv/git/notes.git', 'git://github.com/team/notes', 'ext::sh -c touch% /tmp/x', 'ftp://github.com/a/b',
		'https://ann:secret@github.com/team/notes.git', 'https://t0ken@github.com/team/notes', 'https://github.com', 'https://github.com/', 'https://github.com/a b',
		'https://github.com/a?b', 'https://github.com/a#b', '--upload-pack=touch /tmp/x', 'ssh://-oProxyCommand=x/team/notes', '-oProxyCommand=x@host:a', 'git@-oProxyCommand=x:a',
		'git@host:-a', 'git@host:a\nb', 'ssh://git:secret@host/a', 'https://github.com/a\0b', `https://github.com/${'a'.repeat(1_000)}`,
	]; // prettier-ignore
	for (const text of bad) assert.ok(!cloneUrl.safeParse(text).success, JSON.stringify(text));
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

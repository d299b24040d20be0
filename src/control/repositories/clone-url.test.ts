import assert from 'node:assert/strict';
import { test } from 'node:test';
import { cloneUrl } from '#wire/repositories.ts';
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

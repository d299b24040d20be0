import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { RepositoryAnswer, RepositoryView } from '#wire/repositories.ts';
import { startControl, type TestControl } from '../../test/fixtures/control.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';

let cluster: TestCluster;
before(async () => {
	cluster = await startCluster();
});
after(() => cluster.stop());

const URL_OF_NOTES = 'https://github.com/team/notes.git';

const put = (house: TestControl, name: string, json: Record<string, unknown>, token?: string) =>
	house.ask('PUT', `/api/v1/repositories/${name}`, { json: { forge: 'github', ...json }, ...(token === undefined ? {} : { token }) });
const list = async (house: TestControl, token?: string) =>
	(await house.ask('GET', '/api/v1/repositories', token === undefined ? {} : { token })).json<{ repositories: RepositoryView[] }>()
		.repositories;

test('a repository is made with its defaults and changed one thing at a time; what was made for it is shown once', async (t) => {
	const house = await startControl(t, cluster);
	const made = (await put(house, 'notes', { url: URL_OF_NOTES })).json<RepositoryAnswer>();
	assert.deepEqual(made.repository.apps, [{ app: 'notes', directory: '' }]);
	assert.deepEqual(made.repository.rules, { production: 'main', hotfix: 'hotfix/', others: 'preview', forks: 'ask' });
	assert.match(made.webhookSecret ?? '', /^[\w-]{32}$/);
	assert.deepEqual([made.deployKey, made.repository.hook, made.repository.secrets], [null, '/hooks/github/notes', ['webhook']]);

	const rules = { ...made.repository.rules, production: 'release', others: 'ignore' };
	const changed = (await put(house, 'notes', { rules, token: 'ghp_a-token-of-the-team' })).json<RepositoryAnswer>();
	assert.deepEqual([changed.webhookSecret, changed.repository.secrets, changed.repository.url], [null, ['webhook', 'token'], URL_OF_NOTES]);
	assert.deepEqual(changed.repository.rules, rules);
	assert.deepEqual((await put(house, 'notes', { token: null })).json<RepositoryAnswer>().repository.secrets, ['webhook']);
	assert.doesNotMatch(JSON.stringify(await list(house)), new RegExp(`${made.webhookSecret}|ghp_`));

	assert.equal((await house.ask('DELETE', '/api/v1/repositories/notes')).status, 204);
	assert.equal((await house.ask('DELETE', '/api/v1/repositories/notes')).status, 404);
	assert.deepEqual(await list(house), []);
	assert.notEqual((await put(house, 'notes', { url: URL_OF_NOTES })).json<RepositoryAnswer>().webhookSecret, null);
});

test('over ssh it gets a deploy key of its own, whose public half is shown as often as one asks', async (t) => {
	const house = await startControl(t, cluster);
	const made = (await put(house, 'notes', { url: 'git@github.com:team/notes.git' })).json<RepositoryAnswer>();
	assert.match(made.deployKey ?? '', /^ssh-ed25519 AAAA[\w+/]{64} jibe-notes$/);
	assert.deepEqual(made.repository.secrets, ['webhook', 'deploy_key']);
	const again = (await put(house, 'notes', {})).json<RepositoryAnswer>();
	assert.equal(`${again.deployKey} jibe-notes`, made.deployKey);
	assert.equal((await put(house, 'notes', { deployKey: 'one of their own' })).json<RepositoryAnswer>().deployKey, null);
	assert.equal((await put(house, 'notes', {})).json<RepositoryAnswer>().deployKey, null);
});

test('what makes no sense, or is somebody else’s, is refused with what to do', async (t) => {
	const house = await startControl(t, cluster);
	const code = async (name: string, json: Record<string, unknown>, token?: string) =>
		(await put(house, name, json, token)).json().error.code;
	await put(house, 'notes', { url: URL_OF_NOTES });
	assert.equal(await code('other', { url: URL_OF_NOTES, apps: [{ app: 'notes' }] }), 'app_elsewhere');
	assert.equal(await code('nowhere', {}), 'url_missing');
	assert.equal(await code('pushed', { forge: 'push', url: URL_OF_NOTES }), 'url_not_needed');
	assert.equal(await code('notes', { forge: 'push', url: null }), 'repository_exists');
	for (const json of [
		{ url: 'file:///etc' },
		{ url: 'https://ann:secret@github.com/a/b' },
		{ url: URL_OF_NOTES, apps: [] },
		{ url: URL_OF_NOTES, apps: [{ app: 'a', directory: '../b' }] },
		{ url: URL_OF_NOTES, apps: [{ app: 'a' }, { app: 'a' }] },
		{ url: URL_OF_NOTES, rules: { production: '-x' } },
		{ url: URL_OF_NOTES, webhookSecret: 'short' },
		{ url: URL_OF_NOTES, colour: 'red' },
	])
		assert.equal(await code('bad', json), 'bad_request', JSON.stringify(json));
	assert.equal((await put(house, 'No--name', { url: URL_OF_NOTES })).status, 400);
});

test('only admins change repositories; a token for some apps sees those of them', async (t) => {
	const house = await startControl(t, cluster);
	await put(house, 'notes', { url: URL_OF_NOTES });
	await put(house, 'shop', { url: 'https://github.com/team/shop.git' });
	const token = async (role: 'viewer' | 'deployer', apps: string[] | null) =>
		(await house.state.tokens.create({ name: role, role, apps, environments: null, expiresAt: null, by: 'test' })).secret;
	const deployer = await token('deployer', null);
	assert.equal((await put(house, 'more', { url: URL_OF_NOTES }, deployer)).status, 403);
	assert.equal((await house.ask('DELETE', '/api/v1/repositories/notes', { token: deployer })).status, 403);
	assert.equal((await house.ask('PUT', '/api/v1/outbound', { json: { address: '10.0.0.0/8' }, token: deployer })).status, 403);
	assert.deepEqual((await list(house, await token('viewer', ['shop']))).map(({ name }) => name), ['shop']); // prettier-ignore
	assert.equal((await house.ask('PUT', '/api/v1/outbound', { json: { address: '10.0.0.0/40' } })).status, 400);
});

test('a new master key opens them as it opens the secrets of apps', async (t) => {
	const house = await startControl(t, cluster);
	const { deployKey } = (await put(house, 'notes', { url: 'git@github.com:team/notes.git' })).json<RepositoryAnswer>();
	assert.equal(
		(await house.ask('POST', '/api/v1/secrets/rotations', { json: { lostKey: false } })).json<{ rewrapped: number }>().rewrapped,
		2,
	);
	await house.restart();
	const again = (await put(house, 'notes', {})).json<RepositoryAnswer>();
	assert.equal(`${again.deployKey} jibe-notes`, deployKey);
});

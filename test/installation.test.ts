import assert from 'node:assert/strict';
import { readdirSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { tinyApp } from './fixtures/app.ts';
import { send, startJibe } from './fixtures/jibe.ts';

test('one installation: a second up, taken ports, tokens, hosts, and what ps shows', async (t) => {
	await using jibe = await startJibe({ regions: 2 });

	await t.test('a second up on the same directory says where the first runs', async () => {
		const result = await jibe.expect(2, ['up', '--regions', '2']);
		assert.match(result.stderr, new RegExp(`already running at ${jibe.url}`));
	});

	await t.test('a port that is asked for and taken is named with its owner', async () => {
		const other = createServer();
		await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
		const port = (other.address() as { port: number }).port;
		const result = await jibe.cli(['up', '--detach', '--data', join(jibe.data, '..', 'other'), '--port', String(port)]);
		await jibe.cli(['down', '--data', join(jibe.data, '..', 'other')]);
		other.close();
		assert.equal(result.code, 2, result.stderr);
		assert.match(result.stderr, new RegExp(`${port}`));
		assert.match(result.stderr, new RegExp(`${process.pid}`));
	});

	await t.test('every process shows its role and the directory, and nothing secret', () => {
		const roles = new Set(jibe.pids().map(({ role }) => role));
		for (const role of ['up', 'control', 'depot', 'agent', 'edge']) assert.ok(roles.has(role), `${role} in ${[...roles].join(' ')}`);
		const token = jibe.token;
		for (const { line, role } of jibe.pids()) {
			assert.ok(!line.includes(token));
			if (role !== 'postgres' && role !== 'up') assert.ok(line.endsWith(jibe.data), line);
		}
	});

	await t.test('the directory is for its owner only, and so is every secret in it', () => {
		assert.equal(statSync(jibe.data).mode & 0o077, 0);
		assert.equal(statSync(join(jibe.data, 'admin.token')).mode & 0o077, 0);
		for (const file of readdirSync(join(jibe.data, 'credentials')))
			assert.equal(statSync(join(jibe.data, 'credentials', file)).mode & 0o077, 0);
	});

	await t.test('without a token nothing is said; with a weak or revoked one nothing is done', async () => {
		assert.equal((await send(`${jibe.url}/api/v1/apps`, {})).status, 401);
		assert.equal((await send(`${jibe.url}/api/v1/apps`, { headers: { authorization: 'Bearer wrong' } })).status, 401);
		const made = await jibe.expect(0, ['token', 'create', 'reader', '--role', 'viewer', '--json']);
		const viewer = String(made.json?.['secret']);
		assert.equal((await send(`${jibe.url}/api/v1/apps`, { headers: { authorization: `Bearer ${viewer}` } })).status, 200);
		using app = tinyApp('denied', `export default { fetch: () => new Response('x') };\n`);
		const denied = await jibe.cli(['deploy', '--json'], { cwd: app.dir, env: { JIBE_SERVER: jibe.url, JIBE_TOKEN: viewer } });
		assert.equal(denied.code, 5, denied.stderr);
		await jibe.expect(0, ['token', 'revoke', (made.json as { token: { id: string } } | null)?.token.id ?? '']);
		assert.equal((await send(`${jibe.url}/api/v1/apps`, { headers: { authorization: `Bearer ${viewer}` } })).status, 401);
	});

	await t.test('a rebound host and a cross-site request are refused', async () => {
		const rebound = await jibe.api('/api/v1/apps', { headers: { host: 'evil.example.com' } });
		assert.ok([403, 421].includes(rebound.status), String(rebound.status));
		const crossed = await jibe.api('/api/v1/apps', { headers: { origin: 'http://evil.example.com' } });
		assert.equal(crossed.status, 403);
	});

	await t.test('a slip in the name of an app is answered with the nearest there is', async () => {
		using app = tinyApp('notes', `export default { fetch: () => new Response('x') };\n`);
		await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
		const slips = [['rollback'], ['status'], ['logs'], ['app', 'remove']];
		for (const words of slips) {
			const { stderr, json } = await jibe.expect(2, [...words, 'nots', '--json', ...(words[0] === 'app' ? ['--yes'] : [])]);
			assert.equal((json as { error?: { code: string } } | null)?.error?.code, 'app_unknown', words.join(' '));
			assert.match(stderr, /there is no app nots\n {2}did you mean notes\?/);
		}
		assert.match((await jibe.expect(2, ['rollback', 'elsewhere'])).stderr, /there is no app elsewhere\n {2}"jibe app list" shows/);
		const staging = await jibe.expect(2, ['rollback', 'notes', '--env', 'staging']);
		assert.match(staging.stderr, /notes was never deployed in staging\n {2}it is in production/);
	});

	await t.test('an unknown app is answered with a page for people and JSON for programs', async () => {
		const page = await jibe.request(0, 'nobody.localhost', '/', { headers: { accept: 'text/html' } });
		assert.equal(page.status, 404);
		assert.match(page.body, /nobody/);
		const json = await jibe.request(0, 'nobody.localhost', '/', { headers: { accept: 'application/json' } });
		assert.equal((json.json as { error: { code: string } } | null)?.error.code, 'unknown_app');
	});
});

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { forkEnvironment } from '#control/repositories/fork.ts';
import { noGit, startGitServer } from './fixtures/git-server.ts';
import { eventually, startJibe, type Jibe } from './fixtures/jibe.ts';

const SERVER = (text: string) => `export default { fetch: () => new Response(${JSON.stringify(text)}) };\n`;
const CONFIG = '{"app":"plain","entry":"server.ts","regions":"all","strategy":{"type":"walk","watch":"10s"}}';

test('a push to a forge goes live, and the forge is told; what a fork asks for waits for a person', { skip: noGit }, async (t) => {
	const forge = await startGitServer(t);
	const api = await startApi(t);
	await using jibe = await startJibe({ regions: 2 });
	const copy = forge.repository('team/plain.git');
	for (const port of [forge.port, api.port]) await jibe.expect(0, ['outbound', 'allow', `127.0.0.1:${port}`]);
	const url = `${forge.url}/team/plain.git`;
	const words = ['repo', 'add', 'plain', url, '--forge', 'gitea', '--api', api.url, '--secret', 'token', '--json'];
	const added = await jibe.expect(0, words, { input: 'a-token-of-the-team' });
	const secret = String(added.json?.['webhookSecret']);
	const hook = '/hooks/gitea/plain';
	assert.equal((added.json?.['repository'] as { hook: string } | undefined)?.hook, hook);
	const tell = (event: string, payload: object) => send(jibe, hook, event, JSON.stringify(payload), secret);
	const repository = { full_name: 'team/plain' };

	const first = copy.push({ 'jibe.json': CONFIG, 'server.ts': SERVER('one') }, { message: 'First' });
	assert.equal(await tell('push', { ref: 'refs/heads/main', repository }), 200);
	await eventually(() => api.told.find(({ path, body }) => path.endsWith(first) && body['state'] === 'success') ?? null, 'success');
	assert.equal((await jibe.request(1, 'plain.localhost', '/')).body, 'one');
	assert.ok(api.told.some(({ body }) => body['state'] === 'pending'));
	assert.ok(api.told.every(({ authorization }) => authorization === 'token a-token-of-the-team'));

	const broken = copy.push({ 'server.ts': 'export default {{\n' }, { message: 'Broken' });
	await tell('push', { ref: 'refs/heads/main', repository });
	await eventually(() => api.told.find(({ path, body }) => path.endsWith(broken) && body['state'] === 'failure') ?? null, 'failure');
	assert.equal((await jibe.request(1, 'plain.localhost', '/')).body, 'one');

	await t.test('a fork', async () => {
		const environment = forkEnvironment('plain', 7);
		await jibe.expect(0, ['secret', 'set', 'KEY', '--app', 'plain', '--env', environment, '--stage'], { input: 'what forks never get' });
		const greedy = JSON.stringify({ ...(JSON.parse(CONFIG) as object), secrets: ['KEY'] });
		const server = 'export default { fetch: () => new Response(`of a fork, ${process.env.KEY}`) };\n';
		copy.push({ 'jibe.json': greedy, 'server.ts': server }, { branch: 'of-a-fork' });
		const commit = copy.git('rev-parse', 'HEAD');
		copy.git('push', '-q', 'origin', 'HEAD:refs/pull/7/head');
		const head = { sha: commit, ref: 'better', repo: { full_name: 'eve/plain' } };
		const asked = { title: 'Better', state: 'open', user: { login: 'eve' }, head, base: { repo: repository } };
		await tell('pull_request', { number: 7, repository, pull_request: asked });
		const pulls = () => jibe.expect(0, ['repo', 'pulls', '--json']).then(({ json }) => json?.['pullRequests'] as { commit: string }[]);
		await eventually(async () => ((await pulls()).some((one) => one.commit === commit) ? true : null), 'pull request');
		await jibe.expect(2, ['repo', 'approve', 'plain', '7']);
		await jibe.expect(0, ['repo', 'approve', 'plain', '7', '--commit', commit.slice(0, 12)]);
		const told = await eventually(
			() => api.told.find(({ path, body }) => path.endsWith(commit) && body['state'] === 'success') ?? null,
			'success of the fork',
		);
		assert.equal(told.body['context'], `jibe/plain (${environment})`);
		assert.equal((await jibe.request(0, `${environment}--plain.localhost`, '/')).body, 'of a fork, undefined');
		assert.equal((await jibe.request(0, 'plain.localhost', '/')).body, 'one');
		await tell('pull_request', { number: 7, repository, pull_request: { ...asked, state: 'closed' } });
		await eventually(
			async () => ((await jibe.request(0, `${environment}--plain.localhost`, '/')).status === 404 ? true : null),
			'end of the fork',
		);
	});

	await t.test('a branch has a preview for as long as it is there, and again when it is back', async () => {
		const host = 'new-look--plain.localhost';
		const push = () => tell('push', { ref: 'refs/heads/new/look', repository });
		const becomes = (wanted: string | number) =>
			eventually(async () => {
				const { status, body } = await jibe.request(1, host, '/');
				return body === wanted || status === wanted ? true : null;
			}, `${wanted} at ${host}`);
		copy.push({ 'jibe.json': CONFIG, 'server.ts': SERVER('a preview') }, { branch: 'new/look' });
		await push();
		await becomes('a preview');
		copy.git('push', '-q', 'origin', ':new/look');
		await push();
		await becomes(404);
		copy.push({ 'server.ts': SERVER('a preview once more') }, { branch: 'new/look' });
		await push();
		await becomes('a preview once more');
		assert.equal((await jibe.request(0, 'plain.localhost', '/')).body, 'one');
	});
	const { stdout: listed } = await jibe.expect(0, ['repo', 'list']);
	assert.match(listed, /plain +gitea +plain +http:\/\/127[^ ]+ +\/hooks\/gitea\/plain +push new\/look/);
	await jibe.expect(0, ['repo', 'remove', 'plain']);
	assert.equal(await tell('push', { ref: 'refs/heads/main', repository }), 401);
	assert.equal((await jibe.request(0, 'plain.localhost', '/')).body, 'one');
	await jibe.expect(0, ['outbound', 'deny', `127.0.0.1:${api.port}`]);
	assert.match((await jibe.expect(0, ['outbound', 'list'])).stdout, new RegExp(`127\\.0\\.0\\.1:${forge.port} +token:admin`));
	for (const file of ['control.log', 'supervisor.log']) assert.doesNotMatch(logOf(jibe, file), new RegExp(`a-token-of-the-team|${secret}`));
});

function logOf(jibe: Jibe, file: string): string {
	try {
		return readFileSync(join(jibe.data, 'logs', file), 'utf8');
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
		throw error;
	}
}

async function send(jibe: Jibe, hook: string, event: string, body: string, secret: string): Promise<number> {
	const { url } = JSON.parse(readFileSync(join(jibe.data, 'endpoint.json'), 'utf8')) as { url: string };
	const signature = createHmac('sha256', secret).update(body).digest('hex');
	const headers = { 'content-type': 'application/json', 'x-gitea-event': event, 'x-gitea-signature': signature };
	const answer = await fetch(new URL(hook, url), { method: 'POST', headers, body });
	await answer.arrayBuffer();
	return answer.status;
}

async function startApi(t: TestContext) {
	const told: { path: string; authorization: string | undefined; body: Record<string, unknown> }[] = [];
	const server = createServer((request, response) => {
		const parts: Buffer[] = [];
		request.on('data', (part: Buffer) => parts.push(part));
		request.on('end', () => {
			const body = JSON.parse(Buffer.concat(parts).toString()) as Record<string, unknown>;
			told.push({ path: request.url ?? '', authorization: request.headers.authorization, body });
			response.writeHead(201).end('{}');
		});
	});
	await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
	t.after(() => {
		server.closeAllConnections();
		server.close();
	});
	const { port } = server.address() as AddressInfo;
	return { told, port, url: `http://127.0.0.1:${port}` };
}

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { connect } from 'node:net';
import { after, before, test, type TestContext } from 'node:test';
import type { RepositoryAnswer, RepositoryView } from '#wire/repositories.ts';
import { startControl, type Answer, type TestControl } from '../../test/fixtures/control.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import { noGit, startGitServer, type GitServer, type WorkingCopy } from '../../test/fixtures/git-server.ts';

let cluster: TestCluster;
before(async () => {
	cluster = await startCluster();
});
after(() => cluster.stop());

const SECRET = 'a secret that the forge signs with';

interface SetUp {
	house: TestControl;
	forge: GitServer;
	copy: WorkingCopy;
	/** `team/notes` as a repository of that forge. */
	add: (of?: Record<string, unknown>, name?: string) => Promise<Answer>;
}

async function setUp(t: TestContext): Promise<SetUp> {
	const forge = await startGitServer(t);
	const house = await startControl(t, cluster);
	assert.equal((await house.ask('PUT', '/api/v1/outbound', { json: { address: `127.0.0.1:${forge.port}` } })).status, 200);
	const add: SetUp['add'] = (of = {}, name = 'notes') =>
		house.ask('PUT', `/api/v1/repositories/${name}`, { json: { forge: 'github', url: `${forge.url}/team/notes.git`, webhookSecret: SECRET, ...of } }); // prettier-ignore
	return { house, forge, add, copy: forge.repository('team/notes.git') };
}

let deliveries = 0;
const signed = (body: string, secret = SECRET) => `sha256=${createHmac('sha256', secret).update(body).digest('hex')}`;

function tell(
	house: TestControl,
	payload: unknown,
	of: { path?: string; event?: string; id?: string; secret?: string; headers?: Record<string, string> } = {},
): Promise<Answer> {
	const { path = '/hooks/github/notes', event = 'push', id = `delivery-${deliveries++}`, secret, headers } = of;
	const text = typeof payload === 'string' ? payload : JSON.stringify(payload);
	return house.ask('POST', path, {
		token: null,
		body: new Uint8Array(Buffer.from(text)),
		type: 'application/json',
		headers: { 'x-github-event': event, 'x-github-delivery': id, 'x-hub-signature-256': signed(text, secret), ...headers },
	});
}

const push = (branch = 'main', of = 'team/notes') => ({ ref: `refs/heads/${branch}`, repository: { full_name: of } });

/** A look is a request and its queries: 5 ms of CPU. */
const LOOK_EACH_MS = 40;

async function until<T>(look: () => Promise<T | null | undefined | false>): Promise<T> {
	for (;;) {
		const found = await look();
		if (found) return found;
		await new Promise((resolve) => setTimeout(resolve, LOOK_EACH_MS));
	}
}

async function repository(house: TestControl, name = 'notes'): Promise<RepositoryView> {
	const { repositories } = (await house.ask('GET', '/api/v1/repositories')).json<{ repositories: RepositoryView[] }>();
	return repositories.find((one) => one.name === name)!;
}

const ended = (house: TestControl, outcome: RegExp) =>
	until(async () => {
		const { last } = await repository(house);
		return last && last.state !== 'waiting' && outcome.test(last.outcome ?? '') ? last : null;
	});
const builds = (house: TestControl) => house.state.builds.list({ which: 'all', limit: 50 });
const did = (answer: Answer) => answer.json<{ did: string }>().did;

test('a push that a forge tells of is fetched and queued, once, however often it is told', { skip: noGit }, async (t) => {
	const { house, copy, add } = await setUp(t);
	const made = (await add()).json<RepositoryAnswer>();
	assert.deepEqual([made.repository.hook, made.webhookSecret, made.repository.secrets], ['/hooks/github/notes', null, ['webhook']]);
	const commit = copy.push({ 'jibe.json': '{"app":"notes","entry":"a.ts"}', 'a.ts': '' }, { message: 'First' });

	const first = await tell(house, push(), { id: 'one' });
	assert.deepEqual([first.status, did(first)], [200, 'waits']);
	await ended(house, /./);
	const [build] = await builds(house);
	assert.deepEqual([build?.app, build?.environment, build?.commit, build?.subject, build?.trust, build?.priority], ['notes', 'production', commit, 'First', 'production', 'production']); // prettier-ignore

	// The same delivery, the same push under another name, and, replayed much later, as it was signed then.
	assert.equal(did(await tell(house, push(), { id: 'one' })), 'already');
	assert.equal(did(await tell(house, push(), { id: 'two' })), 'waits');
	await until(async () => (await house.state.deliveries.waiting()).count === 0);
	assert.equal((await builds(house)).length, 1);

	const second = copy.push({ 'a.ts': '// changed' });
	await tell(house, push(), { id: 'three' });
	await until(async () => (await builds(house)).length === 2);
	await tell(house, { ...push(), before: '0'.repeat(40), after: commit }, { id: 'replayed' });
	await until(async () => (await house.state.deliveries.waiting()).count === 0);
	assert.deepEqual((await builds(house)).map((one) => one.commit), [second, commit]); // prettier-ignore
});

test('forged, malformed and oversized webhooks are refused, and leave nothing', { skip: noGit }, async (t) => {
	const { house, add } = await setUp(t);
	await add();
	const code = (answer: Answer) => `${answer.status} ${answer.json().error.code}`;
	assert.equal(code(await tell(house, push(), { secret: 'another' })), '401 bad_signature');
	for (const signature of [
		'',
		'sha256=',
		`sha256=${'0'.repeat(64)}`,
		signed(JSON.stringify(push())).slice(0, -1),
		`sha1=${'0'.repeat(40)}`,
	])
		assert.equal(code(await tell(house, push(), { headers: { 'x-hub-signature-256': signature } })), '401 bad_signature', signature);
	// One that isn't there is not to be told from one whose secret is another; nor one of another forge.
	assert.equal(code(await tell(house, push(), { path: '/hooks/github/nothing' })), '401 bad_signature');
	assert.equal(code(await tell(house, push(), { path: '/hooks/gitea/notes' })), '401 bad_signature');
	assert.equal(code(await tell(house, push('main', 'else/where'), { path: '/hooks/github' })), '401 bad_signature');
	assert.equal(code(await tell(house, push(), { path: '/hooks/github/..%2Fnotes' })), '400 bad_request');
	assert.equal((await tell(house, push(), { path: '/hooks/nowhere' })).status, 400);
	for (const body of ['', '{', 'null', '[]', '{"ref":7}', '{"ref":{}}', `{"ref":"${'x'.repeat(400)}"}`])
		assert.equal(code(await tell(house, body)), '400 bad_request', body);
	const large = await tell(house, `{"ref":"${' '.repeat(5 * 1024 * 1024)}"}`);
	assert.equal(code(large), '413 too_large');
	assert.deepEqual(await house.state.deliveries.of('notes', 10), []);
	assert.deepEqual(await builds(house), []);
});

test('a body without an end, or cut short, ends the request and nothing else', { skip: noGit }, async (t) => {
	const { house, add } = await setUp(t);
	await add();
	const { port, host } = new URL(house.control.url);
	const raw = (head: string, body: string) =>
		new Promise<string>((resolve) => {
			const socket = connect(Number(port), '127.0.0.1');
			let answer = '';
			socket.on('data', (part) => (answer += part.toString()));
			socket.on('error', () => {}); // it was closed while this wrote
			socket.on('close', () => resolve(answer));
			socket.write(`POST /hooks/github/notes HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/json\r\n${head}\r\n\r\n${body}`);
			if (head.startsWith('content-length')) socket.end();
			else for (let i = 0; i < 100; i++) socket.write(`10000\r\n${' '.repeat(65_536)}\r\n`);
		});
	assert.match(await raw('transfer-encoding: chunked', ''), /^HTTP\/1\.1 413 /);
	await raw('content-length: 1000', '{"ref":');
	assert.equal((await tell(house, push())).status, 200);
});

test('GitLab and Gitea, each in its own words; what is no push of a branch is only noted', { skip: noGit }, async (t) => {
	const { house, copy, forge, add } = await setUp(t);
	copy.push({ 'jibe.json': '{"app":"notes","entry":"a.ts"}', 'a.ts': '' });
	const payload = { ref: 'refs/heads/main', project: { path_with_namespace: 'team/notes' } };
	await add({ forge: 'gitlab', url: `${forge.url}/team/notes.git` });
	const lab = (headers: Record<string, string>, body: unknown = payload, path = '/hooks/gitlab') => tell(house, body, { path, headers: { 'x-gitlab-event': 'Push Hook', ...headers } }); // prettier-ignore
	assert.equal((await lab({})).status, 401);
	assert.equal((await lab({ 'x-gitlab-token': `${SECRET}x` })).status, 401);
	assert.equal(did(await lab({ 'x-gitlab-token': SECRET, 'x-gitlab-event-uuid': 'a' })), 'waits');
	assert.equal(did(await lab({ 'x-gitlab-token': SECRET, 'x-gitlab-event-uuid': 'a' })), 'already');
	assert.equal(did(await lab({ 'x-gitlab-token': SECRET, 'x-gitlab-event': 'Issue Hook' })), 'ignored');
	assert.equal(did(await lab({ 'x-gitlab-token': SECRET }, { ...payload, ref: 'refs/tags/v1' })), 'ignored');

	forge.repository('team/wiki.git').push({ 'a.txt': 'a' });
	await add({ forge: 'gitea', url: `${forge.url}/team/wiki.git`, apps: [{ app: 'wiki' }] }, 'wiki');
	const body = JSON.stringify({ ...push('main', 'Team/Wiki') });
	const headers = { 'x-gitea-event': 'push', 'x-gitea-delivery': 'g1', 'x-gitea-signature': signed(body).slice('sha256='.length) };
	assert.equal(did(await tell(house, body, { path: '/hooks/gitea', headers })), 'waits');
	const forgejo = { 'x-forgejo-event': 'push', 'x-forgejo-delivery': 'g2', 'x-forgejo-signature': headers['x-gitea-signature'] };
	assert.equal(did(await tell(house, body, { path: '/hooks/gitea/wiki', headers: forgejo })), 'waits');
	await until(async () => (await house.state.deliveries.waiting()).count === 0);
	assert.deepEqual((await builds(house)).map(({ app }) => app).toSorted(), ['notes', 'wiki']);
});

test('any other server signs a time with it: old signatures are refused', { skip: noGit }, async (t) => {
	const { house, copy, add } = await setUp(t);
	copy.push({ 'jibe.json': '{"app":"notes","entry":"a.ts"}', 'a.ts': '' });
	await add({ forge: 'generic' });
	const body = JSON.stringify({ event: 'push', ref: 'refs/heads/main' });
	const sign = (at: number) => `t=${at},v1=${createHmac('sha256', SECRET).update(`${at}.${body}`).digest('hex')}`;
	const now = Math.floor(Date.now() / 1000);
	const told = (signature: string) => tell(house, body, { path: '/hooks/generic/notes', headers: { 'x-jibe-signature': signature } });
	assert.equal((await told(sign(now - 400))).status, 401);
	assert.equal((await told(sign(now + 400))).status, 401);
	assert.equal((await told(sign(now).replace(`t=${now}`, `t=${now + 1}`))).status, 401);
	assert.equal(did(await told(sign(now))), 'waits');
	assert.equal(did(await told(sign(now))), 'already');
	await until(async () => (await builds(house)).length === 1);
});

test('a repository that can’t be cloned is tried again where that may help, and says why', { skip: noGit }, async (t) => {
	const { house, forge, copy, add } = await setUp(t);
	copy.push({ 'jibe.json': '{"app":"notes","entry":"a.ts"}', 'a.ts': '' });
	await add();
	forge.wants = 'Basic nothing';
	await tell(house, push());
	const refused = await ended(house, /./);
	assert.deepEqual(
		[refused.state, refused.outcome!.startsWith('clone_unauthorised: 127.0.0.1 (team/notes) does not let Jibe read it')],
		['failed', true],
	);

	forge.wants = null;
	forge.instead = (request) => request.socket.destroy();
	await tell(house, push());
	await until(async () => {
		const { last } = await repository(house);
		return last?.state === 'waiting' && last.outcome?.startsWith('clone_unreachable');
	});
	assert.ok((await house.state.deliveries.waiting()).nextAt! > Date.now(), 'it is tried again later');

	await house.ask('POST', '/api/v1/outbound/removals', { json: { address: `127.0.0.1:${forge.port}` } });
	forge.asked.length = 0;
	await tell(house, push('other'));
	await until(async () => (await house.state.deliveries.of('notes', 10)).some(({ outcome }) => outcome?.startsWith('address_refused')));
	assert.deepEqual(forge.asked, []);
	assert.deepEqual(await builds(house), []);
});

test('what one control was told and did not finish, the next one does', { skip: noGit }, async (t) => {
	const { house, forge, copy, add } = await setUp(t);
	copy.push({ 'jibe.json': '{"app":"notes","entry":"a.ts"}', 'a.ts': '' });
	await add();
	// Claimed by one that died, whose lease has just run out.
	await house.state.deliveries.receive({ repository: 'notes', id: 'left', event: 'push', ref: 'refs/heads/main', detail: {} });
	assert.ok(await house.state.deliveries.claim('a control that is gone', 1));
	await house.restart();
	await until(async () => (await builds(house)).length === 1);
	assert.ok(forge.asked.length > 0);
});

const pull = (commit: string, of: { state?: string; from?: string; number?: number } = {}) => ({
	action: 'opened',
	number: of.number ?? 7,
	repository: { full_name: 'team/notes' },
	pull_request: {
		title: 'Make it better',
		state: of.state ?? 'open',
		user: { login: 'eve' },
		head: { sha: commit, ref: 'better', repo: { full_name: of.from ?? 'eve/notes' } },
		base: { repo: { full_name: 'team/notes' } },
	},
});

test('a pull request from a fork is built when a deployer says so, that commit alone, and without secrets', { skip: noGit }, async (t) => {
	const { house, copy, add } = await setUp(t);
	copy.push({ 'jibe.json': '{"app":"notes","entry":"a.ts"}', 'a.ts': '' });
	await add();
	const commitOf = (message: string) => {
		const commit = copy.git('commit-tree', '-m', message, '-p', 'HEAD', 'HEAD^{tree}');
		copy.git('push', '-q', '--force', 'origin', `${commit}:refs/pull/7/head`);
		return commit;
	};
	const first = commitOf('From a fork');
	await tell(house, pull(first), { event: 'pull_request' });
	await ended(house, /it is built when a deployer says so \(jibe repo approve notes 7 --commit/);
	assert.deepEqual(await builds(house), []);

	const approve = (commit: string, token?: string) =>
		house.ask('POST', '/api/v1/repositories/notes/pull-requests/7/approvals', {
			json: { commit },
			...(token === undefined ? {} : { token }),
		});
	const token = async (role: 'viewer' | 'deployer', apps: string[]) =>
		(await house.state.tokens.create({ name: role, role, apps, environments: null, expiresAt: null, by: 'test' })).secret;
	assert.equal((await approve(first, await token('viewer', ['notes']))).status, 403);
	assert.equal((await approve(first, await token('deployer', ['shop']))).status, 403);

	// It moves on between the look and the word.
	const second = commitOf('Something else');
	await tell(house, pull(second), { event: 'pull_request' });
	await until(async () => (await house.state.repositories.pullRequests('notes'))[0]?.commit === second);
	assert.equal((await approve(first)).json().error.code, 'pull_request_moved');
	assert.equal((await approve(second, await token('deployer', ['notes']))).status, 200);
	const [build] = await until(async () => {
		const all = await builds(house);
		return all.length > 0 ? all : null;
	});
	assert.deepEqual([build?.commit, build?.trust, build?.priority, build?.by], [second, 'fork', 'preview', 'token:deployer']);
	assert.match(build!.environment, /^pr-7-[0-9a-f]{6}$/);
	await house.ask('PUT', '/api/v1/apps/notes/secrets', {
		json: { environment: build!.environment, name: 'KEY', value: 'hunter22', stage: true },
	});
	const claimed = await house.state.builds.claim({ worker: 'w', platform: 'linux-x64-glibc', leaseMs: 30_000, limitMs: 60_000 });
	assert.equal(claimed?.trust, 'fork');

	// The next commit asks anew; and what comes from the repository itself is pushed there.
	const third = commitOf('One more');
	await tell(house, pull(third), { event: 'pull_request' });
	await until(async () => (await house.state.repositories.pullRequests('notes'))[0]?.commit === third);
	await until(async () => (await house.state.deliveries.waiting()).count === 0);
	assert.equal((await builds(house)).length, 1);
	await tell(house, pull(third, { from: 'team/notes', number: 8 }), { event: 'pull_request' });
	await ended(house, /built as such/);
	await tell(house, pull(third, { state: 'closed' }), { event: 'pull_request' });
	await until(async () => (await house.state.repositories.pullRequests('notes'))[0]?.state === 'closed');
	assert.equal((await approve(third)).json().error.code, 'pull_request_closed');
});

test(
	'of several apps in a repository those are built that a push concerns, and it says why the others are not',
	{ skip: noGit },
	async (t) => {
		const { house, copy, add } = await setUp(t);
		await house.obedientDepot().next('welcome');
		const apps = ['shop', 'web'].map((app) => ({ app, directory: `services/${app}` }));
		await add({ apps });
		const config = (app: string) => JSON.stringify({ app, entry: 'a.ts', watch: ['packages/shared/**'] });
		const files = { 'services/shop/jibe.json': config('shop'), 'services/web/jibe.json': config('web'), 'packages/shared/a.ts': '' };
		const first = copy.push(files);
		await tell(house, push());
		await until(async () => (await builds(house)).length === 2);
		// Both go live, as of that commit.
		for (const { app } of apps) {
			const git = { commit: first, branch: 'main', dirty: false, ancestors: [] };
			assert.equal((await house.deploy(app, { header: { git } })).status, 200);
		}
		for (const { id } of await builds(house)) await house.state.builds.halt(id, 'cancelled', 'test');

		copy.push({ 'services/web/b.ts': '', 'README.md': '' });
		await tell(house, push());
		await ended(house, new RegExp(`shop is not built: nothing changed in services/shop, packages/shared/\\*\\* since ${first.slice(0, 12)}, web is queued`)); // prettier-ignore
		copy.push({ 'packages/shared/a.ts': '// changed' });
		await tell(house, push());
		await ended(house, /shop is queued as dpl_\w+ \(production\), web is queued/);
	},
);

interface Api {
	url: string;
	port: number;
	told: { path: string; headers: IncomingHttpHeaders; body: Record<string, unknown> }[];
	answers: number[];
}

/** The part of a forge's API that records what it is told. */
async function startApi(t: TestContext): Promise<Api> {
	const api: Api = { url: '', port: 0, told: [], answers: [] };
	const server = createServer((request, response) => {
		const parts: Buffer[] = [];
		request.on('data', (part: Buffer) => parts.push(part));
		request.on('end', () => {
			const body = JSON.parse(Buffer.concat(parts).toString()) as Record<string, unknown>;
			api.told.push({ path: request.url ?? '', headers: request.headers, body });
			response.writeHead(api.answers.shift() ?? 201).end('{}');
		});
	});
	await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
	api.port = (server.address() as AddressInfo).port;
	api.url = `http://127.0.0.1:${api.port}`;
	t.after(() => {
		server.closeAllConnections();
		server.close();
	});
	return api;
}

test('what comes of a push is told to its forge, beside the commit, until the forge has it', { skip: noGit }, async (t) => {
	const { house, copy, add } = await setUp(t);
	const api = await startApi(t);
	await house.ask('PUT', '/api/v1/outbound', { json: { address: `127.0.0.1:${api.port}` } });
	const { events, builds: table } = house.state;
	const looked = t.mock.method(table, 'job');
	const entered = (deployment: string) => {
		const event = { at: 1, type: 'deployment.state', app: 'notes', environment: 'production', deployment };
		return events.add([
			{ ...event, data: { state: 'Deploying' } },
			{ ...event, data: { state: 'Deployed' } },
		]);
	};
	await entered('dpl_00000001');
	await until(async () => events.seen() === (await events.latest()));
	assert.equal(looked.mock.callCount(), 0, 'no repository has a forge that shows any');
	await add({ api: api.url, token: 'ghp_a-token-of-the-team' });
	await entered('dpl_00000002');
	await until(async () => looked.mock.callCount() > 0);
	assert.equal(looked.mock.callCount(), 1, 'a deployment is looked up once');
	api.answers = [503];
	const commit = copy.push({ 'jibe.json': '{"app":"notes","entry":"a.ts"}', 'a.ts': '' });
	await tell(house, push());
	await until(async () => api.told.length >= 2);
	const [refused, told] = api.told;
	assert.deepEqual(told?.body, refused?.body);
	assert.equal(told?.path, `/repos/team/notes/statuses/${commit}`);
	assert.equal(told?.headers.authorization, 'Bearer ghp_a-token-of-the-team');
	assert.deepEqual([told?.body['state'], told?.body['context']], ['pending', 'jibe/notes']);
	assert.match(String(told?.body['description']), /^notes waits for a builder \(dpl_/);
	const [build] = await builds(house);
	await house.state.builds.halt(build!.id, 'cancelled', 'test');
	await until(async () => api.told.some(({ body }) => body['state'] === 'error' && /was cancelled/.test(String(body['description']))));
	const audit = await house.ask('GET', '/api/v1/audit');
	assert.doesNotMatch(audit.text, /ghp_|a secret that/);
});

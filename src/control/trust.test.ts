import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { after, before, test } from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import { WebSocket } from 'ws';
import { sha256 } from '#digest/digest.ts';
import { UPLOAD_TYPE, encodeUpload } from '#wire/upload.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import { openControl } from './control.ts';
import { FILES, rootOf, startControl, uploadOf, type TestControl } from '../../test/fixtures/control.ts';

let cluster: TestCluster;
before(async () => {
	cluster = await startCluster();
});
after(() => cluster.stop());

const DEPLOYMENTS = '/api/v1/apps/notes/deployments';

test('nothing is answered without a token, with a wrong one, or with a revoked one', async (t) => {
	const house = await startControl(t, cluster);
	for (const path of ['/api/v1/apps', '/api/v1/regions', '/api/v1/tokens', '/metrics', '/api/v1/deployments']) {
		assert.equal((await house.ask('GET', path, { token: null })).status, 401, path);
		assert.equal((await house.ask('GET', path, { token: 'wrong' })).json().error.code, 'unauthenticated', path);
	}
	const made = await house.ask('POST', '/api/v1/tokens', {
		json: { name: 'ci', role: 'viewer', apps: null, environments: null, expiresInDays: null },
	});
	const { token, secret } = made.json<{ token: { id: string }; secret: string }>();
	assert.equal((await house.ask('GET', '/api/v1/apps', { token: secret })).status, 200);
	assert.equal((await house.ask('DELETE', `/api/v1/tokens/${token.id}`)).status, 204);
	assert.equal((await house.ask('GET', '/api/v1/apps', { token: secret })).status, 401);
	assert.equal((await house.ask('GET', `/blobs/${sha256('x')}`)).json().error.code, 'bad_credential');
});

test('a viewer changes nothing, a deployer only its apps and environments, and only admins make tokens', async (t) => {
	const house = await startControl(t, cluster);
	const viewer = await tokenOf(house, { role: 'viewer' });
	const deployer = await tokenOf(house, { role: 'deployer', apps: ['notes'], environments: ['staging'] });
	const forbidden = async (answer: ReturnType<TestControl['ask']>) => assert.equal((await answer).json().error.code, 'forbidden');
	await forbidden(house.deploy('notes', { token: viewer }));
	await forbidden(house.deploy('other', { token: deployer }));
	await forbidden(house.deploy('notes', { token: deployer, environment: 'production' }));
	const rollback = { environment: 'production', to: null, undo: null, again: false, reason: null };
	await forbidden(house.ask('POST', '/api/v1/apps/notes/rollbacks', { token: deployer, json: rollback }));
	await forbidden(house.ask('GET', '/api/v1/tokens', { token: deployer }));
	await forbidden(house.ask('POST', '/api/v1/credentials', { token: deployer, json: { role: 'edge', server: 'x', regions: ['fra'] } }));
	await forbidden(house.ask('DELETE', '/api/v1/apps/notes', { token: deployer }));
	await forbidden(house.ask('GET', '/api/v1/apps/other/status', { token: deployer }));
	assert.deepEqual(await house.state.apps.list(), []);
});

test('every change is in the audit with who made it', async (t) => {
	const house = await startControl(t, cluster);
	await tokenOf(house, { role: 'viewer' });
	await house.ask('POST', '/api/v1/credentials', { json: { role: 'depot', server: 'local', regions: ['fra'] } });
	await house.ask('PUT', '/api/v1/apps/notes/env', { json: { environment: 'production', set: { A: '1' }, unset: [], stage: true } });
	await house.obedientDepot().next('welcome');
	await house.deploy('notes');
	const { entries } = (await house.ask('GET', '/api/v1/audit')).json<{ entries: { action: string; by: string }[] }>();
	const actions = entries.map(({ action, by }) => `${action} ${by}`);
	for (const action of ['token.created', 'credential.issued', 'env.changed', 'deployment.created']) {
		assert.ok(actions.includes(`${action} token:admin`), `${action} in ${actions.join(', ')}`);
	}
	assert.doesNotMatch(JSON.stringify(entries), new RegExp(house.admin));
});

test('a page of another site is refused, and so is a name that was pointed at this address', async (t) => {
	const house = await startControl(t, cluster);
	const session = await signIn(house);
	const cross = await house.ask('GET', '/api/v1/apps', { token: null, headers: { origin: 'http://evil.example', cookie: session } });
	assert.equal(cross.json().error.code, 'cross_site');
	const sent = await house.ask('POST', '/api/v1/logins', { token: null, headers: { 'sec-fetch-site': 'cross-site', cookie: session } });
	assert.equal(sent.status, 403);
	// An app on another port of this machine is another site too.
	const neighbour = await house.ask('POST', '/api/v1/logins', {
		token: null,
		headers: { origin: 'http://127.0.0.1:8080', cookie: session },
	});
	assert.equal(neighbour.status, 403);
	assert.equal((await rawGet(house, '/api/v1/apps', { host: 'evil.example', authorization: `Bearer ${house.admin}` })).status, 421);
	assert.equal((await rawGet(house, '/api/v1/apps', { host: 'localhost:1', authorization: `Bearer ${house.admin}` })).status, 200);
	const tricks: Record<string, string>[] = [{ origin: 'http://evil.example' }, { host: 'evil.example' }];
	for (const trick of tricks) {
		const headers = { ...trick, cookie: session };
		assert.ok([403, 421].includes(await refusedSocket(`${house.control.url.replace('http', 'ws')}/api/v1/events`, headers)));
	}
	assert.equal(await refusedSocket(`${house.control.url.replace('http', 'ws')}/api/v1/events`, {}), 401);
	assert.equal(await refusedSocket(`${house.control.url.replace('http', 'ws')}/link`, { authorization: `Bearer ${house.admin}` }), 401);
});

test('a one-time link signs in once, with a cookie that scripts and other sites never see', async (t) => {
	const house = await startControl(t, cluster);
	const { url } = (await house.ask('POST', '/api/v1/logins')).json<{ url: string }>();
	const path = url.slice(house.control.url.length);
	const first = await house.ask('GET', path, { token: null });
	assert.match(first.headers.get('set-cookie') ?? '', /^jibe_session=[^;]+; Path=\/; HttpOnly; SameSite=Strict; Max-Age=\d+$/);
	assert.match((await house.ask('GET', path, { token: null })).text, /used before/);
	const cookie = (first.headers.get('set-cookie') ?? '').split(';', 1)[0]!;
	const page = await house.ask('GET', '/', { token: null, headers: { cookie } });
	assert.match(page.text, /Deployments/);
	assert.match(page.headers.get('content-security-policy') ?? '', /default-src 'none'/);
	assert.doesNotMatch((await house.ask('GET', '/', { token: null })).text, /Deployments/);
	assert.equal((await house.ask('POST', '/logout', { token: null, headers: { cookie, origin: house.control.url } })).status, 200);
	assert.doesNotMatch((await house.ask('GET', '/', { token: null, headers: { cookie } })).text, /Deployments/);
});

test('a body that is too large is refused without being read to its end', async (t) => {
	const house = await startControl(t, cluster);
	const declared = await rawPost(house, DEPLOYMENTS, { 'content-length': String(65 * 1024 * 1024) }, []);
	assert.equal(declared.status, 413);
	const chunk = Buffer.alloc(1024 * 1024);
	const endless = await rawPost(
		house,
		DEPLOYMENTS,
		{ 'transfer-encoding': 'chunked' },
		Array.from({ length: 80 }, () => chunk),
	);
	assert.equal(endless.status, 413);
	assert.equal((await house.ask('GET', '/healthz')).status, 200);
});

test('an upload that is tampered with, cut short, a bomb, or not an upload is refused and leaves nothing', async (t) => {
	const house = await startControl(t, cluster);
	const good = uploadOf('notes');
	const bomb = Buffer.from(zstdCompressSync(Buffer.alloc(200 * 1024 * 1024)));
	const send = (body: Buffer<ArrayBuffer>, type = UPLOAD_TYPE) => house.ask('POST', DEPLOYMENTS, { body, type });
	const code = async (body: Buffer<ArrayBuffer>) => {
		const answer = await send(body);
		return `${answer.status} ${answer.json().error.code}`;
	};
	assert.equal(await code(good.subarray(0, good.length - 9)), '400 bad_upload');
	assert.equal(await code(bomb), '400 bad_upload');
	assert.equal(await code(Buffer.from('{}')), '400 bad_upload');
	assert.equal((await send(good, 'application/json')).status, 415);
	const otherBytes = uploadOf('notes', { blobs: [Buffer.from('tampered with!!!'), Buffer.from('export default {}')] });
	assert.equal(await code(otherBytes), '409 blobs_missing');
	assert.equal(await code(uploadOf('notes', { header: { artifact: sha256('another root') } })), '422 root_mismatch');
	assert.equal(
		await code(uploadOf('notes', { header: { manifest: { base: sha256('never seen'), set: {}, delete: [] } } })),
		'409 base_unknown',
	);
	assert.equal(await code(uploadOf('notes', { header: { vendor: sha256('never seen') } })), '409 base_unknown');
	const escape = { base: null, set: { '../../etc/passwd': [sha256('x'), 1, false] }, delete: [] };
	assert.equal(await code(uploadOf('notes', { header: { manifest: escape } })), '422 bad_path');
	const sized = { base: null, set: { 'a.ts': [sha256('x'), 99, false] }, delete: [] };
	assert.match(await code(uploadOf('notes', { header: { manifest: sized } })), /^422/);
	assert.equal(await code(uploadOf('other')), '422 app_mismatch');
	assert.equal(await code(uploadOf('notes', { config: { regions: ['mars'] } })), '422 unknown_region');
	assert.equal(await code(uploadOf('notes', { header: { git: 3 } })), '400 bad_request');
	assert.deepEqual([...house.store.digests()], []);
	assert.deepEqual(await house.state.deployments.history({ limit: 10 }), []);
});

test('blobs belong to the app that sent them: another app can neither use nor find them', async (t) => {
	const house = await startControl(t, cluster);
	await house.obedientDepot().next('welcome');
	await house.deploy('notes');
	const digests = Object.values(FILES).map((text) => sha256(text));
	const have = (app: string) => house.ask('POST', `/api/v1/apps/${app}/missing`, { json: { digests } });
	assert.deepEqual((await have('notes')).json(), { missing: [] });
	assert.deepEqual((await have('other')).json(), { missing: digests });
	const stolen = await house.deploy('other', { blobs: [] });
	assert.equal(stolen.json().error.code, 'blobs_missing');
	const base = await house.deploy('other', { base: FILES, blobs: [] });
	assert.equal(base.json().error.code, 'base_unknown');
	const stored = await house.ask('PUT', '/api/v1/apps/other/blobs', {
		body: Buffer.from(encodeUpload({}, Object.values(FILES).map((text) => Buffer.from(text)))), // prettier-ignore
		type: UPLOAD_TYPE,
	});
	assert.deepEqual(stored.json(), { stored: 2 });
	assert.equal((await house.deploy('other', { blobs: [] })).status, 200);
});

test('what the store lost is asked for again', async (t) => {
	const house = await startControl(t, cluster);
	await house.obedientDepot().next('welcome');
	await house.deploy('notes');
	const lost = sha256(FILES['index.json']);
	await house.store.delete([lost]);
	const edited = { ...FILES, 'modules/src/server.ts': 'export default 2' };
	const answer = await house.deploy('notes', { files: edited, base: FILES });
	assert.deepEqual(answer.json().error.data, { missing: [lost] });
	const again = await house.deploy('notes', { files: edited, blobs: Object.values(edited).map((text) => Buffer.from(text)) });
	assert.equal(again.status, 200);
});

test('depots read blobs and trees with their credential, and nobody else does', async (t) => {
	const house = await startControl(t, cluster);
	await house.obedientDepot().next('welcome');
	await house.deploy('notes');
	const credentialOf = async (role: string) =>
		(await house.ask('POST', '/api/v1/credentials', { json: { role, server: 'local', regions: ['fra'] } })).json<{ credential: string }>()
			.credential;
	const depot = await credentialOf('depot');
	const digest = sha256(FILES['index.json']);
	assert.equal((await house.ask('GET', `/blobs/${digest}`, { token: depot })).text, FILES['index.json']);
	const tree = (await house.ask('GET', `/trees/${rootOf(FILES)}`, { token: depot })).json<{ set: object }>();
	assert.deepEqual(Object.keys(tree.set), Object.keys(FILES));
	assert.equal((await house.ask('GET', `/blobs/${sha256('absent')}`, { token: depot })).status, 404);
	assert.equal((await house.ask('GET', `/blobs/${digest}`, { token: await credentialOf('agent') })).status, 401);
	assert.equal((await house.ask('GET', '/api/v1/apps', { token: depot })).status, 401);
});

test('nonsense is answered with 4xx and control lives on', async (t) => {
	const house = await startControl(t, cluster);
	assert.equal((await house.ask('GET', '/nothing/here')).json().error.code, 'not_found');
	assert.equal((await house.ask('GET', '/api/v1/apps/UPPER/status')).status, 400);
	assert.equal((await house.ask('GET', '/api/v1/apps/notes/status')).json().error.code, 'app_unknown');
	assert.equal((await house.ask('GET', '/api/v1/deployments/dpl_00000000')).status, 404);
	assert.equal((await house.ask('GET', '/api/v1/deployments?limit=-3')).status, 400);
	assert.equal((await house.ask('POST', '/api/v1/tokens', { json: { name: '' } })).status, 400);
	assert.equal((await house.ask('POST', '/api/v1/tokens', { body: Buffer.from('{'), type: 'application/json' })).status, 400);
	assert.equal((await house.ask('GET', '/blobs/sha256:short', { token: 'x' })).status, 401);
	assert.match(
		await rawBytes(house, 'GET // HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n'),
		/^HTTP\/1.1 404/,
	);
	assert.match(await rawBytes(house, 'GET / HTTP/1.1\r\n\r\n'), /^HTTP\/1.1 (400|421)/);
	assert.match(await rawBytes(house, `GET / HTTP/1.1\r\nhost: localhost\r\nx: ${'y'.repeat(20_000)}\r\n\r\n`), /^HTTP\/1.1 431/);
	assert.equal((await house.ask('GET', '/readyz', { token: null })).status, 200);
});

test('control refuses to listen beyond loopback', async () => {
	await assert.rejects(openControl({ address: '0.0.0.0' } as never), /loopback only/);
});

async function tokenOf(house: TestControl, of: { role: string; apps?: string[]; environments?: string[] }): Promise<string> {
	const json = { name: of.role, role: of.role, apps: of.apps ?? null, environments: of.environments ?? null, expiresInDays: 1 };
	return (await house.ask('POST', '/api/v1/tokens', { json })).json<{ secret: string }>().secret;
}

async function signIn(house: TestControl): Promise<string> {
	const { url } = (await house.ask('POST', '/api/v1/logins')).json<{ url: string }>();
	const answer = await house.ask('GET', url.slice(house.control.url.length), { token: null });
	return (answer.headers.get('set-cookie') ?? '').split(';', 1)[0]!;
}

/** With headers that `fetch` does not let one set. */
function rawGet(house: TestControl, path: string, headers: Record<string, string>): Promise<{ status: number }> {
	return new Promise((resolve, reject) => {
		const asking = httpRequest(house.control.url + path, { headers, agent: false }, (response) => {
			response.resume();
			response.on('end', () => resolve({ status: response.statusCode ?? 0 }));
		});
		asking.on('error', reject).end();
	});
}

function rawPost(house: TestControl, path: string, headers: Record<string, string>, parts: Buffer[]): Promise<{ status: number }> {
	return new Promise((resolve, reject) => {
		const all = { authorization: `Bearer ${house.admin}`, 'content-type': UPLOAD_TYPE, ...headers };
		const asking = httpRequest(house.control.url + path, { method: 'POST', headers: all, agent: false }, (response) => {
			resolve({ status: response.statusCode ?? 0 });
			asking.destroy();
		});
		// The answer comes while parts are still being sent; then the connection goes.
		asking.on('error', reject);
		asking.flushHeaders();
		for (const part of parts) asking.write(part);
	});
}

async function rawBytes(house: TestControl, text: string): Promise<string> {
	const { port } = new URL(house.control.url);
	const socket = connect(Number(port), '127.0.0.1');
	socket.setEncoding('utf8');
	let answer = '';
	socket.on('data', (part: string) => {
		answer += part;
		socket.end();
	});
	socket.write(text);
	await once(socket, 'close');
	return answer;
}

function refusedSocket(url: string, headers: Record<string, string>): Promise<number> {
	const socket = new WebSocket(url, { headers });
	return new Promise((resolve, reject) => {
		socket.on('open', () => reject(new Error('was let in')));
		socket.on('error', reject);
		socket.on('unexpected-response', (_request, response) => {
			response.resume();
			resolve(response.statusCode ?? 0);
		});
	});
}

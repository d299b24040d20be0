import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { AppStatus, Deployment, ProgressLine } from '#wire/api.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import { FILES, startControl } from '../../test/fixtures/control.ts';

let cluster: TestCluster;
before(async () => {
	cluster = await startCluster();
});
after(() => cluster.stop());

const EDITED = { ...FILES, 'modules/src/server.ts': 'export default { edited: true }' };
const QUICK = { strategy: { type: 'walk' as const, watch: '0s' } };

test('a deploy streams its progress until it is live everywhere, an edit goes as a delta, and a rollback brings the first back', async (t) => {
	const house = await startControl(t, cluster);
	const depot = house.obedientDepot();
	await depot.next('welcome');

	const first = resultOf(await house.deploy('notes', { config: QUICK }));
	assert.equal(first.state, 'Deployed', JSON.stringify(first));
	assert.deepEqual(first.regions.map(({ name, state }) => [name, state]), [['fra', 'live'], ['ams', 'live']]); // prettier-ignore
	const gift = depot.messages.find((message) => message.type === 'wants')?.gift;
	assert.equal(gift?.artifact, first.artifact);
	assert.equal(Object.keys(gift?.blobs ?? {}).length, 2);

	const answer = await house.deploy('notes', { files: EDITED, base: FILES, config: QUICK });
	const second = resultOf(answer);
	assert.equal(second.release, first.release + 1);
	const states = answer
		.lines<ProgressLine>()
		.flatMap((line) => ('event' in line && line.event.type === 'deployment.state' ? [line.event.data['state']] : []));
	assert.deepEqual(states.slice(-3), ['CanaryCheck', 'RollingOut', 'Deployed']);

	const status = (await house.ask('GET', '/api/v1/apps/notes/status')).json<AppStatus>();
	assert.equal(status.serving, second.release);
	assert.deepEqual(status.regions.map(({ state }) => state), ['live', 'live']); // prettier-ignore
	assert.equal(status.rollbackTo?.release, first.release);
	assert.equal(status.url, 'http://notes.localhost:8080');

	const rollback = { environment: 'production', to: null, undo: null, again: false, reason: null };
	const back = resultOf(await house.ask('POST', '/api/v1/apps/notes/rollbacks', { json: rollback }));
	assert.equal(back.kind, 'rollback');
	assert.equal(back.release, first.release);
	const { deployments } = (await house.ask('GET', '/api/v1/deployments?app=notes')).json<{ deployments: Deployment[] }>();
	assert.deepEqual(deployments.map(({ kind }) => kind), ['rollback', 'deploy', 'deploy']); // prettier-ignore
});

test('the same artifact and config again answers at once', async (t) => {
	const house = await startControl(t, cluster);
	await house.obedientDepot().next('welcome');
	const first = resultOf(await house.deploy('notes', { config: QUICK }));
	const lines = (await house.deploy('notes', { base: FILES, config: QUICK })).lines<ProgressLine>();
	assert.equal(lines.length, 1);
	assert.deepEqual(lines.map((line) => 'result' in line && [line.result.id, line.already]), [[first.id, true]]); // prettier-ignore
});

test('several deploys of one app at once: one is live in the end, and every stream ends', async (t) => {
	const house = await startControl(t, cluster);
	await house.obedientDepot().next('welcome');
	const versions = [1, 2, 3, 4, 5].map((n) => ({ ...FILES, 'modules/src/server.ts': `export default ${n}` }));
	const results = (await Promise.all(versions.map((files) => house.deploy('notes', { files, config: QUICK })))).map(resultOf);
	const live = results.filter(({ state }) => state === 'Deployed');
	assert.ok(live.length >= 1);
	for (const { state } of results) assert.ok(['Deployed', 'Superseded'].includes(state), state);
	const { serving } = (await house.ask('GET', '/api/v1/apps/notes/status')).json<AppStatus>();
	assert.equal(serving, Math.max(...live.map(({ release }) => release)));
});

test('the same deploy sent several times at once is one deployment', async (t) => {
	const house = await startControl(t, cluster);
	await house.obedientDepot().next('welcome');
	const answers = await Promise.all([1, 2, 3, 4].map(() => house.deploy('notes', { config: QUICK })));
	assert.equal(new Set(answers.map((answer) => resultOf(answer).id)).size, 1);
	const { deployments } = (await house.ask('GET', '/api/v1/deployments?app=notes')).json<{ deployments: Deployment[] }>();
	assert.deepEqual(deployments.map(({ state }) => state), ['Deployed']); // prettier-ignore
});

test('env set makes a release of the same artifact; staged, it waits for the next deploy', async (t) => {
	const house = await startControl(t, cluster);
	const depot = house.obedientDepot();
	await depot.next('welcome');
	const first = resultOf(await house.deploy('notes', { config: { ...QUICK, env: { A: 'file', B: 'file' } } }));
	const change = { environment: 'production', set: { A: 'set' }, unset: [], stage: false };
	const second = resultOf(await house.ask('PUT', '/api/v1/apps/notes/env', { json: change }));
	assert.equal(second.artifact, first.artifact);
	assert.equal(second.release, first.release + 1);
	const { env } = (await house.state.deployments.releases('notes', [second.release]))[0]!;
	assert.deepEqual([env['A'], env['B']], ['set', 'file']);
	const staged = await house.ask('PUT', '/api/v1/apps/notes/env', { json: { ...change, set: { C: 'later' }, stage: true } });
	assert.deepEqual(staged.json(), { values: { A: 'set', C: 'later' }, staged: ['C'] });
});

test('a domain belongs to the app that claimed it first', async (t) => {
	const house = await startControl(t, cluster);
	await house.obedientDepot().next('welcome');
	resultOf(await house.deploy('notes', { config: { ...QUICK, domains: ['notes.example.com'] } }));
	const taken = await house.deploy('other', { config: { ...QUICK, domains: ['notes.example.com'] } });
	assert.equal(taken.status, 409);
	assert.equal(taken.json().error.code, 'domain_taken');
	const reserved = await house.deploy('other', { config: { ...QUICK, domains: ['localhost'] } });
	assert.equal(reserved.json().error.code, 'domain_reserved');
	assert.equal((await house.ask('DELETE', '/api/v1/apps/notes')).status, 204);
	resultOf(await house.deploy('other', { config: { ...QUICK, domains: ['notes.example.com'] } }));
});

test('an app that is removed is gone from the list, and its history stays', async (t) => {
	const house = await startControl(t, cluster);
	const depot = house.obedientDepot();
	await depot.next('welcome');
	resultOf(await house.deploy('notes', { config: QUICK }));
	assert.equal((await house.ask('DELETE', '/api/v1/apps/notes')).status, 204);
	assert.deepEqual((await house.ask('GET', '/api/v1/apps')).json(), { apps: [] });
	assert.equal((await house.ask('DELETE', '/api/v1/apps/notes')).status, 404);
	const { deployments } = (await house.ask('GET', '/api/v1/deployments?app=notes')).json<{ deployments: Deployment[] }>();
	assert.equal(deployments.length, 1);
	assert.ok(depot.messages.some((message) => message.type === 'wants' && message.wants.every((want) => want.removed)));
});

test('a restarted control goes on with a deployment that was walking', async (t) => {
	const house = await startControl(t, cluster);
	const depot = house.depot();
	await depot.next('welcome');
	const { result } = (await house.deploy('notes', { config: QUICK, detach: true })).lines<{ result: Deployment }>()[0]!;
	assert.equal(result.state, 'Deploying');
	await depot.next('wants');
	depot.link.close();
	await house.restart();
	const back = house.obedientDepot();
	await back.next('wants');
	const ended = Promise.withResolvers<Deployment>();
	house.control.house.driver.watch((deployment) => deployment.state === 'Deployed' && ended.resolve(deployment));
	const now = (await house.ask('GET', `/api/v1/deployments/${result.id}`)).json<{ deployment: Deployment }>().deployment;
	assert.equal(now.state === 'Deployed' ? now.id : (await ended.promise).id, result.id);
});

test('a region that is ahead of the database makes its app read-only, until an admin recovers it', async (t) => {
	const house = await startControl(t, cluster);
	const first = house.obedientDepot();
	await first.next('welcome');
	resultOf(await house.deploy('notes', { config: QUICK }));
	first.link.close();
	const key = { region: 'fra', app: 'notes', environment: 'production' };
	const ahead = house.depot(undefined, [{ ...key, epoch: 1, version: 1_000 }]);
	const known = Promise.withResolvers<void>();
	house.control.house.hub.subscribe((event) => event.type === 'ahead' && known.resolve());
	await known.promise;
	const edited = { ...FILES, 'modules/src/server.ts': 'export default 2' };
	assert.equal((await house.deploy('notes', { files: edited, base: FILES })).json().error.code, 'read_only');
	const { epoch } = (await house.ask('POST', '/api/v1/apps/notes/recoveries')).json<{ epoch: number }>();
	for (;;) {
		const { wants } = await ahead.next('wants');
		if (wants.some((want) => want.region === 'fra' && want.epoch === epoch)) break;
	}
	ahead.link.close();
	await house.obedientDepot().next('welcome');
	assert.equal(resultOf(await house.deploy('notes', { files: edited, base: FILES, config: QUICK })).state, 'Deployed');
	assert.equal((await house.ask('POST', '/api/v1/apps/notes/recoveries')).json().error.code, 'nothing_to_recover');
});

test('the OpenAPI document describes the table that is served', async (t) => {
	const house = await startControl(t, cluster);
	const document = (await house.ask('GET', '/openapi.json', { token: null })).json<{
		openapi: string;
		paths: Record<string, Record<string, { security?: object[] }>>;
	}>();
	assert.equal(document.openapi, '3.1.0');
	assert.ok(document.paths['/api/v1/apps/{app}/deployments']?.['post']);
	assert.ok(document.paths['/blobs/{digest}']?.['get']);
	// What comes there is a machine without a token: it proves itself by its key.
	const servers = ['/api/v1/servers/join', '/api/v1/servers/check-in', '/api/v1/servers/package'];
	// And there somebody who is to get a token, or brings one.
	const proving = [...servers, '/api/v1/sign-ins', '/api/v1/sign-ins/mine', '/api/v1/sessions'];
	for (const [path, operations] of Object.entries(document.paths)) {
		if (path.startsWith('/api/') && !proving.includes(path))
			for (const operation of Object.values(operations)) assert.ok(operation.security, path);
	}
});

test('metrics count what edges and the driver say', async (t) => {
	const house = await startControl(t, cluster);
	const depot = house.obedientDepot();
	await depot.next('welcome');
	const { release } = resultOf(await house.deploy('notes', { config: QUICK }));
	const counted = Promise.withResolvers<void>();
	house.control.house.hub.subscribe((event) => event.type === 'stats' && counted.resolve());
	const row = {
		region: 'fra',
		app: 'notes',
		environment: 'production',
		release,
		instance: 'i',
		slots: {},
		requests: 7,
		errors: 2,
		latency: {},
	};
	depot.link.send({ type: 'stats', edge: 'edge-0', second: 1, rows: [row] });
	await counted.promise;
	const { text } = await house.ask('GET', '/metrics');
	assert.match(text, new RegExp(`jibe_requests_total\\{app="notes",environment="production",region="fra",release="${release}"\\} 7`));
	assert.match(text, /jibe_errors_total\{.*\} 2/);
	assert.match(text, /jibe_deployments_total\{kind="deploy",state="Deployed"\} 1/);
	assert.match(text, /jibe_region_connected\{region="fra"\} 1/);
});

function resultOf(answer: { status: number; text: string; lines<T>(): T[] }): Deployment {
	assert.equal(answer.status, 200, answer.text);
	const last = answer.lines<ProgressLine>().at(-1)!;
	assert.ok('result' in last, answer.text);
	return last.result;
}

import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { AppStatus, Deployment } from '#wire/api.ts';
import type { BuildView } from '#wire/builds.ts';
import { EXIT } from './failure.ts';
import { deploymentOf, openStage, temporary, type Stage } from './fixture.ts';
import { OPTIONS } from './help.ts';
import { GROUPS, LATER, VERBS } from './verbs.ts';

const STATUS: AppStatus = {
	app: 'notes',
	environment: 'production',
	url: 'http://notes.localhost:8080',
	serving: 42,
	commit: '0123456789abcdef',
	deployment: deploymentOf(),
	watching: true,
	rollbackTo: { release: 41, warm: false, estimateMs: 1500 },
	readOnly: null,
	regions: [
		{
			region: 'fra',
			state: 'live',
			reason: null,
			wanted: { epoch: 1, version: 3, pointer: { primary: 42, candidate: null, hold: null } },
			applied: { epoch: 1, version: 3 },
			instances: [{ server: 'local', release: 42, state: 'serving', healthy: true, pid: 7, restarts: 0, reason: null }],
			warmRelease: null,
		},
	],
};
const REGIONS = {
	regions: [{ name: 'fra', state: 'connected', lastSeenAt: 1, servers: 1, edges: 2, edgeUrl: 'http://127.0.0.1:8080' }],
};

test('every verb loads, and help knows each of them', async (t) => {
	const stage = await openStage(t);
	for (const [name, { usage, load }] of Object.entries(VERBS)) {
		const { verb } = await load();
		assert.equal(typeof verb.run, 'function', name);
		assert.ok(usage.startsWith(name), `the usage of ${name} begins with its name`);
	}
	const { out } = await stage.jibe('help');
	for (const { usage } of Object.values(VERBS)) assert.ok(out.includes(`jibe ${usage}`));
	assert.match((await stage.jibe('help', 'token')).out, /token create NAME/);
	assert.match((await stage.jibe('deploy', '--help')).out, /^ {2}jibe deploy \[DIR\][^]*--force {5}deploy although/);
	for (const { load } of Object.values(VERBS)) {
		for (const name of Object.keys((await load()).verb.syntax.options)) assert.ok(OPTIONS[name], `help tells what --${name} means`);
	}
	assert.equal((await stage.jibe('version', '--json')).json['node'], process.versions.node);
});

test('an unknown verb is answered with the nearest, one of a later version with that', async (t) => {
	const stage = await openStage(t);
	const says = async (...words: string[]) => (await stage.jibe(...words)).err;
	assert.equal((await stage.jibe('deply')).exit, EXIT.usage);
	assert.match(await says('deply'), /✗ unknown verb "deply"\n {2}did you mean jibe deploy\?/);
	assert.match(await says('token', 'make'), /jibe token needs one of: create, list, revoke/);
	for (const verb of LATER) assert.match(await says(verb), new RegExp(`jibe ${verb} is not in this version`));
	for (const group of ['config', 'env', 'token', 'app', 'region', 'server', 'agent', 'control']) assert.ok(GROUPS.has(group), group);
});

test('status and history say what serves, in words and as JSON', async (t) => {
	const stage = await openStage(t, {
		'GET /api/v1/apps/notes/status': STATUS,
		'GET /api/v1/deployments': {
			deployments: [deploymentOf({ state: 'RolledBack', reason: 'gate_failed', commit: 'fedcba9876543210', dirty: true })],
		},
	});
	const status = await stage.jibe('status', 'notes', '--env', 'staging');
	assert.equal(stage.asked[0]?.what, 'GET /api/v1/apps/notes/status?environment=staging');
	assert.match(status.out, /^notes \(production\) serves v42 from 0123456789\n→ http:\/\/notes\.localhost:8080\n/);
	assert.match(status.out, /watching: harm still swings it back\nrollback goes to v41, from disk: about 1\.5s/);
	assert.match(status.out, /fra {5}live {3}v42 {5}v42 serving/);
	assert.deepEqual((await stage.jibe('status', 'notes', '--json')).json, JSON.parse(JSON.stringify(STATUS)));
	const [fra] = STATUS.regions;
	const one = fra!.instances[0]!;
	const instances = [{ ...one, state: 'starting', healthy: false }, { ...one, healthy: false, reason: 'unhealthy' }, { ...one, state: 'warm', reason: 'unhealthy' }]; // prettier-ignore
	stage.answers['GET /api/v1/apps/notes/status'] = { ...STATUS, regions: [{ ...fra, instances }] };
	assert.match((await stage.jibe('status', 'notes')).out, /v42 starting; v42 serving, unhealthy; v42 warm$/m);
	const there = ['web-1', 'web-1', 'web-2'].map((server) => ({ ...one, server }));
	stage.answers['GET /api/v1/apps/notes/status'] = { ...STATUS, regions: [{ ...fra, instances: there, stranded: 'web-3 is full' }] };
	assert.match((await stage.jibe('status', 'notes')).out, /! fra: web-3 is full\n[^]*3 v42 serving on web-1 \(2\), web-2$/m);
	const history = await stage.jibe('history', 'notes', '--limit', '5');
	assert.equal(stage.asked.at(-1)?.what, 'GET /api/v1/deployments?environment=production&limit=5&app=notes');
	assert.match(history.out, /dpl_7m4k92xy .* notes {2}deploy {2}v42 {6}RolledBack \(gate_failed\) {2}0\.1s {2}fedcba9876\+ {2}token:admin/);
});

test('cancel says what it did to the deployment', async (t) => {
	const cancelled = (state: Deployment['state']) => ({ deployment: deploymentOf({ state }) });
	const stage = await openStage(t, { 'POST /api/v1/deployments/dpl_7m4k92xy/cancel': cancelled('Cancelled') });
	assert.match((await stage.jibe('cancel', 'dpl_7m4k92xy')).out, /Cancelled dpl_7m4k92xy +\(nothing had moved\)/);
	assert.equal((await stage.jibe('cancel')).exit, EXIT.usage);
	for (const verb of ['cancel', 'rollback'])
		assert.match((await stage.jibe(verb, 'dpl_oops')).err, /"dpl_oops" is not the id of a deployment/);
});

test('lists of apps, regions and tokens; a token is made and revoked', async (t) => {
	const stage = await openStage(t, {
		'GET /api/v1/apps': { apps: [{ app: 'notes', environments: [{ environment: 'production', serving: null, url: 'http://x' }] }] },
		'GET /api/v1/regions': REGIONS,
		'GET /api/v1/tokens': {
			tokens: [
				{
					id: 't1',
					name: 'ci',
					role: 'deployer',
					apps: ['notes'],
					environments: null,
					createdAt: 1,
					expiresAt: 5,
					revokedAt: null,
					lastUsedAt: null,
				},
			],
		},
		'POST /api/v1/tokens': { token: { id: 't1' }, secret: 'jibe_t1_x' },
		'DELETE /api/v1/tokens/t1': (_request, response) => response.writeHead(204).end(),
		'DELETE /api/v1/apps/notes': (_request, response) => response.writeHead(204).end(),
	});
	assert.match((await stage.jibe('app', 'list')).out, /notes {2}production {3}- /);
	assert.match((await stage.jibe('status')).out, /notes/, 'without an app: all of them');
	assert.match((await stage.jibe('region', 'list')).out, /fra {5}connected {2}1 {8}2/);
	assert.match((await stage.jibe('token', 'list')).out, /t1 {2}ci .*notes .*never {2}expired/);
	assert.equal((await stage.jibe('token', 'create', 'ci', '--apps', 'notes,web', '--days', '3')).out, 'jibe_t1_x\n');
	assert.deepEqual(JSON.parse(stage.asked.at(-1)?.body ?? ''), {
		name: 'ci',
		role: 'deployer',
		apps: ['notes', 'web'],
		environments: null,
		expiresInDays: 3,
	});
	assert.equal((await stage.jibe('token', 'create', 'ci', '--role', 'king')).exit, EXIT.usage);
	assert.equal((await stage.jibe('token', 'revoke', 't1')).exit, EXIT.done);
	assert.equal((await stage.jibe('app', 'remove', 'notes')).exit, EXIT.usage, 'asks for --yes');
	assert.equal((await stage.jibe('app', 'remove', 'notes', '--yes')).exit, EXIT.done);
});

test('env is listed, staged, and set by a deployment', async (t) => {
	const path = '/api/v1/apps/notes/env';
	const stage = await openStage(t, {
		[`GET ${path}`]: { values: { LOG: 'info', PAGE: '20' }, staged: ['PAGE'] },
		[`PUT ${path}`]: { values: { A: 'b=c' }, staged: ['A'] },
	});
	assert.equal((await stage.jibe('env', 'list', 'notes')).out, 'LOG=info\nPAGE=20   (from the next deploy on)\n');
	assert.match((await stage.jibe('env', 'set', 'A=b=c', '--app', 'notes', '--stage')).out, /✓ Staged A/);
	assert.deepEqual(JSON.parse(stage.asked.at(-1)?.body ?? ''), { environment: 'production', set: { A: 'b=c' }, unset: [], stage: true });
	assert.match((await stage.jibe('env', 'set', 'A=b', '--app', 'notes')).out, /✓ Set A +\(notes serves nothing yet in production\)/);
	stage.answers[`PUT ${path}`] = [{ result: deploymentOf(), already: false }];
	assert.match((await stage.jibe('env', 'rm', 'A', '--app', 'notes')).out, /→ http:\/\/notes\.localhost:8080/);
	assert.equal((await stage.jibe('env', 'set', '=x', '--app', 'notes')).exit, EXIT.usage);
	assert.equal((await stage.jibe('env', 'rm', 'not-a-name', '--app', 'notes')).exit, EXIT.usage);
});

const BUILD: BuildView = {
	id: 'dpl_b00b00b0',
	app: 'notes',
	environment: 'production',
	kind: 'deploy',
	lane: 'notes',
	directory: '',
	commit: 'fedcba9876543210fedcba9876543210fedcba98',
	branch: 'main',
	author: null,
	subject: null,
	trust: 'production',
	priority: 'production',
	platform: null,
	by: 'token:ann',
	why: null,
	force: false,
	now: false,
	artifact: null,
	verifies: null,
	state: 'Building',
	reason: null,
	detail: null,
	attempt: 1,
	worker: 'local/7',
	dead: false,
	createdAt: Date.UTC(2026, 10, 21),
	endedAt: null,
	stages: [
		{ state: 'Queued', at: 1_000 },
		{ state: 'Building', at: 3_500 },
	],
	steps: [
		{
			name: 'compile',
			kind: 'compile',
			state: 'running',
			cached: false,
			startedAt: 1,
			endedAt: null,
			exitCode: null,
			key: null,
			summary: null,
		},
	],
	metadata: null,
};

test('builds stand beside deployments, their log is read, and what was lost is queued again', async (t) => {
	const ended = { ...BUILD, state: 'TimedOut' as const, reason: 'builders_lost', detail: 'three in turn', dead: true, endedAt: 4_000 };
	const line = { at: 0, step: 'test', stream: 'out', text: 'ok 1' };
	const stage = await openStage(t, {
		'GET /api/v1/apps/notes/status': { ...STATUS, build: BUILD, built: null, verification: null },
		'GET /api/v1/deployments': { deployments: [deploymentOf()], builds: [ended] },
		'GET /api/v1/builds/dpl_b00b00b0/log': [line],
		'POST /api/v1/builds/dpl_b00b00b0/retry': { id: 'dpl_n3wn3wn3', already: false },
		'POST /api/v1/deployments/dpl_b00b00b0/cancel': { deployment: null, build: { ...BUILD, state: 'Cancelled' }, verification: null },
	});
	const status = (await stage.jibe('status', 'notes')).out;
	assert.match(status, /build: dpl_b00b00b0 of fedcba9876 of main, Building, .* by token:ann\n {2}Queued 2\.5s, Building [\d.]+s\n/);
	assert.match(status, /running: compile \(jibe logs --build dpl_b00b00b0 -f\)/);
	stage.answers['GET /api/v1/apps/notes/status'] = { ...STATUS, build: ended, built: null, verification: null };
	assert.match(
		(await stage.jibe('status', 'notes')).out,
		/TimedOut \(builders_lost\)[^]*three in turn\n! no builder got to its end: jibe retry dpl_b00b00b0/,
	);
	assert.match(
		(await stage.jibe('history', 'notes')).out,
		/dpl_b00b00b0 .* build +- +TimedOut \(builders_lost\) +3\.0s +fedcba9876 +token:ann/,
	);
	assert.match((await stage.jibe('logs', '--build', 'dpl_b00b00b0')).out, /^1970-01-01T00:00:00\.000Z test ok 1\n/);
	assert.match((await stage.jibe('retry', 'dpl_b00b00b0')).out, /Queued again as dpl_n3wn3wn3/);
	assert.match((await stage.jibe('cancel', 'dpl_b00b00b0')).out, /Cancelled dpl_b00b00b0/);
});

test('logs come line by line, as text and as JSON', async (t) => {
	const line = { at: 0, region: 'fra', instance: 'i1', release: 42, stream: 'err', text: 'oh' };
	const stage = await openStage(t, { 'GET /api/v1/apps/notes/logs': [line, { ...line, stream: 'out', text: 'fine' }] });
	const { out, exit } = await stage.jibe('logs', 'notes', '--since', '10m');
	assert.equal(out, '1970-01-01T00:00:00.000Z fra v42 i1 ! oh\n1970-01-01T00:00:00.000Z fra v42 i1 fine\n');
	assert.equal(exit, EXIT.done);
	assert.deepEqual((await stage.jibe('logs', 'notes', '--json')).out.split('\n').slice(0, 1).map((text) => JSON.parse(text) as unknown), [line]); // prettier-ignore
	assert.equal((await stage.jibe('logs', 'notes', '--since', 'long')).exit, EXIT.usage);
	stage.answers['GET /api/v1/apps/other/status'] = (_request, response) =>
		response
			.writeHead(404)
			.end(JSON.stringify({ error: { code: 'app_unknown', message: 'nothing was ever deployed as other', hint: null } }));
	assert.match((await stage.jibe('logs', 'other', '-f')).err, /nothing was ever deployed as other/);
});

test('open gives a link that signs in, or the address of an app', async (t) => {
	const stage = await openStage(t, {
		'POST /api/v1/logins': { url: 'http://127.0.0.1:1/login?code=x', expiresAt: 1 },
		'GET /api/v1/apps/notes/status': STATUS,
	});
	assert.equal((await stage.jibe('open')).out, 'http://127.0.0.1:1/login?code=x\n');
	assert.equal((await stage.jibe('open', 'notes')).out, 'http://notes.localhost:8080\n');
});

test('doctor looks at this machine, asks control for the rest, and says what to do', async (t) => {
	const well = { check: 'link', state: 'ok', detail: 'connected', hint: null };
	const findings = [{ check: 'database', state: 'ok', detail: 'PostgreSQL 18.4', hint: null }];
	const servers = [{ name: 'one', region: 'fra', findings: [well] }];
	const stage = await openStage(t, { 'GET /api/v1/doctor': { findings, servers } });
	chmodSync(stage.data, 0o755);
	mkdirSync(join(stage.data, 'pids'));
	writeFileSync(join(stage.data, 'pids', 'agent.json'), JSON.stringify({ pid: 1, start: 'never' }));
	const bad = await stage.jibe('doctor');
	assert.equal(bad.exit, EXIT.jibe);
	assert.match(bad.out, /✗ data: .* can be read by others\n {2}chmod 700/);
	assert.match(bad.out, /✗ programs: not running: agent/);
	chmodSync(stage.data, 0o700);
	writeFileSync(join(stage.data, 'pids', 'agent.json'), '{}');
	const good = await stage.jibe('doctor', '--json');
	assert.equal(good.exit, EXIT.done, good.out);
	assert.equal(good.json['healthy'], true);
	assert.deepEqual(good.json['servers'], servers);
	const { out } = await stage.jibe('doctor');
	assert.match(out, /! programs: none run on this directory\n {2}jibe up starts them/);
	assert.match(out, /✓ database: PostgreSQL 18\.4\n/);
	assert.match(out, /one \(fra\)\n {2}✓ server: is well\n/);
	const clock = { check: 'clock', state: 'bad', detail: "its clock is 60 min behind control's", hint: 'timedatectl set-ntp true there' };
	stage.answers['GET /api/v1/doctor'] = { findings, servers: [{ name: 'one', region: 'fra', findings: [well, clock] }] };
	const sick = await stage.jibe('doctor');
	assert.equal(sick.exit, EXIT.jibe);
	assert.match(sick.out, /one \(fra\)\n {2}✗ clock: its clock is 60 min behind control's\n {4}timedatectl set-ntp true there\n/);
	stage.answers['GET /api/v1/doctor'] = (_request, response) =>
		response
			.writeHead(400)
			.end(JSON.stringify({ error: { code: 'database_unavailable', message: 'the database does not answer', hint: 'a\nb' } }));
	assert.match((await stage.jibe('doctor')).out, /✗ control: the database does not answer\n {2}a\n {2}b/);
	delete stage.answers['GET /api/v1/doctor'];
});

test('down of what never ran says so', async (t) => {
	const stage = await openStage(t);
	const missing = join(stage.data, 'none');
	assert.match((await stage.jibe('down', '--data', missing)).out, /^Nothing was running on /);
	assert.equal(existsSync(missing), false);
});

test('init writes what it found, once; config check reads it', async (t) => {
	const stage = await openStage(t);
	const app = temporary(t, 'jibe-app-');
	assert.equal((await stage.jibe('init', app)).exit, EXIT.usage, 'nothing there that looks like an app');
	mkdirSync(join(app, 'src'));
	writeFileSync(join(app, 'package.json'), JSON.stringify({ name: '@team/My Notes' }));
	writeFileSync(join(app, 'src', 'server.ts'), 'export default { fetch: () => new Response() };');
	assert.equal((await stage.jibe('init', app)).exit, EXIT.done);
	assert.deepEqual(JSON.parse(readFileSync(join(app, 'jibe.json'), 'utf8')), { app: 'my-notes', runtime: 'fetch', entry: 'src/server.ts' });
	assert.equal((await stage.jibe('init', app)).exit, EXIT.usage);
	assert.equal((await stage.jibe('config', 'check', app, '--json')).json['valid'], true);
	writeFileSync(join(app, 'jibe.json'), '{ "app": "notes", "entrry": "src/server.ts" }');
	const { exit, err } = await stage.jibe('config', 'check', app);
	assert.equal(exit, EXIT.usage);
	assert.match(err, /jibe\.json:1:19: .*"entrry".*"entry"/s);
});

test('build, plan and deploy: one request holds the whole, a base that control forgot is made up for', async (t) => {
	const stage = await openStage(t, {
		'GET /api/v1/apps/notes/status': STATUS,
		'GET /api/v1/regions': REGIONS,
		'GET /api/v1/apps/notes/releases/42': { release: 42, files: null },
		'POST /api/v1/apps/notes/deployments': [{ result: deploymentOf(), already: false }],
	});
	const app = appOf(t, stage);
	const built = await stage.jibe('build', app, '--verify', '--json');
	assert.equal(built.exit, EXIT.done, built.err);
	assert.deepEqual(built.json['modules'], { compiled: 1, cached: 0 });
	assert.equal(built.json['verified'], true);
	const plan = await stage.jibe('plan', app, '--json');
	assert.deepEqual([plan.json['same'], plan.json['regions']], [false, ['fra']]);
	const deployed = await stage.jibe('deploy', app, '--json', '--reason', 'because');
	assert.equal(deployed.exit, EXIT.done, deployed.err);
	assert.deepEqual(deployed.json['modules'], { compiled: 0, cached: 1 });
	assert.ok(Number(deployed.json['uploadedBytes']) > 0);

	let refusals = 0;
	stage.answers['POST /api/v1/apps/notes/missing'] = { missing: [] };
	stage.answers['POST /api/v1/apps/notes/deployments'] = (_request, response) => {
		if (refusals++ === 0)
			response.writeHead(409).end(JSON.stringify({ error: { code: 'base_unknown', message: 'forgotten', hint: null } }));
		else response.end(JSON.stringify({ result: deploymentOf(), already: false }));
	};
	writeFileSync(join(app, 'src', 'server.ts'), 'export default { fetch: () => new Response("2") };');
	assert.equal((await stage.jibe('deploy', app)).exit, EXIT.done);
	assert.equal(refusals, 2);
	assert.ok(stage.asked.some(({ what }) => what === 'POST /api/v1/apps/notes/missing'));
});

test('a deploy whose build cache was deleted, all but what it last saw, builds again from nothing', async (t) => {
	const stage = await openStage(t, { 'POST /api/v1/apps/notes/deployments': [{ result: deploymentOf(), already: false }] });
	const app = appOf(t, stage);
	assert.equal((await stage.jibe('deploy', app)).exit, EXIT.done);
	rmSync(join(stage.data, 'cache', 'jibe', 'build', 'actions'), { recursive: true });
	let refusals = 0;
	stage.answers['POST /api/v1/apps/notes/missing'] = { missing: [] };
	stage.answers['POST /api/v1/apps/notes/deployments'] = (_request, response) => {
		if (refusals++ === 0)
			response.writeHead(409).end(JSON.stringify({ error: { code: 'base_unknown', message: 'forgotten', hint: null } }));
		else response.end(JSON.stringify({ result: deploymentOf(), already: false }));
	};
	const again = await stage.jibe('deploy', app);
	assert.equal(again.exit, EXIT.done, again.err);
	assert.match(again.err, /building again/);
});

test('a build that fails makes no deployment, nor do tests that fail before what is asked to go at once', async (t) => {
	const stage = await openStage(t, { 'POST /api/v1/apps/notes/deployments': [{ result: deploymentOf(), already: false }] });
	const app = appOf(t, stage, { test: 'echo the test says no; exit 3' });
	const tested = await stage.jibe('deploy', app, '--now', '--json');
	assert.equal(tested.exit, EXIT.app);
	assert.deepEqual([tested.json['deployment'], tested.json['state']], [null, 'TestFailed']);
	assert.match(tested.err, /ended with 3\nthe test says no/);
	writeFileSync(join(app, 'src', 'server.ts'), 'export default { fetch( };');
	const broken = await stage.jibe('deploy', app, '--json');
	assert.equal(broken.exit, EXIT.app);
	assert.deepEqual([broken.json['deployment'], broken.json['state'], broken.json['file']], [null, 'BuildFailed', 'src/server.ts']);
	const shape = ['deployment', 'kind', 'app', 'environment', 'release', 'artifact', 'commit', 'state', 'reason', 'modules', 'uploadedBytes', 'regions', 'url', 'timings']; // prettier-ignore
	for (const { json } of [tested, broken]) assert.deepEqual(Object.keys(json).slice(0, shape.length), shape);
	assert.deepEqual(stage.asked, []);
});

/** Control as it answers a deploy that it waits for the tests of. */
async function testingStage(t: TestContext): Promise<Stage> {
	const stage = await openStage(t);
	let finish: (state: 'Deployed' | 'TestFailed', detail: string) => void = () => {};
	stage.answers['POST /api/v1/apps/notes/deployments'] = (_request, response) => {
		const place = { app: 'notes', environment: 'production', deployment: 'dpl_7m4k92xy' };
		const data = { state: 'Testing' };
		response.write(`${JSON.stringify({ event: { cursor: 0, at: 0, type: 'deployment.state', ...place, data } })}\n`);
		finish = (state, detail) => response.end(`${JSON.stringify({ result: deploymentOf({ state, detail }), already: false })}\n`);
	};
	stage.answers['POST /api/v1/deployments/dpl_7m4k92xy/tests'] = (_request, response) => {
		const { passed, summary } = JSON.parse(stage.asked.at(-1)!.body) as { passed: boolean; summary: string };
		response.end('{}');
		finish(passed ? 'Deployed' : 'TestFailed', summary);
	};
	return stage;
}

test('tests run while control prepares, and do not run again once they passed on an artifact', async (t) => {
	const stage = await testingStage(t);
	const app = appOf(t, stage, { test: 'echo run >> runs.log', exclude: ['runs.log'] });
	assert.equal((await stage.jibe('deploy', app)).exit, EXIT.done);
	assert.deepEqual(stage.asked.map(({ what }) => what), ['POST /api/v1/apps/notes/deployments', 'POST /api/v1/deployments/dpl_7m4k92xy/tests']); // prettier-ignore
	stage.answers['POST /api/v1/apps/notes/deployments'] = [{ result: deploymentOf(), already: false }];
	assert.equal((await stage.jibe('deploy', app)).exit, EXIT.done);
	assert.equal(stage.asked.length, 3);
	assert.equal(readFileSync(join(app, 'runs.log'), 'utf8'), 'run\n');
});

test('tests that fail end the deployment, with what they printed', async (t) => {
	const stage = await testingStage(t);
	const app = appOf(t, stage, { test: 'echo the test says no; exit 3' });
	const failed = await stage.jibe('deploy', app, '--json');
	assert.equal(failed.exit, EXIT.app);
	assert.equal(failed.json['state'], 'TestFailed');
	assert.match(failed.err, /ended with 3\nthe test says no/);
});

test('without a jibe.json the other verbs are about the app that deploy would find', async (t) => {
	const stage = await openStage(t, { 'GET /api/v1/apps/notes/status': STATUS });
	const before = process.cwd();
	t.after(() => process.chdir(before));
	const app = appOf(t, stage);
	rmSync(join(app, 'jibe.json'));
	process.chdir(app);
	assert.match((await stage.jibe('status')).out, /^notes \(production\) serves v42/);
	process.chdir(stage.data);
	assert.match((await stage.jibe('logs')).err, /which app\?/);
});

function appOf(t: TestContext, stage: Stage, config: object = {}): string {
	const app = temporary(t, 'jibe-app-');
	const cache = process.env['XDG_CACHE_HOME'];
	process.env['XDG_CACHE_HOME'] = join(stage.data, 'cache');
	t.after(() => {
		if (cache === undefined) delete process.env['XDG_CACHE_HOME'];
		else process.env['XDG_CACHE_HOME'] = cache;
	});
	mkdirSync(join(app, 'src'));
	writeFileSync(join(app, 'jibe.json'), JSON.stringify({ app: 'notes', entry: 'src/server.ts', ...config }));
	writeFileSync(join(app, 'package.json'), JSON.stringify({ name: 'notes', type: 'module' }));
	writeFileSync(join(app, 'src', 'server.ts'), 'export default { fetch: () => new Response("1") };');
	return app;
}

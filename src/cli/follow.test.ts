import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Deployment } from '#wire/api.ts';
import { deploymentOf, openStage, refuse } from './fixture.ts';

const ROLLBACK = 'POST /api/v1/apps/notes/rollbacks';
const rollback = (more: Partial<Deployment> = {}) => deploymentOf({ kind: 'rollback', release: 41, ...more });
const stateEvent = (state: string) => ({
	event: {
		cursor: 0,
		at: 1,
		type: 'deployment.state',
		app: 'notes',
		environment: 'production',
		deployment: 'dpl_7m4k92xy',
		data: { state },
	},
});

test('a rollback is followed to its end and told in words and as one JSON line', async (t) => {
	const stage = await openStage(t, { [ROLLBACK]: [stateEvent('RollingOut'), { result: rollback(), already: false }] });
	const told = await stage.jibe('rollback', 'notes', '--to', 'v41', '--json');
	assert.equal(told.exit, 0);
	assert.deepEqual(JSON.parse(stage.asked[0]?.body ?? ''), { environment: 'production', to: 41, undo: null, again: false, reason: null });
	const { timings, ...rest } = told.json;
	assert.deepEqual(rest, {
		deployment: 'dpl_7m4k92xy',
		kind: 'rollback',
		app: 'notes',
		environment: 'production',
		release: 'v41',
		artifact: `sha256:${'a'.repeat(64)}`,
		commit: null,
		state: 'Deployed',
		reason: null,
		modules: { compiled: 3, cached: 214 },
		uploadedBytes: 0,
		regions: [
			{ name: 'fra', state: 'live', ms: 12 },
			{ name: 'ams', state: 'live', ms: 15 },
		],
		url: 'http://notes.localhost:8080',
	});
	assert.deepEqual(Object.keys(timings as object).toSorted(), ['bootMs', 'canaryMs', 'compileMs', 'prepareMs', 'rolloutMs', 'scanMs', 'totalMs', 'uploadMs']); // prettier-ignore
	assert.match(told.err, /✓ Rolled back to v41 in 2 regions \(.*; watching for 5 min\)/);
	assert.equal((await stage.jibe('rollback', 'notes')).out, '→ http://notes.localhost:8080\n');
});

test('when the stream breaks off, the deployment is asked for instead of made again', async (t) => {
	const stage = await openStage(t);
	stage.answers[ROLLBACK] = (request, response) => {
		response.write(`${JSON.stringify(stateEvent('Deploying'))}\n`);
		setImmediate(() => request.socket.destroy());
	};
	let asked = 0;
	stage.answers['GET /api/v1/deployments/dpl_7m4k92xy'] = (_request, response) =>
		void response.end(JSON.stringify({ deployment: ++asked < 3 ? rollback({ state: 'RollingOut', endedAt: null }) : rollback() }));
	assert.equal((await stage.jibe('rollback', 'notes')).exit, 0);
	assert.equal(asked, 3);
	assert.equal(stage.asked.filter(({ what }) => what === ROLLBACK).length, 1);
});

test('when even the answer is lost, the deployment made meanwhile is found; one from before is not taken for it', async (t) => {
	const stage = await openStage(t);
	let posts = 0;
	stage.answers[ROLLBACK] = (request, response) => {
		if (++posts < 3) request.socket.destroy();
		else response.end(`${JSON.stringify({ result: rollback(), already: false })}\n`);
	};
	stage.answers['GET /api/v1/deployments'] = { deployments: [rollback({ createdAt: 1 })] };
	assert.equal((await stage.jibe('rollback', 'notes')).exit, 0);
	assert.equal(posts, 3, 'nothing had come of the first two');

	posts = 0;
	stage.answers['GET /api/v1/deployments'] = { deployments: [rollback({ createdAt: Number.MAX_SAFE_INTEGER })] };
	stage.answers['GET /api/v1/deployments/dpl_7m4k92xy'] = { deployment: rollback() };
	assert.equal((await stage.jibe('rollback', 'notes')).exit, 0);
	assert.equal(posts, 1, 'the first became a deployment');
});

test('one that is under way already is followed too, and --detach does not wait', async (t) => {
	const stage = await openStage(t, {
		[ROLLBACK]: [{ result: rollback({ state: 'RollingOut', endedAt: null }), already: true }],
		'GET /api/v1/deployments/dpl_7m4k92xy': { deployment: rollback() },
	});
	assert.equal((await stage.jibe('rollback', 'notes')).exit, 0);
	assert.deepEqual(stage.asked.at(-1)?.what, 'GET /api/v1/deployments/dpl_7m4k92xy');
	stage.asked.length = 0;
	const detached = await stage.jibe('rollback', 'notes', '--detach');
	assert.equal(detached.out, 'dpl_7m4k92xy is under way (RollingOut): jibe status notes\n');
	assert.deepEqual(stage.asked.map(({ what }) => what), [`${ROLLBACK}?detach=1`]); // prettier-ignore
});

test('how it ended is the exit code, and the JSON says it too', async (t) => {
	const stage = await openStage(t);
	const ends = async (more: Partial<Deployment>) => {
		stage.answers[ROLLBACK] = [{ result: deploymentOf(more), already: false }];
		const { exit, err, json } = await stage.jibe('rollback', 'notes', '--json');
		return { exit, err, state: json['state'] };
	};
	assert.equal((await ends({ state: 'DeployFailed', reason: 'unhealthy', detail: 'GET /healthz answered 503' })).exit, 1);
	assert.equal((await ends({ state: 'DeployFailed', reason: 'platform' })).exit, 4);
	const addon = await ends({ state: 'DeployFailed', reason: 'app_throws', detail: 'built using NODE_MODULE_VERSION 115' });
	assert.match(addon.err, /PATH=\/.*:\$PATH npm rebuild/);
	assert.equal((await ends({ state: 'RolledBack', reason: 'gate_failed' })).exit, 3);
	assert.equal((await ends({ state: 'Cancelled' })).exit, 3);
	assert.equal((await ends({ state: 'Superseded' })).exit, 3);
	const { err, state } = await ends({ state: 'DeployFailed', reason: 'unhealthy', detail: 'GET /healthz answered 503' });
	assert.equal(state, 'DeployFailed');
	assert.match(err, /✗ The release did not become healthy \(unhealthy\)\nGET \/healthz answered 503\n {2}Nothing moved/);
	const behind = await ends({ regions: [{ name: 'fra', state: 'live', ms: 1, reason: null }, { name: 'ams', state: 'pending', ms: null, reason: 'lost' }] }); // prettier-ignore
	assert.equal(behind.exit, 0);
	assert.match(behind.err, /! ams: pending \(lost\); it catches up when it is back/);
});

test('a refusal is told with its hint, and an error within the stream is one too', async (t) => {
	const stage = await openStage(t);
	stage.answers[ROLLBACK] = (_request, response) => refuse(response, 409, 'nothing_before', 'there is nothing before v1');
	const refused = await stage.jibe('rollback', 'notes', '--json');
	assert.equal(refused.exit, 2);
	assert.deepEqual(refused.json, { error: { code: 'nothing_before', message: 'there is nothing before v1', hint: 'do something else' } });
	assert.equal(refused.err, '✗ there is nothing before v1\n  do something else\n');
	stage.answers[ROLLBACK] = [stateEvent('Deploying'), { error: { code: 'internal', message: 'oh', hint: null } }];
	assert.equal((await stage.jibe('rollback', 'notes')).exit, 4);
});

test('Ctrl-C leaves the deployment to itself and says how to cancel it; in CI a SIGTERM cancels it', async (t) => {
	const stage = await openStage(t, {
		'GET /api/v1/deployments/dpl_7m4k92xy': { deployment: rollback({ state: 'RollingOut', endedAt: null, canary: null }) },
	});
	let finish = (_line: object): void => {};
	const begin = (signal: 'SIGINT' | 'SIGTERM') => {
		stage.answers[ROLLBACK] = (_request, response) => {
			finish = (line) => response.end(`${JSON.stringify(line)}\n`);
			response.write(`${JSON.stringify(stateEvent('RollingOut'))}\n`);
			// Not before the line above was read: the id is in it.
			heard().then(() => process.emit(signal), assert.fail);
		};
	};
	begin('SIGINT');
	const left = await stage.jibe('rollback', 'notes');
	assert.equal(left.exit, 0);
	assert.equal(left.err, 'Detached: dpl_7m4k92xy goes on. Stop it with: jibe cancel dpl_7m4k92xy\n');
	assert.match(left.out, /dpl_7m4k92xy is under way \(RollingOut\)/);

	const ci = process.env['CI'];
	process.env['CI'] = 'true';
	t.after(() => (ci === undefined ? delete process.env['CI'] : (process.env['CI'] = ci)));
	stage.answers['POST /api/v1/deployments/dpl_7m4k92xy/cancel'] = (_request, response) => {
		response.end(JSON.stringify({ deployment: rollback({ state: 'RollingBack' }) }));
		finish({ result: rollback({ state: 'RolledBack', reason: 'cancelled' }), already: false });
	};
	begin('SIGTERM');
	const cancelled = await stage.jibe('rollback', 'notes');
	assert.equal(cancelled.exit, 3);
	assert.match(cancelled.err, /Cancelling dpl_7m4k92xy…\n✗ Swung back to the release before \(cancelled\)/);
});

/** The client in this process has read what was written: a few turns of the event loop. */
async function heard(): Promise<void> {
	for (let turn = 0; turn < 200; turn++) await new Promise((resolve) => setImmediate(resolve));
}

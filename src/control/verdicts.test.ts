import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { after, before, test, type TestContext } from 'node:test';
import type { Deployment, ProgressLine } from '#wire/api.ts';
import { FILES, startControl, type Answer, type TestControl } from '../../test/fixtures/control.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import type { Judged } from './repositories/verdicts.ts';

let cluster: TestCluster;
before(async () => {
	cluster = await startCluster();
});
after(() => cluster.stop());

const SECRET = 'what the team signs with';

async function setUp(t: TestContext) {
	const house = await startControl(t, cluster);
	await house.obedientDepot().next('welcome');
	const deploy = async (text: string) => {
		const answer = await house.deploy('notes', { files: { ...FILES, 'modules/src/server.ts': text } });
		const last = answer.lines<ProgressLine>().at(-1)!;
		assert.ok('result' in last, answer.text);
		return last.result;
	};
	const token = async (role: 'viewer' | 'deployer', apps: string[] = ['notes']) =>
		(await house.state.tokens.create({ name: role, role, apps, environments: null, expiresAt: null, by: 'test' })).secret;
	return { house, deploy, token };
}

const alert = (startsAt: number, of: { status?: string; labels?: Record<string, string> } = {}) => ({
	version: '4',
	status: 'firing',
	receiver: 'jibe',
	alerts: [
		{
			status: of.status ?? 'firing',
			labels: { alertname: 'TooManyErrors', app: 'notes', ...of.labels },
			annotations: { summary: '7 % of requests fail' },
			startsAt: new Date(startsAt).toISOString(),
			endsAt: '0001-01-01T00:00:00Z',
			fingerprint: 'c0ffee',
		},
	],
});

const told = async (house: TestControl, json: unknown, token?: string | null): Promise<Judged[]> => {
	const answer = await house.ask('POST', '/hooks/alertmanager', { json, ...(token === undefined ? {} : { token }) });
	assert.equal(answer.status, 200, answer.text);
	return answer.json<{ judged: Judged[] }>().judged;
};

const find = async (house: TestControl, id: string) => (await house.state.deployments.deployment(id))!;

async function rolledBack(house: TestControl, cause: string): Promise<Deployment> {
	for (;;) {
		const [last] = await house.state.deployments.history({ app: 'notes', limit: 1 });
		if (last?.cause === cause && last.endedAt !== null) return last;
		await new Promise((resolve) => setTimeout(resolve, 10));
	}
}

test('an alert ends the watch of what serves: it swings back, once; what was deployed after it began is not blamed', async (t) => {
	const { house, deploy, token } = await setUp(t);
	await deploy('one');
	const second = await deploy('two');
	assert.ok(second.watchUntil !== null);
	const by = await token('deployer');

	const [early] = await told(house, alert(second.createdAt - 60_000), by);
	assert.deepEqual([early?.did, /began before dpl_/.test(early?.why ?? '')], ['nothing', true]);
	assert.deepEqual(await told(house, alert(Date.now(), { status: 'resolved' }), by), []);
	assert.deepEqual(await told(house, alert(Date.now(), { labels: { app: 'Not A Name' } }), by), []);
	assert.deepEqual((await told(house, alert(Date.now(), { labels: { app: 'shop' } }), by)).map(({ did }) => did), ['nothing']); // prettier-ignore

	const at = Date.now();
	const [judged] = await told(house, alert(at), by);
	assert.deepEqual([judged?.did, judged?.deployment], ['rolled-back', second.id]);
	const back = await rolledBack(house, second.id);
	assert.deepEqual(
		[back.kind, back.state, back.release, back.why],
		['rollback', 'Deployed', 1, 'alert TooManyErrors: 7 % of requests fail'],
	);
	const harmed = await find(house, second.id);
	assert.deepEqual([harmed.reason, harmed.detail], ['harm', 'alert TooManyErrors: 7 % of requests fail']);
	// Alertmanager says it again and again, for as long as it fires.
	assert.deepEqual((await told(house, alert(at, { labels: { jibe_rollback: 'true' } }), by)).map(({ did }) => did), ['nothing']); // prettier-ignore
	assert.equal((await house.state.deployments.history({ app: 'notes', limit: 10 })).length, 3);
});

test('who may not deploy the app judges nothing', async (t) => {
	const { house, deploy, token } = await setUp(t);
	await deploy('one');
	await deploy('two');
	const ask = (of: string | null) => house.ask('POST', '/hooks/alertmanager', { json: alert(Date.now()), token: of });
	assert.equal((await ask(null)).status, 401);
	assert.equal((await ask(await token('viewer'))).status, 403);
	const [judged] = await told(house, alert(Date.now()), await token('deployer', ['shop']));
	assert.deepEqual([judged?.did, /not for the app notes/.test(judged?.why ?? '')], ['nothing', true]);
	assert.equal((await house.state.deployments.history({ app: 'notes', limit: 10 })).length, 2);
	for (const json of [{}, { alerts: 'all' }, { alerts: [{ status: 'firing', labels: {}, startsAt: 'yesterday' }] }])
		assert.equal((await house.ask('POST', '/hooks/alertmanager', { json })).status, 400);
});

test('what is rolled back after its watch needs a rollback in so many words, and a token', async (t) => {
	const { house, deploy, token } = await setUp(t);
	await deploy('one');
	const second = await deploy('two');
	const url = 'https://github.com/team/notes.git';
	assert.equal(
		(await house.ask('PUT', '/api/v1/repositories/notes', { json: { forge: 'generic', url, webhookSecret: SECRET } })).status,
		200,
	);
	const signed = (said: Record<string, unknown>, of: { token?: string; secret?: string; at?: number } = {}): Promise<Answer> => {
		const { token: bearer = null, secret = SECRET, at = Math.floor(Date.now() / 1000) } = of;
		const body = JSON.stringify({ event: 'verdict', app: 'notes', reason: 'a test of ours', ...said });
		const v1 = createHmac('sha256', secret).update(`${at}.${body}`).digest('hex');
		const headers = { 'x-jibe-signature': `t=${at},v1=${v1}` };
		return house.ask('POST', '/hooks/generic/notes', { body: new Uint8Array(Buffer.from(body)), type: 'application/json', headers, token: bearer }); // prettier-ignore
	};
	const judged = async (answer: Promise<Answer>) => (await answer).json<Judged>();
	assert.equal((await signed({ verdict: 'pass' }, { secret: 'another secret' })).status, 401);
	assert.equal((await signed({ verdict: 'maybe' })).status, 400);
	assert.equal((await signed({ verdict: 'fail', app: 'shop' })).status, 403);
	assert.equal((await judged(signed({ verdict: 'pass' }))).did, 'watch-ended');
	assert.equal((await find(house, second.id)).watchUntil, null);
	assert.equal((await judged(signed({ verdict: 'fail' }))).did, 'nothing');

	const since = Date.now();
	assert.equal((await signed({ verdict: 'fail', rollback: true, since })).status, 403);
	assert.equal((await signed({ verdict: 'fail', rollback: true, since }, { token: await token('viewer') })).status, 403);
	const deployer = await token('deployer');
	const without = await house.ask('POST', '/hooks/generic', { json: { event: 'verdict', app: 'notes', verdict: 'fail', reason: 'x', rollback: true }, token: deployer }); // prettier-ignore
	assert.equal(without.json().error.code, 'since_missing');
	assert.equal((await judged(signed({ verdict: 'fail', rollback: true, since }, { token: deployer }))).did, 'rolled-back');
	const back = await rolledBack(house, second.id);
	assert.deepEqual([back.release, back.by], [1, 'token:deployer']);
	// The same once more, and once more as it was: neither goes back further.
	assert.equal((await judged(signed({ verdict: 'fail', rollback: true, since }, { token: deployer }))).did, 'nothing');
	assert.equal((await house.state.deployments.history({ app: 'notes', limit: 10 })).length, 3);
});

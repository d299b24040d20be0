import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { Deployment, Event } from '#wire/api.ts';
import { FILES, obey, rootOf } from './fixtures/control.ts';
import { startCluster, type TestCluster } from './fixtures/database.ts';
import { eventually } from './fixtures/jibe.ts';
import { startReplicas, TIMES, type Replica } from './fixtures/replicas.ts';

/** Two control processes on one database, killed and frozen in the middle of rollouts: nothing is lost, nothing done twice. */

const QUICK = { strategy: { type: 'walk', watch: '1s' } } as const;
const edited = (n: number) => ({ ...FILES, 'modules/src/server.ts': `export default ${n}` });

let cluster: TestCluster;
before(async () => (cluster = await startCluster()));
after(() => cluster.stop());

const newest = async (replica: Replica, app = 'notes'): Promise<Deployment> =>
	(await replica.ask('GET', `/api/v1/deployments?app=${app}&limit=1`)).json<{ deployments: Deployment[] }>().deployments[0]!;

const ended = (replica: Replica, id: string) =>
	eventually(async () => {
		const { deployment } = (await replica.ask('GET', `/api/v1/deployments/${id}`)).json<{ deployment: Deployment }>();
		return deployment.endedAt === null ? null : deployment;
	}, `end of ${id}`);

/** Each state once, in order; each pointer of a region one version after the other. */
function assertOnce(events: readonly Event[], deployment: string): void {
	const states = events
		.filter((event) => event.deployment === deployment && event.type === 'deployment.state')
		.map(({ data }) => data['state']);
	assert.deepEqual(states, [...new Set(states)]);
	for (const [region, writes] of Map.groupBy(
		events.filter(({ type }) => type === 'pointer.written'),
		({ data }) => data['region'],
	)) {
		const versions = writes.map(({ data }) => data['version'] as number);
		assert.deepEqual(
			versions,
			[...new Set(versions)].toSorted((a, b) => a - b),
			String(region),
		);
	}
}

test('any replica takes any request: what one wrote the other goes on from, and every region hears of it by both', async (t) => {
	const { all, depots, state } = await startReplicas(t, await cluster.database());
	const [a, b] = all as [Replica, Replica];
	const made = await depots();
	for (const depot of made) obey(depot);
	const first = (await a.deploy('notes', { config: QUICK })).lines<{ result?: Deployment }>().at(-1)?.result;
	assert.equal(first?.state, 'Deployed');
	const toldByB = () => made[1]!.told.flatMap((message) => (message.type === 'wants' ? message.wants : []));
	await eventually(
		() => (toldByB().some((want) => want.region === 'ams' && want.deployment === first.id) ? true : null),
		'word by b of what a wrote',
	);

	assert.equal((await newest(b)).id, first.id);
	const same = (await b.deploy('notes', { config: QUICK })).lines<{ result?: Deployment; already?: boolean }>().at(-1);
	assert.deepEqual([same?.already, same?.result?.id], [true, first.id], 'it is live already, whoever is asked');
	const second = (await b.deploy('notes', { files: edited(2), config: QUICK })).lines<{ result?: Deployment }>().at(-1)?.result;
	assert.equal(second?.release, first.release + 1);
	// What a remembers is older than what b did.
	const third = (await a.deploy('notes', { config: QUICK })).lines<{ result?: Deployment; already?: boolean }>().at(-1);
	assert.deepEqual([third?.already, third?.result?.state, third?.result?.artifact], [false, 'Deployed', rootOf(FILES)]);
	const back = (await b.ask('POST', '/api/v1/apps/notes/rollbacks', { json: { environment: 'production', to: null, undo: null, again: false, reason: null } })).lines<{ result?: Deployment }>().at(-1)?.result; // prettier-ignore
	assert.deepEqual([back?.kind, back?.state, back?.release], ['rollback', 'Deployed', second.release]);
	const events = await state.events.after(0);
	for (const { deployment } of events) if (deployment !== null) assertOnce(events, deployment);
	const status = await Promise.all(all.map((one) => one.ask('GET', '/api/v1/apps/notes/status')));
	assert.deepEqual(...(status.map((one) => one.json<{ serving: number }>().serving) as [number, number]));
});

test('a replica that is killed in the middle of a rollout: the other one goes on at once, and both see one deployment', async (t) => {
	const { all, depots, state } = await startReplicas(t, await cluster.database());
	const [a, b] = all as [Replica, Replica];
	// The regions start it, and say so only later: what is done meanwhile is done in mid-rollout.
	const made = await depots();
	const following = a.follow('notes', { config: QUICK });
	await Promise.all(made.map((depot) => depot.next('wants')));
	const { id } = await newest(a);
	a.signal('SIGKILL');
	assert.equal(await following.result, null, 'its stream broke off');
	for (const depot of made) obey(depot, depot.told);
	const end = await ended(b, id);
	assert.deepEqual([end.state, end.reason], ['Deployed', null]);
	assertOnce(await state.events.after(0), id);
	assert.equal((await state.deployments.history({ limit: 9 })).length, 1);

	await a.startAgain();
	assert.equal((await newest(a)).id, id);
	const next = (await a.deploy('notes', { files: edited(2), config: QUICK })).lines<{ result?: Deployment }>().at(-1)?.result;
	assert.equal(next?.state, 'Deployed', 'a request brings the app back to the one that was dead');
	const replicas = await state.replicas.list();
	assert.equal(replicas.length, 2);
});

test('a replica that is frozen is taken over after its lease; when it wakes it is fenced, follows, and serves again', async (t) => {
	const { all, depots, state } = await startReplicas(t, await cluster.database());
	const [a, b] = all as [Replica, Replica];
	const made = await depots();
	const following = a.follow('notes', { config: QUICK });
	await Promise.all(made.map((depot) => depot.next('wants')));
	const { id } = await newest(a);
	a.signal('SIGSTOP');
	obey(made[1]!, made[1]!.told);
	const end = await ended(b, id);
	assert.equal(end.state, 'Deployed');
	a.signal('SIGCONT');
	// It hears now what its depot says, and must not act on it: the deployment is not its own any more.
	obey(made[0]!, made[0]!.told);
	assert.equal((await following.result)?.state, 'Deployed', 'who followed there hears how it ended');
	await eventually(async () => ((await state.replicas.list()).length === 2 ? true : null), 'its return');
	const next = (await a.deploy('notes', { files: edited(2), config: QUICK })).lines<{ result?: Deployment }>().at(-1)?.result;
	assert.equal(next?.state, 'Deployed');
	const events = await state.events.after(0);
	for (const one of [id, next.id]) assertOnce(events, one);
	assert.ok(
		events.some(({ type, data }) => type === 'replica.gone' && data['by'] !== data['replica']),
		'it was found to hang',
	);
});

test('a request elsewhere takes a rollout over, and who follows it at the first one hears its end', async (t) => {
	const { all, depots } = await startReplicas(t, await cluster.database());
	const [a, b] = all as [Replica, Replica];
	const made = await depots();
	const following = a.follow('notes', { config: QUICK });
	await Promise.all(made.map((depot) => depot.next('wants')));
	const { id } = await newest(b);
	const cancelled = (await b.ask('POST', `/api/v1/deployments/${id}/cancel`)).json<{ deployment: Deployment }>();
	assert.equal(cancelled.deployment.state, 'Cancelled');
	assert.equal((await following.result)?.state, 'Cancelled');
});

test('one that stops hands over what it drove; alone, it takes up what it drove before', async (t) => {
	const { all, depots, state } = await startReplicas(t, await cluster.database(), { times: { ...TIMES, leaseMs: 60_000 } });
	const [a, b] = all as [Replica, Replica];
	const made = await depots();
	await a.deploy('notes', { config: QUICK, detach: true });
	await Promise.all(made.map((depot) => depot.next('wants')));
	const { id } = await newest(b);
	a.signal('SIGTERM');
	await a.ended();
	await eventually(async () => ((await state.deployments.lanes({}))[0]?.owners.every((owner) => owner.includes(`-${b.pid}-`)) ? true : null), 'b as its owner'); // prettier-ignore
	b.signal('SIGKILL');
	await b.ended();
	await b.startAgain();
	const [again] = await depots([b]);
	obey(again!, again!.told);
	assert.equal((await ended(b, id)).state, 'Deployed');
});

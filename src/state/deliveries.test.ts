import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { branchRules } from '#wire/repositories.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import type { Deliveries } from './deliveries.ts';
import type { State } from './state.ts';

let cluster: TestCluster;
let state: State;
before(async () => {
	cluster = await startCluster();
	state = await cluster.state();
});
after(() => cluster.stop());

const LEASE_MS = 60_000;
const told = (repository: string, id: string, ref = 'refs/heads/main') => ({ repository, id, event: 'push', ref, detail: {} });

async function end(deliveries: Deliveries, claimed: NonNullable<Awaited<ReturnType<Deliveries['claim']>>>, worker: string): Promise<void> {
	await deliveries.end({ claimed, worker, state: 'done', outcome: 'it was queued' });
}

test('a delivery is taken once, looked at with all that wait for the same, one of a repository at a time', async () => {
	const { deliveries } = state;
	assert.equal(await deliveries.receive(told('a', '1')), true);
	assert.equal(await deliveries.receive(told('a', '1')), false);
	await deliveries.receive(told('a', '2'));
	await deliveries.receive(told('a', '3', 'refs/heads/other'));
	await deliveries.receive(told('b', '1'));
	const first = await deliveries.claim('one', LEASE_MS);
	assert.deepEqual([first?.repository, first?.ref, first?.ids.toSorted(), first?.attempts], ['a', 'refs/heads/main', ['1', '2'], 1]);
	// Came while it is looked at: somebody has to look again.
	await deliveries.receive(told('a', '4'));
	const second = await deliveries.claim('two', LEASE_MS);
	assert.equal(second?.repository, 'b');
	assert.equal(await deliveries.claim('two', LEASE_MS), null);
	assert.ok((await deliveries.waiting()).nextAt! > Date.now(), 'nobody has to look before a lease ends');
	await end(deliveries, second, 'two');
	await end(deliveries, first!, 'one');
	const next = await deliveries.claim('two', LEASE_MS);
	assert.equal(next?.ref, 'refs/heads/other');
	await end(deliveries, next, 'two');
	assert.deepEqual((await deliveries.claim('two', LEASE_MS))?.ids, ['4']);
	assert.equal((await deliveries.get('a', '1'))?.state, 'done');
});

test('who is gone loses what it claimed, and who comes back late ends nothing', async () => {
	const { deliveries } = state;
	await deliveries.receive(told('c', '1'));
	const lost = await deliveries.claim('gone', -1);
	assert.equal(lost?.repository, 'c');
	const taken = await deliveries.claim('next', LEASE_MS);
	assert.deepEqual([taken?.ids, taken?.attempts], [['1'], 2]);
	assert.equal(await deliveries.beat(lost, 'gone', LEASE_MS), false);
	await end(deliveries, lost, 'gone');
	assert.equal((await deliveries.get('c', '1'))?.state, 'waiting');
	assert.equal(await deliveries.beat(taken!, 'next', LEASE_MS), true);
	const againAt = Date.now() + 60_000;
	await deliveries.end({ claimed: taken!, worker: 'next', state: 'failed', outcome: 'not now', againAt });
	assert.equal(await deliveries.claim('next', LEASE_MS), null);
	assert.deepEqual([(await deliveries.get('c', '1'))?.state, (await deliveries.get('c', '1'))?.outcome], ['waiting', 'not now']);
});

test('what a forge is told is the newest, once', async () => {
	const { commitStatuses } = state;
	const status = {
		repository: 'a',
		commit: 'c0ffee',
		context: 'jibe/notes',
		state: 'pending' as const,
		description: 'is built',
		url: 'https://jibe/',
		at: 10,
	};
	await commitStatuses.want(status);
	await commitStatuses.want(status);
	const [claimed] = await commitStatuses.claim(10, LEASE_MS);
	assert.deepEqual([claimed?.description, claimed?.attempts], ['is built', 1]);
	assert.deepEqual(await commitStatuses.claim(10, LEASE_MS), []);
	// Wanted while the other one is on its way: that one's end says nothing of this.
	const newer = { ...status, state: 'success' as const, description: 'is live', at: 20 };
	await commitStatuses.want(newer);
	await commitStatuses.told(claimed!);
	await commitStatuses.want({ ...status, at: 15 });
	assert.deepEqual((await commitStatuses.claim(10, LEASE_MS)).map(({ description }) => description), ['is live']); // prettier-ignore
	await commitStatuses.failed(newer, 'it is away', Date.now() - 1);
	const [again] = await commitStatuses.claim(10, LEASE_MS);
	assert.equal(again?.attempts, 2);
	await commitStatuses.told(again);
	await commitStatuses.want(newer);
	assert.deepEqual(await commitStatuses.claim(10, LEASE_MS), []);
	assert.equal(await commitStatuses.nextAt(), null);
});

test('a repository, its pull requests, and what is left when it is removed', async () => {
	const { repositories, deliveries, secrets } = state;
	const made = { name: 'notes', forge: 'github' as const, url: 'https://github.com/team/notes.git', api: null, apps: [{ app: 'notes', directory: '' }], rules: branchRules.parse({}), by: 'ann' }; // prettier-ignore
	const first = await repositories.put(made);
	const second = await repositories.put({ ...made, apps: [{ app: 'notes', directory: 'services/notes' }] });
	assert.deepEqual([first.version, second.version, second.createdAt], [1, 2, first.createdAt]);
	assert.deepEqual(await repositories.get('notes'), second);

	const pull = {
		repository: 'notes',
		number: 7,
		title: 'Better',
		author: 'eve',
		from: 'eve/notes',
		branch: 'better',
		commit: 'a1',
		state: 'open' as const,
	};
	await repositories.sawPullRequest(pull);
	assert.equal(await repositories.approve({ repository: 'notes', number: 7, commit: 'b2', by: 'ann' }), null);
	assert.equal((await repositories.approve({ repository: 'notes', number: 7, commit: 'a1', by: 'ann' }))?.approved?.by, 'ann');
	assert.equal(
		(await repositories.sawPullRequest({ ...pull, commit: 'b2' })).approved?.commit,
		'a1',
		'what was approved is known, and is another',
	);
	await repositories.sawPullRequest({ ...pull, state: 'closed' });
	assert.equal(await repositories.approve({ repository: 'notes', number: 7, commit: 'a1', by: 'ann' }), null);

	await deliveries.receive(told('notes', '1'));
	const sealed = { ciphertext: Buffer.from('x'), wrapped: Buffer.from('y'), keyId: 'k' };
	await secrets.set({ ...sealed, app: 'repository:notes', environment: 'production', name: 'webhook', by: 'ann', revokesOlder: true });
	assert.equal(await repositories.remove('notes', 'ann'), true);
	assert.equal(await repositories.remove('notes', 'ann'), false);
	assert.deepEqual(
		[await repositories.get('notes'), await repositories.pullRequests('notes'), await deliveries.of('notes', 9)],
		[null, [], []],
	);
	assert.deepEqual(await secrets.list({ app: 'repository:notes', environment: 'production' }), []);
	const actions = (await state.audit.list({ limit: 4 })).map(({ action }) => action);
	assert.deepEqual(actions, ['repository.removed', 'secret.set', 'pull_request.approved', 'repository.changed']);
});

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { systemClock } from '#clock/clock.ts';
import { startCluster, testLog, type TestCluster } from '../../test/fixtures/database.ts';
import { newDeployment, BLOBS } from '../../test/fixtures/release.ts';
import { eventually } from '../../test/fixtures/jibe.ts';
import { openState } from './open.ts';
import type { Membership, NewReplica, State } from './state.ts';

let cluster: TestCluster;
before(async () => (cluster = await startCluster()));
after(() => cluster.stop());

const TIMES = { beatMs: 100, leaseMs: 700, lookMs: 30 };

async function join(state: State, id: string, gone: string[], more: Partial<NewReplica> = {}): Promise<Membership> {
	return await state.replicas.join({
		id,
		addresses: [`https://${id}:7443`],
		home: id,
		version: '1',
		times: TIMES,
		onGone: (one) => Promise.resolve(void gone.push(one)),
		onReturned: () => Promise.resolve(),
		...more,
	});
}

test('replicas know of each other; one that leaves, and one whose session ends without a word, is told to the others', async () => {
	const database = await cluster.database();
	const [one, two] = await Promise.all([1, 2].map(() => cluster.state({ database })));
	const three = await openState({ database, log: testLog, clock: systemClock });
	const gone: string[] = [];
	const first = await join(one!, 'one', gone);
	const second = await join(two!, 'two', []);
	await join(three, 'three', []);
	await eventually(() => (first.others().size === 2 ? true : null), 'both others');
	assert.deepEqual(
		first
			.peers()
			.flatMap(({ addresses }) => addresses)
			.toSorted(),
		['https://three:7443', 'https://two:7443'],
	);
	await second.leave();
	await eventually(() => (gone.includes('two') ? true : null), 'the one that left');
	// Its process dies: the server ends its sessions.
	await three.close();
	await eventually(() => (gone.includes('three') && first.others().size === 0 ? true : null), 'the one that died');
	const left = async () => (await one!.replicas.list()).map(({ id }) => id).join();
	await eventually(async () => ((await left()) === 'one' ? true : null), 'an end of their rows');
});

test('what was not taken over because the database failed is tried again', async () => {
	const database = await cluster.database();
	const [one, two] = await Promise.all([1, 2].map(() => cluster.state({ database })));
	let tries = 0;
	const onGone = () => (++tries < 3 ? Promise.reject(new Error('not now')) : Promise.resolve());
	await join(one!, 'one', [], { onGone });
	const second = await join(two!, 'two', []);
	await second.leave();
	await eventually(() => (tries === 3 ? true : null), 'the third try');
});

test('files that were copied or put back are another database: the epoch goes up, and numbers of releases go on beyond', async () => {
	const database = await cluster.database();
	const within = async <T>(place: string | undefined, work: (state: State) => Promise<T>): Promise<T> => {
		const state = await openState({ database, log: testLog, clock: systemClock, ...(place === undefined ? {} : { place }) });
		try {
			return await work(state);
		} finally {
			await state.close();
		}
	};
	const nothingWanted = newDeployment('notes', { plan: () => ({ rollout: {}, regions: [], writes: [] }) });
	const create = async (state: State) => {
		await state.blobs.own('notes', BLOBS);
		return (await state.deployments.create(nothingWanted)).deployment.release;
	};
	const first = await within(undefined, create);
	const epochs = [];
	for (const place of ['here', 'here', 'there', 'there']) epochs.push((await within(place, (state) => state.installation())).epoch);
	assert.deepEqual(epochs, [1, 1, 2, 2]);
	assert.ok((await within('there', create)) > first + 50);
});

test('work that two controls must not do at once is done one after the other', async () => {
	const database = await cluster.database();
	const [one, two] = await Promise.all([1, 2].map(() => cluster.state({ database })));
	const done: string[] = [];
	const first = Promise.withResolvers<void>();
	const begun = Promise.withResolvers<void>();
	const working = one!.alone(async () => {
		begun.resolve();
		await first.promise;
		done.push('one');
	});
	await begun.promise;
	const waiting = two!.alone(async () => void done.push('two'));
	await two!.events.latest();
	first.resolve();
	await Promise.all([working, waiting]);
	assert.deepEqual(done, ['one', 'two']);
});

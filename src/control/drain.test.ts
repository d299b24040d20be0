import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import { startControl } from '../../test/fixtures/control.ts';
import { drained, instancesOf } from './drain.ts';

let cluster: TestCluster;
before(async () => {
	cluster = await startCluster();
});
after(() => cluster.stop());

const KEY = { app: 'notes', environment: 'production' };

test('a server is drained once its agent tells of no instance any more, in any region; until then it is told what is left', async (t) => {
	const house = await startControl(t, cluster);
	const depot = house.obedientDepot();
	await depot.next('welcome');
	await house.deploy('notes', { config: { strategy: { type: 'walk', watch: '0s' } } });
	const inside = house.control.house;
	assert.equal(await instancesOf(inside, 'local'), 2);
	assert.equal(await instancesOf(inside, 'another'), 0);
	const left: number[] = [];
	const said = (regions: string[]) => {
		depot.link.send({ type: 'instances', server: 'local', groups: regions.map((region) => ({ region, ...KEY, instances: [] })) });
	};
	const done = drained(inside, 'local', new AbortController().signal, ({ left: count, why }) => {
		left.push(count);
		assert.equal(why, null);
		if (count === 2) said(['fra']);
		if (count === 1) said(['ams']);
	});
	await done;
	assert.deepEqual(left, [2, 1, 0]);
});

test('whoever waits for a drain and leaves is not waited for', async (t) => {
	const house = await startControl(t, cluster);
	await house.obedientDepot().next('welcome');
	await house.deploy('notes', { config: { strategy: { type: 'walk', watch: '0s' } } });
	const leaving = new AbortController();
	await drained(house.control.house, 'local', leaving.signal, () => leaving.abort());
});

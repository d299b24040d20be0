import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { ServerState } from '#wire/region.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import { startControl } from '../../test/fixtures/control.ts';
import type { Hub } from './hub.ts';
import { loadOf } from './server-load.ts';

let cluster: TestCluster;
before(async () => {
	cluster = await startCluster();
});
after(() => cluster.stop());

const STATE: ServerState = {
	type: 'serverState',
	server: 'local',
	regions: ['fra', 'ams'],
	version: '0.2.0',
	platform: 'linux-x64-glibc',
	cpus: 2,
	budgetMiB: 100,
	reservedMiB: 0,
	appsMiB: {},
	diskMiB: 80_000,
	diskFreeMiB: 40_000,
	at: 0,
};

test('a deploy that has no room is refused by server and MiB before there is a deployment', async (t) => {
	const house = await startControl(t, cluster);
	const { hub, state } = house.control.house;
	const depot = house.obedientDepot();
	await depot.next('welcome');
	const has = async (budgetMiB: number) => {
		depot.link.send({ ...STATE, budgetMiB });
		await heard(hub, () => hub.servers().every((view) => view.state?.budgetMiB === budgetMiB));
	};
	await has(100);
	const refused = await house.deploy('notes');
	const { error } = refused.json();
	assert.deepEqual([refused.status, error.code, error.data], [507, 'room', { region: 'ams', server: 'local', missingMiB: 28 }]);
	assert.deepEqual(await state.deployments.history({ limit: 10 }), []);
	await has(1000);
	assert.equal((await house.deploy('notes')).status, 200);
});

test('what is told of a server is what its agent said, and what is placed there', async (t) => {
	const house = await startControl(t, cluster);
	const { hub } = house.control.house;
	const depot = house.obedientDepot();
	await depot.next('welcome');
	depot.link.send(STATE);
	await heard(hub, () => hub.servers().every((view) => view.state !== null));
	const key = { environment: 'production', region: 'fra', epoch: 1, version: 1, deployment: null };
	const run = [{ release: 7, instances: 3, as: 'serving' as const, placed: { local: 2, other: 1 } }];
	const wants = [{ ...key, app: 'notes', run, pointer: { primary: 7, candidate: null, hold: null } }];
	const { type: _, server: __, regions: ___, appsMiB: ____, at: _____, ...has } = STATE;
	assert.deepEqual(loadOf(hub, wants, 'local'), { has, placed: [{ app: 'notes', environment: 'production', release: 7, instances: 2 }] });
	assert.deepEqual(loadOf(hub, wants, 'another'), { has: null, placed: [] });
});

function heard(hub: Hub, condition: () => boolean): Promise<void> {
	return new Promise((resolve) => {
		const look = () => {
			if (!condition()) return;
			stop();
			resolve();
		};
		const stop = hub.subscribe(look);
		look();
	});
}

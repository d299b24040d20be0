import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { pause } from '#clock/clock.ts';
import type { BuildJob } from '#wire/builds.ts';
import type { ServerState } from '#wire/region.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import { newBuild } from '../../test/fixtures/build.ts';
import { fakeBuilder } from '../../test/fixtures/builder.ts';
import { FILES, manifestFor, rootOf, startControl } from '../../test/fixtures/control.ts';
import { enqueue } from './builds/builds.ts';
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

test('native code of another platform than the servers have is refused, and made where it can be', async (t) => {
	const house = await startControl(t, cluster);
	const { hub } = house.control.house;
	const depot = house.obedientDepot();
	await depot.next('welcome');
	const areOf = async (platform: string) => {
		depot.link.send({ ...STATE, budgetMiB: 1_000, platform });
		await heard(hub, () => hub.servers().every((view) => view.state?.platform === platform));
	};
	await areOf('linux-arm64-glibc');
	const vendored = (app: string, of: { os: string; cpu: string; libc: string } | null) => {
		const files = { 'vendor.json': JSON.stringify({ app, format: 1, packages: {}, platform: of && { ...of, abi: '137' } }) };
		const header = { vendor: rootOf(files), vendorManifest: { base: null, set: Object.fromEntries(manifestFor(files)), delete: [] } };
		return { header, blobs: [...Object.values(FILES), ...Object.values(files)].map((text) => Buffer.from(text)) };
	};
	const mac = { os: 'darwin', cpu: 'arm64', libc: '' };
	assert.equal((await house.deploy('plain', vendored('plain', null))).status, 200);
	const refused = await house.deploy('notes', vendored('notes', mac));
	assert.deepEqual([refused.status, refused.json().error.code], [409, 'platform_differs']);
	assert.match(refused.json().error.message, /native code, which is for darwin-arm64, and the servers are linux-arm64-glibc/);
	assert.match(refused.json().error.hint ?? '', /no builder here is linux-arm64-glibc: add a server/);
	assert.deepEqual(refused.json().error.data, { made: 'darwin-arm64', wanted: 'linux-arm64-glibc', builder: false });
	// Where builders are of several platforms, a build is for the servers' one; what needs none in particular, for any.
	const [x64, arm] = [fakeBuilder(house), fakeBuilder(house)];
	const waiting = [
		x64.ask('POST', '/claim', { worker: x64.worker, platform: 'linux-x64-glibc' }),
		arm.ask('POST', '/claim', { worker: arm.worker, platform: 'linux-arm64-glibc' }),
	] as const;
	for (let left = 500; house.control.house.builds.platforms().size < 2 && left > 0; left--) await pause(10);
	assert.equal((await house.deploy('notes', vendored('notes', mac))).json().error.hint, '"jibe deploy --remote" makes it on a builder of that platform'); // prettier-ignore
	await enqueue(house.control.house, newBuild());
	const { job } = (await waiting[1]).json<{ job: BuildJob }>();
	assert.equal(job.platform, 'linux-arm64-glibc');
	const made = await arm.bring(job, { config: { runtime: 'process', start: './notes', build: 'make' } });
	assert.deepEqual([made.status, made.json().error.code], [409, 'platform_differs'], made.text);
	await areOf('linux-x64-glibc');
	const glibc = { os: 'linux', cpu: 'x64', libc: 'glibc' };
	assert.equal((await house.deploy('notes', vendored('notes', glibc))).status, 200);
	// A region of each: no release could serve both.
	depot.link.send({ ...STATE, server: 'other', regions: ['ams'], budgetMiB: 1_000, platform: 'linux-arm64-glibc' });
	await heard(hub, () => hub.servers().some((view) => view.state?.platform === 'linux-arm64-glibc'));
	const both = await house.deploy('more', vendored('more', glibc));
	assert.deepEqual([both.status, both.json().error.code], [422, 'platforms_differ'], both.text);
	assert.match(both.json().error.message, /servers of linux-arm64-glibc and linux-x64-glibc: a release holds one platform/);
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

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, before, test, type TestContext } from 'node:test';
import { WebSocket } from 'ws';
import type { Event, FeedFrame } from '#wire/api.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import { startControl, type TestControl } from '../../test/fixtures/control.ts';

let cluster: TestCluster;
before(async () => {
	cluster = await startCluster();
});
after(() => cluster.stop());

const QUICK = { strategy: { type: 'walk' as const, watch: '0s' } };

test('the feed begins with a snapshot, then tells every event once and in order', async (t) => {
	const house = await startControl(t, cluster);
	await house.obedientDepot().next('welcome');
	const feed = await read(t, house);
	const snapshot = await feed.snapshot();
	assert.deepEqual(snapshot.regions.map(({ name }) => name), ['fra', 'ams']); // prettier-ignore
	await house.deploy('notes', { config: QUICK });
	const events = await feed.until(isDeployed);
	assert.deepEqual(events.map(({ cursor }) => cursor), [...new Set(events.map(({ cursor }) => cursor))].toSorted((a, b) => a - b)); // prettier-ignore
	assert.ok(events.every(({ cursor }) => cursor > snapshot.cursor));
	assert.ok(events.some(({ type }) => type === 'pointer.written'));
});

test('a reader that comes back with its cursor has missed nothing', async (t) => {
	const house = await startControl(t, cluster);
	await house.obedientDepot().next('welcome');
	const first = await read(t, house);
	const { cursor } = await first.snapshot();
	await house.deploy('notes', { config: QUICK });
	const seen = await first.until(isDeployed);
	first.socket.terminate();
	const second = await read(t, house, cursor);
	assert.deepEqual(await second.until(isDeployed), seen);
});

test('a cursor that is not known gets a snapshot', async (t) => {
	const house = await startControl(t, cluster);
	const feed = await read(t, house, 1_000_000);
	assert.ok((await feed.snapshot()).cursor < 1_000_000);
});

test('a token sees events of its own apps only', async (t) => {
	const house = await startControl(t, cluster);
	await house.obedientDepot().next('welcome');
	const { secret } = await house.state.tokens.create({
		name: 'ci',
		role: 'deployer',
		apps: ['mine'],
		environments: null,
		expiresAt: null,
		by: 'test',
	});
	const feed = await read(t, house, undefined, secret);
	await feed.snapshot();
	await house.deploy('other', { config: QUICK });
	await house.deploy('mine', { config: QUICK });
	const events = await feed.until(isDeployed);
	assert.deepEqual([...new Set(events.map(({ app }) => app))].filter((app) => app !== null), ['mine']); // prettier-ignore
	assert.ok(!events.some(({ type }) => type.startsWith('token.')));
});

function isDeployed(event: Event): boolean {
	return event.type === 'deployment.state' && event.data['state'] === 'Deployed';
}

async function read(t: TestContext, house: TestControl, cursor?: number, token = house.admin) {
	const path = `/api/v1/events${cursor === undefined ? '' : `?after=${cursor}`}`;
	const socket = new WebSocket(house.control.url.replace('http', 'ws') + path, { headers: { authorization: `Bearer ${token}` } });
	t.after(() => socket.terminate());
	const frames: FeedFrame[] = [];
	let wake = () => {};
	socket.on('message', (data: Buffer) => {
		frames.push(JSON.parse(data.toString()) as FeedFrame);
		wake();
	});
	await once(socket, 'open');
	const next = async () => {
		while (frames.length === 0) await new Promise<void>((resolve) => (wake = resolve));
		return frames.shift()!;
	};
	return {
		socket,
		async snapshot() {
			const frame = await next();
			assert.ok('snapshot' in frame);
			return frame.snapshot;
		},
		async until(last: (event: Event) => boolean) {
			const events: Event[] = [];
			for (;;) {
				const frame = await next();
				assert.ok('event' in frame);
				events.push(frame.event);
				if (last(frame.event)) return events;
			}
		},
	};
}

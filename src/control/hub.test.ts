import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Clock } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import type { LinkHandlers, ServerLink } from '#wire/accept.ts';
import { WIRE_VERSION, type DownMessage, type Instance, type Known, type ReleaseSpec, type Want } from '#wire/region.ts';
import { Hub } from './hub.ts';
import type { HubEvent } from './ports.ts';
import { GONE_GRACE_MS } from './region-links.ts';
import { releaseSpec } from '#wire/fixture.ts';

const log = createLog({}, { write: () => {} });
const PLACE = { region: 'fra', app: 'notes', environment: 'production' };

test('a depot that is back within the grace was never lost; one that stays away is', async () => {
	const { hub, events, clock, connect } = house();
	const first = await connect();
	first.handlers.onClosed('1006');
	clock.pass(GONE_GRACE_MS - 1);
	assert.equal(hub.regions()[0]?.connected, true);
	const second = await connect();
	second.handlers.onClosed('1006');
	clock.pass(GONE_GRACE_MS);
	assert.equal(hub.regions()[0]?.connected, false);
	assert.deepEqual(types(events, 'lost', 'back'), ['lost']);
	await connect();
	assert.deepEqual(types(events, 'lost', 'back'), ['lost', 'back']);
	assert.equal(hub.regions()[0]?.connected, true);
});

test('a depot that was silent for 15 s is lost at once', async () => {
	const { hub, connect } = house();
	const { handlers } = await connect();
	handlers.onClosed('silent');
	assert.equal(hub.regions()[0]?.connected, false);
});

test('a depot that connects again replaces its old link, whose late end changes nothing', async () => {
	const { hub, clock, connect } = house();
	const old = await connect();
	await connect();
	old.handlers.onClosed('1001');
	clock.pass(GONE_GRACE_MS);
	assert.equal(hub.regions()[0]?.connected, true);
});

test('what a depot holds that is older is sent anew, with the releases it names', async () => {
	const { connect } = house({ wants: [want(3)], releases: [releaseSpec(1), releaseSpec(2)] });
	const { sent } = await connect([known(2)]);
	const wants = sent.find((message) => message.type === 'wants');
	assert.deepEqual(wants?.wants.map(({ version }) => version), [3]); // prettier-ignore
	assert.deepEqual(wants?.releases.map(({ release }) => release), [1]); // prettier-ignore
	const same = await connect([known(3)]);
	assert.equal(same.sent.some((message) => message.type === 'wants'), false); // prettier-ignore
});

test('a depot that knows more than the database says so', async () => {
	const { events, connect } = house({ wants: [want(3)], releases: [releaseSpec(1)] });
	await connect([known(4)]);
	assert.deepEqual(events.find(({ type }) => type === 'ahead'), { type: 'ahead', ...known(4) }); // prettier-ignore
});

test('a depot that missed the removal of an app, of which only its last version is remembered, hears of it; one beyond that is ahead', async () => {
	const forgotten = { epoch: 1, versions: new Map([['notes', 7]]) };
	const { events, connect } = house({ wants: [], releases: [] }, forgotten);
	const { sent } = await connect([known(5)]);
	const told = sent.flatMap((message) => (message.type === 'wants' ? message.wants : []));
	assert.deepEqual(
		told.map(({ version, removed, run }) => ({ version, removed, run })),
		[{ version: 7, removed: true, run: [] }],
	);
	const knows = await connect([known(7)]);
	assert.equal(knows.sent.some((message) => message.type === 'wants'), false); // prettier-ignore
	assert.deepEqual(types(events, 'ahead'), []);
	await connect([known(8)]);
	assert.deepEqual(types(events, 'ahead'), ['ahead']);
});

test('with the database away a depot gets what control last wrote', async () => {
	const { hub, connect, away } = house();
	away();
	hub.send([want(5)], [releaseSpec(1)], null);
	const { sent } = await connect([known(4)]);
	assert.deepEqual(sent.flatMap((message) => (message.type === 'wants' ? message.wants.map(({ version }) => version) : [])), [5]); // prettier-ignore
});

test('applied is what the slowest edge there obeys, and nothing while one has not spoken', async () => {
	const { hub, connect } = house();
	const { handlers } = await connect();
	const say = (message: Parameters<LinkHandlers['onMessage']>[0]) => handlers.onMessage(message, '');
	const there = (...names: string[]) =>
		say({ type: 'presence', regions: [{ region: 'fra', agents: [], edges: names.map((name) => ({ server: 'local', name })) }] });
	assert.equal(hub.applied(PLACE), null);
	there('edge-0', 'edge-1');
	say({ type: 'applied', server: 'local', edge: 'edge-0', items: [known(4)] });
	assert.equal(hub.applied(PLACE), null);
	say({ type: 'applied', server: 'local', edge: 'edge-1', items: [known(3)] });
	assert.deepEqual(hub.applied(PLACE), { epoch: 1, version: 3 });
	there('edge-0');
	assert.deepEqual(hub.applied(PLACE), { epoch: 1, version: 4 });
	there('edge-0', 'edge-1');
	assert.equal(hub.applied(PLACE), null, 'an edge that came back says anew what it obeys');
});

test('instances of a depot that is back stay until it has had time to say them again', async () => {
	const { hub, events, clock, connect } = house();
	const first = await connect();
	const groups = [{ ...PLACE, instances: [instance('i1')] }];
	first.handlers.onMessage({ type: 'instances', server: 'one', groups }, '');
	first.handlers.onMessage({ type: 'instances', server: 'two', groups: [{ ...PLACE, instances: [instance('i2')] }] }, '');
	first.handlers.onClosed('1006');
	const second = await connect();
	second.handlers.onMessage({ type: 'instances', server: 'one', groups }, '');
	assert.deepEqual(hub.instances(PLACE).map(({ id }) => id), ['i1', 'i2']); // prettier-ignore
	events.length = 0;
	clock.pass(1_000);
	assert.deepEqual(hub.instances(PLACE).map(({ id }) => id), ['i1']); // prettier-ignore
	assert.deepEqual(types(events, 'instances'), ['instances']);
});

test('a region with two depots is lost with the last of them, and who is there is whom either hears', async () => {
	const { hub, events, clock, connect } = house();
	const one = await connect([], 'one');
	const two = await connect([], 'two');
	const edge = (name: string) => ({ server: name, name: 'edge-0' });
	const there = (agents: string[], edges: string[]) => ({
		type: 'presence' as const,
		regions: [{ region: 'fra', agents: agents.map((server) => ({ server })), edges: edges.map(edge) }],
	});
	one.handlers.onMessage(there(['one', 'two'], ['one', 'two']), '');
	two.handlers.onMessage(there(['two', 'three'], ['two']), '');
	assert.deepEqual(hub.regions()[0]?.agents, ['one', 'two', 'three']);
	for (const name of ['one', 'two']) one.handlers.onMessage({ type: 'applied', server: name, edge: 'edge-0', items: [known(3)] }, '');
	events.length = 0;
	two.handlers.onMessage({ type: 'applied', server: 'one', edge: 'edge-0', items: [known(3)] }, '');
	assert.deepEqual(types(events, 'applied'), [], 'another depot says the same: no news');
	// What another depot heard before comes later.
	two.handlers.onMessage({ type: 'applied', server: 'two', edge: 'edge-0', items: [known(2)] }, '');
	assert.deepEqual(hub.applied(PLACE), { epoch: 1, version: 3 });
	one.handlers.onClosed('silent');
	assert.equal(hub.regions()[0]?.connected, true);
	assert.deepEqual([hub.regions()[0]?.agents, hub.regions()[0]?.edges], [['two', 'three'], ['two/edge-0']]);
	assert.deepEqual(hub.applied(PLACE), { epoch: 1, version: 3 }, 'the edge that only the other one heard is not waited for');
	assert.deepEqual(hub.servers().filter(({ connected }) => !connected).map(({ server }) => server), ['one']); // prettier-ignore
	two.handlers.onClosed('1006');
	clock.pass(GONE_GRACE_MS);
	assert.deepEqual(types(events, 'lost', 'back'), ['lost']);
	const back = await connect([], 'one');
	assert.deepEqual(types(events, 'lost', 'back'), ['lost', 'back']);
	hub.send([want(7)], [], null);
	assert.equal(back.sent.findLast((message) => message.type === 'wants')?.wants[0]?.version, 7);
});

test('every depot of a region is told what is wanted; a depot that connects again unsays nothing that another says', async () => {
	const { hub, clock, connect } = house();
	const one = await connect([], 'one');
	const two = await connect([], 'two');
	hub.send([want(5)], [releaseSpec(1)], null);
	for (const { sent } of [one, two]) assert.equal(sent.some((message) => message.type === 'wants'), true); // prettier-ignore
	two.handlers.onMessage({ type: 'instances', server: 'two', groups: [{ ...PLACE, instances: [instance('i2')] }] }, '');
	await connect([], 'one');
	clock.pass(2_000);
	assert.deepEqual(hub.instances(PLACE).map(({ id }) => id), ['i2']); // prettier-ignore
});

test('an older report of an agent that comes by another depot changes nothing, also where it had instances then', async () => {
	const { hub, events, connect } = house();
	const one = await connect([], 'one');
	const two = await connect([], 'two');
	const say = (by: typeof one, run: number, count: number, ...ids: string[]) =>
		by.handlers.onMessage(
			{ type: 'instances', server: 'three', groups: [{ ...PLACE, order: { run, count }, instances: ids.map(instance) }] },
			'',
		);
	const ids = () => hub.instances(PLACE).map(({ id }) => id);
	say(one, 4, 7, 'i1');
	say(two, 4, 7, 'i1');
	assert.deepEqual(types(events, 'instances'), ['instances'], 'the same again is no news');
	say(one, 4, 8);
	say(two, 4, 7, 'i1');
	assert.deepEqual(ids(), []);
	say(two, 5, 0, 'i2');
	say(one, 4, 9, 'i1');
	assert.deepEqual(ids(), ['i2'], 'the agent was started anew since');
});

test('what an edge counted in a second counts once, however many depots pass it on', async () => {
	const { events, connect } = house();
	const one = await connect([], 'one');
	const two = await connect([], 'two');
	const stats = (server: string, second: number) => ({ type: 'stats' as const, server, edge: 'edge-0', second, rows: [] });
	for (const { handlers } of [one, two]) handlers.onMessage(stats('three', 100), '');
	two.handlers.onMessage(stats('four', 100), '');
	two.handlers.onMessage(stats('three', 101), '');
	assert.equal(types(events, 'stats').length, 3);
});

test('regions come and go with the servers that join and are removed; every depot hears whom to trust', async () => {
	const { hub, events, connect } = house();
	const { sent } = await connect();
	assert.deepEqual(sent.find((message) => message.type === 'servers')?.control, ['fra']);
	hub.serversChanged(['fra', 'ams', 'nrt'], new Set(['tokyo']));
	assert.equal(sent.filter((message) => message.type === 'servers').length, 2);
	const tokyo = await connect([], 'tokyo', ['nrt']);
	const place = { ...PLACE, region: 'nrt' };
	const there = { type: 'presence' as const, regions: [{ region: 'nrt', agents: [{ server: 'tokyo' }], edges: [] }] };
	tokyo.handlers.onMessage(there, '');
	tokyo.handlers.onMessage({ type: 'instances', server: 'tokyo', groups: [{ ...place, instances: [instance('i1')] }] }, '');
	assert.equal(hub.instances(place).length, 1);
	assert.equal(hub.servers().length, 1);
	events.length = 0;
	hub.serversChanged(['fra', 'ams'], new Set());
	assert.deepEqual(hub.regions().map(({ name }) => name), ['fra', 'ams']); // prettier-ignore
	assert.deepEqual([hub.instances(place), hub.servers()], [[], []]);
	assert.deepEqual(types(events, 'lost', 'servers', 'instances').toSorted(), ['instances', 'lost', 'servers']);
	tokyo.handlers.onClosed('1008');
});

test('what an agent said before a release was wanted again does not count', async () => {
	const { hub, connect } = house();
	const { handlers } = await connect();
	const again = { release: 1, instances: 1, as: 'prepared' as const, since: { epoch: 1, version: 8 } };
	hub.send([{ ...want(8), run: [again] }], [], null);
	const say = (version: number) =>
		handlers.onMessage(
			{ type: 'instances', server: 'one', groups: [{ ...PLACE, obeys: { epoch: 1, version }, instances: [instance('i1')] }] },
			'',
		);
	say(7);
	assert.deepEqual(hub.instances(PLACE), []);
	say(8);
	assert.equal(hub.instances(PLACE).length, 1);
});

test('a depot speaks for its own regions only', async () => {
	const { hub, connect } = house();
	const { handlers } = await connect();
	handlers.onMessage({ type: 'instances', server: 'one', groups: [{ ...PLACE, region: 'ams', instances: [instance('i1')] }] }, '');
	assert.deepEqual(hub.instances({ ...PLACE, region: 'ams' }), []);
});

test('a probe ends with the answer, the time limit, the end of the link, or no link at all', async () => {
	const { hub, clock, connect } = house();
	const ask = { ...PLACE, releases: [1], discard: 0, count: 1 };
	await assert.rejects(hub.probe(ask), { code: 'probe_failed' });
	const { handlers, sent } = await connect();
	const answered = hub.probe(ask);
	const asked = sent.find((message) => message.type === 'probe')!;
	handlers.onMessage({ type: 'probed', id: asked.id, samples: [{ release: 1, status: 200, ms: 1 }], error: null }, '');
	assert.equal((await answered).samples.length, 1);
	const refused = hub.probe(ask);
	const last = sent.findLast((message) => message.type === 'probe')!;
	handlers.onMessage({ type: 'probed', id: last.id, samples: [], error: 'no edge' }, '');
	await assert.rejects(refused, /no edge/);
	const late = hub.probe(ask);
	clock.pass(15_000);
	await assert.rejects(late, /in time/);
	const cut = hub.probe(ask);
	handlers.onClosed('1006');
	await assert.rejects(cut, /broke/);
});

test('log lines come from all regions asked, and end with the last', async () => {
	const { hub, connect } = house();
	const { handlers, sent } = await connect();
	const texts: string[] = [];
	let ended = 0;
	const query = { app: 'notes', environment: 'production', since: 0, maxLines: 10 };
	const read = (follow: boolean) =>
		hub.logs({
			...query,
			regions: ['fra', 'ams'],
			follow,
			onLines: (lines) => texts.push(...lines.map(({ text }) => text)),
			onEnd: () => ended++,
		});
	read(false);
	const { id } = sent.find((message) => message.type === 'logsWanted')!;
	const line = { at: 1, region: 'fra', instance: 'i', release: 1, stream: 'out' as const, text: 'hello' };
	handlers.onMessage({ type: 'logLines', id, lines: [line], end: false }, '');
	assert.deepEqual([texts, ended], [['hello'], 0]);
	handlers.onMessage({ type: 'logLines', id, lines: [], end: true }, '');
	assert.equal(ended, 1);
	const stop = read(true);
	stop();
	assert.equal(sent.at(-1)?.type, 'logsDone');
	assert.equal(ended, 2);
});

test('a thousand depots that connect at once have the database read twice, and each hears what was wanted when it came', async () => {
	const { reads, connect } = house({ wants: [want(3)], releases: [releaseSpec(1)] });
	const connected = await Promise.all(Array.from({ length: 1_000 }, (_, n) => connect([known(2)], `s${n}`)));
	assert.ok(connected.every(({ sent }) => sent.some(({ type }) => type === 'wants')));
	assert.equal(reads(), 2);
});

function types(events: HubEvent[], ...wanted: HubEvent['type'][]): string[] {
	return events.map(({ type }) => type).filter((type) => wanted.includes(type));
}

/** A hub of two regions, of which depots of the first connect, with time in the test's hand. */
function house(
	database: { wants: Want[]; releases: ReleaseSpec[] } = { wants: [], releases: [] },
	forgotten: { epoch: number; versions: ReadonlyMap<string, number> } = { epoch: 0, versions: new Map() },
) {
	const clock = handClock();
	const events: HubEvent[] = [];
	let answers = true;
	let lists = 0;
	let looks = 0;
	const hub = new Hub({
		installation: 'here',
		regions: ['fra', 'ams'],
		async wanted() {
			looks++;
			if (!answers) throw new Error('the database is away');
			return database;
		},
		forgotten: () => Promise.resolve(forgotten),
		servers: (names) => ({ type: 'servers', version: ++lists, control: [...names], servers: [] }),
		log,
		clock,
	});
	hub.subscribe((event) => events.push(event));
	return {
		hub,
		events,
		clock,
		reads: () => looks,
		away: () => (answers = false),
		connect: async (held: Known[] = [], server = 'local', regions = ['fra']) => {
			const sent: DownMessage[] = [];
			const link: ServerLink = {
				claims: { installation: 'here', role: 'depot', server, regions, expires: 4_000_000_000 },
				hello: { type: 'hello', wire: WIRE_VERSION, role: 'depot', server, name: 'depot', regions, known: held },
				heardAt: () => clock.monotonic(),
				send: (message) => sent.push(message) > 0,
				sendFrame: (text) => sent.push(JSON.parse(text) as DownMessage) > 0,
				close: () => {},
			};
			const handlers = hub.onLink(link);
			// The look into the database is over.
			await new Promise((resolve) => setImmediate(resolve));
			return { handlers, sent };
		},
	};
}

function handClock(): Clock & { pass(ms: number): void } {
	let now = 0;
	const timers = new Set<{ at: number; task: () => void }>();
	return {
		now: () => now,
		monotonic: () => now,
		after(delayMs, task) {
			const timer = { at: now + delayMs, task };
			timers.add(timer);
			return { cancel: () => timers.delete(timer) };
		},
		every: () => ({ cancel: () => {} }),
		pass(ms) {
			now += ms;
			for (const timer of timers) {
				if (timer.at > now) continue;
				timers.delete(timer);
				timer.task();
			}
		},
	};
}

function want(version: number): Want {
	const pointer = { primary: 1, candidate: null, hold: null };
	return { ...PLACE, epoch: 1, version, deployment: null, pointer, run: [{ release: 1, instances: 1, as: 'serving' }] };
}

function known(version: number): Known {
	return { ...PLACE, epoch: 1, version };
}

function instance(id: string): Instance {
	const rest = { pid: 1, reason: null, detail: null, restarts: 0, cold: false, timings: null };
	return { id, release: 1, state: 'serving', healthy: true, address: 'unix:/x.sock', ...rest };
}

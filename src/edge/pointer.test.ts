import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { pause, systemClock } from '#clock/clock.ts';
import {
	ask,
	hastyClock,
	instanceAt,
	openStage,
	reportObeying,
	reportOf,
	serving,
	specOf,
	startInstance,
	temporary,
	wantOf,
	wantsOf,
} from './fixture.ts';
import type { Stage } from './fixture.ts';
import { Serving, type Ways } from './serving.ts';
import { directWay } from './way.ts';

const versionOf = async (stage: Stage): Promise<string | undefined> =>
	(await ask(stage.port)).headers['x-jibe-release'] as string | undefined;
const lastApplied = (stage: Stage): number | undefined =>
	stage.sent
		.filter((message) => message.type === 'applied')
		.at(-1)
		?.items.find((item) => item.app === 'notes')?.version;

test('make before break: a pointer is obeyed once enough of its instances are healthy', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('one'));
	assert.equal(lastApplied(stage), 1);
	const news = await Promise.all([1, 2, 3, 4, 5].map((n) => startInstance(t, 2, (_req, res) => res.end('two'), `n${n}`)));
	const old = stage.instance.as('serving');
	stage.tell(
		wantsOf(
			wantOf(2, 2, {
				run: [
					{ release: 2, instances: 5, as: 'serving' },
					{ release: 1, instances: 1, as: 'warm' },
				],
			}),
			specOf(2),
		),
	);
	assert.equal((await ask(stage.port)).body, 'one');
	stage.tell(reportOf(old, ...news.slice(0, 4).map((one, i) => one.as('prepared', { healthy: i !== 0 }))));
	assert.equal((await ask(stage.port)).body, 'one');
	assert.equal(lastApplied(stage), 1);
	stage.tell(reportOf(old, ...news.slice(0, 4).map((one) => one.as('prepared'))));
	assert.equal(lastApplied(stage), 2);
	assert.equal((await ask(stage.port)).body, 'two');
	assert.equal(await versionOf(stage), 'v2');
});

test('what is only prepared is obeyed, and said with the pointer that follows', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('one'));
	const two = await startInstance(t, 2, (_req, res) => res.end('two'), 'n2');
	const one = { release: 1, instances: 1, as: 'serving' as const };
	const before = stage.sent.length;
	stage.tell(wantsOf(wantOf(2, 1, { run: [one, { release: 2, instances: 1, as: 'prepared' }] }), specOf(2)));
	stage.tell(reportOf(stage.instance.as('serving'), two.as('prepared')));
	assert.deepEqual([stage.sent.length, stage.edge.hello().known[0]?.version], [before, 2]);
	stage.tell(wantsOf(wantOf(3, 2, { run: [one, { release: 2, instances: 1, as: 'serving' }] })));
	assert.deepEqual(stage.sent.slice(before).map((message) => message.type === 'applied' && message.items.map(({ version }) => version)), [[3]]); // prettier-ignore
	stage.tell(
		wantsOf(wantOf(4, 2, { run: [one, { release: 2, instances: 1, as: 'serving' }, { release: 3, instances: 1, as: 'prepared' }] })),
	);
	assert.equal((await stage.saw('applied', ({ items }) => items[0]?.version === 4)).items.length, 1, 'by itself, if none follows');
});

test('an edge that is cut off from a server obeys by what it can reach; with nothing in reach it waits', () => {
	const cutOff = new Set(['web-2']);
	const ways: Ways = (server, { address }) => ({ ...directWay(address), reachable: !cutOff.has(server) });
	const place = new Serving({ region: 'fra', app: 'notes', environment: 'production' }, systemClock, ways);
	const report = (server: string, release: number) =>
		place.report(server, [instanceAt(`unix:/${server}.sock`, release, `${server}-${release}`, 'serving')]);
	const servers = ['web-1', 'web-2', 'web-3'];
	for (const server of servers) report(server, 1);
	place.want(wantOf(1, 1, { run: [{ release: 1, instances: 3, as: 'serving' }] }), [specOf(1), specOf(2)]);
	assert.equal(place.obey()?.version, 1, 'two of three, and the third is out of reach');
	place.want(wantOf(2, 2, { run: [{ release: 2, instances: 3, as: 'serving' }] }), []);
	cutOff.add('web-1').add('web-3').delete('web-2');
	for (const server of ['web-1', 'web-3']) report(server, 2);
	assert.equal(place.obey(), null, 'nothing of it is in reach');
	cutOff.clear();
	assert.equal(place.obey(), null, 'two of three that could be reached');
	report('web-2', 2);
	assert.equal(place.obey()?.version, 2);
});

test('what an agent said before a release was wanted again does not count', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('one'));
	const next = await startInstance(t, 2, (_req, res) => res.end('two'));
	const said = (version: number) => reportObeying(version, stage.instance.as('serving'), next.as('prepared'));
	stage.tell(said(2));
	const again = { release: 2, instances: 1, as: 'serving' as const, since: { epoch: 1, version: 4 } };
	stage.tell(wantsOf(wantOf(5, 2, { run: [again] }), specOf(2)));
	assert.equal((await ask(stage.port)).body, 'one', 'it was dropped by version 3 and may be gone');
	stage.tell(said(4));
	assert.equal((await ask(stage.port)).body, 'two');
	assert.equal(lastApplied(stage), 5);
});

test('with nobody left of what serves, one healthy instance of what is wanted is enough', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('one'));
	const next = await startInstance(t, 2, (_req, res) => res.end('two'));
	stage.tell(wantsOf(wantOf(2, 2, { run: [{ release: 2, instances: 5, as: 'serving' }] }), specOf(2)));
	stage.tell(reportOf(stage.instance.as('serving', { healthy: false }), next.as('prepared')));
	assert.equal((await ask(stage.port)).body, 'two');
});

test('an older want is refused, by epoch before version', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('one'));
	const next = await startInstance(t, 2, (_req, res) => res.end('two'));
	stage.tell(reportOf(stage.instance.as('serving'), next.as('serving')));
	stage.tell(wantsOf(wantOf(5, 2, { epoch: 3 }), specOf(2)));
	assert.equal((await ask(stage.port)).body, 'two');
	stage.tell(wantsOf(wantOf(9, 1, { epoch: 2 }), specOf(1)));
	stage.tell(wantsOf(wantOf(4, 1, { epoch: 3 }), specOf(1)));
	assert.equal((await ask(stage.port)).body, 'two');
	assert.equal(lastApplied(stage), 5);
});

test('in flight stays where it is: the old release finishes, new requests go to the new one', async (t) => {
	// Nothing ever is at rest for long: only the swing itself closes.
	const still = { ...systemClock, monotonic: () => 0 };
	const { promise: finish, resolve } = Promise.withResolvers<void>();
	const { promise: began, resolve: begin } = Promise.withResolvers<void>();
	const stage = await serving(
		t,
		(req, res) => {
			if (req.url === '/quick') return void res.end('quick');
			begin();
			void finish.then(() => res.end('one'));
		},
		{},
		still,
	);
	const slow = ask(stage.port);
	await began;
	// Leaves a connection at rest.
	await ask(stage.port, { path: '/quick' });
	const next = await startInstance(t, 2, (_req, res) => res.end('two'));
	stage.tell(reportOf(stage.instance.as('serving'), next.as('serving')));
	stage.tell(wantsOf(wantOf(2, 2), specOf(2)));
	assert.equal((await ask(stage.port)).body, 'two');
	stage.tell(reportOf(stage.instance.as('draining'), next.as('serving')));
	resolve();
	const reply = await slow;
	assert.equal(reply.body, 'one');
	assert.equal(reply.headers['x-jibe-release'], 'v1');
	// No connection stays open to an instance that is about to be frozen.
	const { server } = stage.instance;
	while ((await new Promise((count) => server.getConnections((_error, open) => count(open)))) !== 0) await pause(5);
});

test('a cleared pointer answers with the page of nothing', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('one'));
	stage.tell(wantsOf(wantOf(2, null)));
	const reply = await ask(stage.port);
	assert.equal(reply.status, 503);
	assert.match(reply.body, /nothing_serves/);
	assert.equal(lastApplied(stage), 2);
});

test('a removed app is unknown', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('one'));
	stage.tell(wantsOf(wantOf(2, null, { removed: true })));
	assert.equal((await ask(stage.port)).status, 404);
});

test('restarted with depot and control away, it serves from its disk, and obeys what it had not obeyed yet', async (t) => {
	const first = await serving(t, (_req, res) => res.end('one'));
	const next = await startInstance(t, 2, (_req, res) => res.end('two'));
	first.tell(wantsOf(wantOf(2, 2), specOf(2)));
	const stage = await first.again();
	assert.equal((await ask(stage.port)).body, 'one');
	assert.deepEqual(stage.edge.hello().known, [{ region: 'fra', app: 'notes', environment: 'production', epoch: 1, version: 2 }]);
	stage.edge.connected();
	assert.equal(lastApplied(stage), 1);
	stage.tell(reportOf(first.instance.as('serving'), next.as('prepared')));
	assert.equal((await ask(stage.port)).body, 'two');
	const third = await stage.again();
	assert.equal((await ask(third.port)).body, 'two');
});

test('a torn file of its memory is left aside', async (t) => {
	const first = await serving(t, (_req, res) => res.end('one'));
	await first.edge.close();
	const memory = join(first.directory, 'memory');
	writeFileSync(join(memory, 'fra.torn.production.json'), '{"wanted":');
	writeFileSync(join(memory, 'fra.notes.production.json.draft'), '{}');
	const stage = await first.again();
	assert.equal((await ask(stage.port)).body, 'one');
	assert.ok(!readdirSync(memory).some((name) => name.endsWith('.draft')));
});

test('a split: users stay on their side, a page load gets a cookie', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('one'), { userKey: 'header:x-user' });
	const next = await startInstance(t, 2, (_req, res) => res.end('two'));
	const both = (version: number, weightBp: number) =>
		wantsOf(
			wantOf(version, 1, {
				pointer: { primary: 1, candidate: { release: 2, weightBp }, hold: null },
				run: [{ release: 1, instances: 1, as: 'serving' }, { release: 2, instances: 1, as: 'serving' }],
			}),
			specOf(1, { userKey: 'header:x-user' }),
			specOf(2),
		); // prettier-ignore
	stage.tell(both(2, 5000));
	assert.equal(lastApplied(stage), 1);
	stage.tell(reportOf(stage.instance.as('serving'), next.as('serving')));
	assert.equal(lastApplied(stage), 2);
	const sides = async (): Promise<string[]> => {
		const replies = await Promise.all(Array.from({ length: 200 }, (_, i) => ask(stage.port, { headers: { 'x-user': `u${i}` } })));
		return replies.map((reply) => reply.body);
	};
	const half = await sides();
	const count = half.filter((side) => side === 'two').length;
	assert.ok(count > 70 && count < 130, `${count} of 200`);
	assert.deepEqual(await sides(), half);
	stage.tell(both(3, 8000));
	const most = await sides();
	half.forEach((side, i) => assert.ok(side === 'one' || most[i] === 'two', `u${i} was sent back`));
	const page = await ask(stage.port, { headers: { accept: 'text/html' } });
	const cookie = String(page.headers['set-cookie']).split(';')[0] as string;
	assert.match(cookie, /^jibe-user=[0-9a-f]{16}$/);
	for (let i = 0; i < 5; i++) {
		const again = await ask(stage.port, { headers: { accept: 'text/html', cookie } });
		assert.equal(again.body, page.body);
		assert.equal(again.headers['set-cookie'], undefined);
	}
});

test('an instance that refuses connections: its requests go to another, and it is left alone until it returns', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('alive'));
	const dead = instanceAt(`unix:${join(temporary(t), 'none.sock')}`, 1, 'dead', 'serving');
	stage.tell(reportOf(stage.instance.as('serving'), dead));
	for (let i = 0; i < 50; i++) assert.equal((await ask(stage.port, { method: 'POST', body: 'x' })).body, 'alive');
});

test('all instances down: requests are held until one is there', async (t) => {
	const stage = await openStage(t);
	const instance = await startInstance(t, 1, (_req, res) => res.end('late'));
	stage.tell(reportOf(instance.as('serving')));
	stage.tell(wantsOf(wantOf(1, 1), specOf(1)));
	await ask(stage.port);
	stage.tell(reportOf());
	const held = Array.from({ length: 10 }, () => ask(stage.port, { method: 'POST', body: 'x' }));
	while (stage.edge.underWay < held.length) await pause(5);
	stage.tell(reportOf(instance.as('serving')));
	for (const reply of await Promise.all(held)) assert.equal(reply.body, 'late');
});

test('nobody comes back: a running previous release as the last resort, else 503 with Retry-After', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('one'), { warm: 'running' }, hastyClock);
	const next = await startInstance(t, 2, (_req, res) => res.end('two'));
	stage.tell(reportOf(stage.instance.as('warm'), next.as('serving')));
	stage.tell(wantsOf(wantOf(2, 2, { run: [{ release: 2, instances: 1, as: 'serving' }, { release: 1, instances: 1, as: 'warm' }] }), specOf(2))); // prettier-ignore
	assert.equal((await ask(stage.port)).body, 'two');
	stage.tell(reportOf(stage.instance.as('warm')));
	const resort = await ask(stage.port);
	assert.equal(resort.body, 'one');
	assert.equal(resort.headers['x-jibe-release'], 'v1');
	stage.tell(reportOf());
	const none = await ask(stage.port);
	assert.equal(none.status, 503);
	assert.match(none.body, /unavailable/);
	assert.equal(none.headers['retry-after'], '2');
});

test('a warm release that keeps running has a connection before the pointer names it; a frozen one has none', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('one'), { warm: 'running' });
	const connections = [0, 0];
	const [running, frozen] = await Promise.all([2, 3].map((n) => startInstance(t, n, (_req, res) => res.end(), `w${n}`)));
	for (const [n, { server }] of [running!, frozen!].entries()) server.on('connection', () => connections[n]!++);
	const run = [1, 2, 3].map((release) => ({ release, instances: 1, as: release === 1 ? ('serving' as const) : ('warm' as const) }));
	stage.tell(wantsOf(wantOf(2, 1, { run }), specOf(2, { warm: 'running' }), specOf(3, { warm: 'frozen' })));
	stage.tell(reportOf(stage.instance.as('serving'), frozen!.as('warm'), running!.as('warm')));
	await once(running!.server, 'connection');
	assert.deepEqual(connections, [1, 0]);
});

test('a frozen instance is sent nothing', async (t) => {
	const stage = await serving(t, () => assert.fail('a frozen instance was asked'), {}, hastyClock);
	stage.tell(reportOf(stage.instance.as('warm')));
	assert.equal((await ask(stage.port)).status, 503);
});

test('panic: when all are said to be unhealthy but take connections, requests go on', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('fine'));
	const second = await startInstance(t, 1, (_req, res) => res.end('fine'), 'second');
	stage.tell(reportOf(stage.instance.as('serving', { healthy: false, reason: 'unhealthy' }), second.as('serving', { healthy: false })));
	assert.equal((await ask(stage.port)).body, 'fine');
});

test('a healthy instance is preferred to one said to be unhealthy', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('well'));
	const ill = await startInstance(t, 1, (_req, res) => res.end('ill'), 'ill');
	stage.tell(reportOf(stage.instance.as('serving'), ill.as('serving', { healthy: false })));
	for (let i = 0; i < 20; i++) assert.equal((await ask(stage.port)).body, 'well');
});

test('an ejected instance is taken back when it accepts connections again', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('one'), {}, hastyClock);
	await stage.instance.stop();
	assert.equal((await ask(stage.port)).status, 503);
	const held = ask(stage.port);
	stage.instance.server.listen(stage.instance.path);
	assert.equal((await held).body, 'one');
});

test('each second is counted: requests, errors, slots, latencies; nothing when nothing came', async (t) => {
	const stage = await serving(t, (req, res) => res.writeHead(req.url === '/bad' ? 500 : 200).end('x'));
	for (let i = 0; i < 6; i++) await ask(stage.port, { path: i < 2 ? '/bad' : '/' });
	const seen = { requests: 0, errors: 0, slots: 0, latencies: 0 };
	await stage.saw('stats', ({ rows }) => {
		Object.assign(seen, { requests: 0, errors: 0, slots: 0, latencies: 0 });
		for (const message of stage.sent) {
			if (message.type !== 'stats') continue;
			for (const row of message.rows) {
				assert.deepEqual([row.region, row.app, row.environment, row.release, row.instance], ['fra', 'notes', 'production', 1, 'i1']);
				seen.requests += row.requests;
				seen.errors += row.errors;
				for (const [requests] of Object.values(row.slots)) seen.slots += requests;
				for (const count of Object.values(row.latency)) seen.latencies += count;
			}
		}
		return rows.length > 0 && seen.requests === 6;
	});
	assert.deepEqual(seen, { requests: 6, errors: 2, slots: 6, latencies: 6 });
	const before = stage.sent.length;
	await new Promise((resolve) => systemClock.after(1_200, () => resolve(null)));
	assert.equal(stage.sent.length, before);
});

test('a probe that is asked for before its release is there waits for it', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('one'));
	const next = await startInstance(t, 2, (_req, res) => res.end('two'));
	const probe = { type: 'probe', region: 'fra', app: 'notes', environment: 'production', discard: 0, count: 2 } as const;
	stage.tell({ ...probe, id: 'early', releases: [2], whenReady: true });
	stage.tell({ ...probe, id: 'at once', releases: [2] });
	assert.notEqual((await stage.saw('probed', ({ id }) => id === 'at once')).error, null);
	stage.tell(reportOf(stage.instance.as('serving'), next.as('prepared', { healthy: false })));
	stage.tell(reportOf(stage.instance.as('serving'), next.as('prepared')));
	const { error, samples } = await stage.saw('probed', ({ id }) => id === 'early');
	assert.deepEqual([error, samples.map(({ status }) => status)], [null, [200, 200]]);
});

test('probes ask both releases in turns, directly, and count nowhere', async (t) => {
	const order: string[] = [];
	const stage = await serving(t, (req, res) => {
		order.push(`v1 ${req.url} ${String(req.headers['x-jibe-probe'])}`);
		res.end('x');
	});
	const next = await startInstance(t, 2, (req, res) => {
		order.push(`v2 ${req.url} ${String(req.headers['x-jibe-probe'])}`);
		res.writeHead(500).end('bad');
	});
	stage.tell(wantsOf(wantOf(2, 1, { run: [{ release: 1, instances: 1, as: 'serving' }, { release: 2, instances: 1, as: 'prepared' }] }), specOf(2))); // prettier-ignore
	stage.tell(reportOf(stage.instance.as('serving'), next.as('prepared')));
	const probe = { type: 'probe', region: 'fra', app: 'notes', environment: 'production', discard: 1, count: 2 } as const;
	stage.tell({ ...probe, id: 'p1', releases: [2, 1] });
	const probed = await stage.saw('probed');
	assert.equal(probed.error, null);
	assert.deepEqual(
		probed.samples.map(({ release, status }) => [release, status]),
		[[2, 500], [1, 200], [2, 500], [1, 200], [2, 500], [1, 200]],
	); // prettier-ignore
	assert.deepEqual(order, ['v2 /healthz p1', 'v1 /healthz p1', 'v2 /healthz p1', 'v1 /healthz p1', 'v2 /healthz p1', 'v1 /healthz p1']);
	await next.stop();
	stage.tell({ ...probe, id: 'p2', releases: [2], discard: 0 });
	const lost = await stage.saw('probed', (message) => message.id === 'p2');
	assert.deepEqual(
		lost.samples.map((sample) => sample.status),
		[0, 0],
	);
	// What is there to compare with may be down, or go down: the one that is judged is asked all the same.
	await stage.instance.stop();
	for (const [id, releases] of [['p4', [2, 1]], ['p5', [2, 7]]] as const) {
		stage.tell({ ...probe, id, releases: [...releases] });
		const alone = await stage.saw('probed', (message) => message.id === id);
		assert.equal(alone.error, null);
		assert.deepEqual([alone.samples.filter(({ release }) => release === 2).length, alone.samples.length], [3, id === 'p4' ? 4 : 3]);
	} // prettier-ignore
	stage.tell({ ...probe, id: 'p3', releases: [7] });
	assert.match((await stage.saw('probed', (message) => message.id === 'p3')).error ?? '', /v7/);
	assert.ok(!stage.sent.some((message) => message.type === 'stats'));
});

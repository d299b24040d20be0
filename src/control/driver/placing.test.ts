import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Clock } from '#clock/clock.ts';
import { wantKey, type Instance, type Run, type ServerState, type Version, type Want } from '#wire/region.ts';
import { Refusal, type RegionHub, type ServerView } from '../ports.ts';
import type { Joined } from './candidates.ts';
import { Placing } from './placing.ts';
import { Refusals } from './refusals.ts';

/** Servers, wants and reports as the hub would have them, and a clock that stands still until it is moved. */
class House {
	readonly views: ServerView[] = [];
	readonly wants = new Map<string, Want>();
	readonly joined: (Joined & { draining: boolean })[] = [];
	readonly said: { server: string; instance: Instance; obeys: Version | undefined }[] = [];
	readonly placing: Placing;
	changes = 0;
	#now = 1_000_000;
	readonly #tasks: { at: number; run: (() => void) | null }[] = [];

	constructor(fill: (house: House) => void) {
		fill(this);
		const hub = {
			servers: (region?: string) => this.views.filter((view) => region === undefined || view.region === region),
			wanted: () => this.wants.values(),
			instancesByServer: () => this.said,
		} as unknown as RegionHub;
		this.placing = new Placing({ hub, clock: this.#clock(), joined: () => this.joined, changed: () => this.changes++ });
	}

	server(name: string, regions: readonly string[], of: { budgetMiB?: number; joined?: boolean; connected?: boolean } = {}): void {
		const { budgetMiB = 1000, connected = true } = of;
		const state = { budgetMiB, appsMiB: {}, diskFreeMiB: 10_000 } as unknown as ServerState;
		for (const region of regions) {
			if (connected) this.views.push({ server: name, region, connected, lostSinceMs: null, state });
			if (of.joined) this.joined.push({ name, region, roles: ['agent'], labels: [], draining: false });
		}
	}

	want(region: string, app: string, run: Run[], version = 1): Want {
		const pointer = { primary: run[0]?.release ?? null, candidate: null, hold: null };
		const want: Want = { app, environment: 'production', region, epoch: 1, version, deployment: null, pointer, run };
		this.wants.set(wantKey(want), want);
		return want;
	}

	assign(region: string, app: string, runs: Run[], strict = true): Run[] {
		const key = { region, app, environment: 'production' };
		return this.placing.assign(key, this.wants.get(wantKey(key)), runs, { labelsOf: () => [], strict });
	}

	pass(ms: number): void {
		this.#now += ms;
		for (const task of this.#tasks) {
			if (task.at > this.#now) continue;
			const { run } = task;
			task.run = null;
			run?.();
		}
	}

	#clock(): Clock {
		const after = (delayMs: number, run: () => void) => {
			const task: { at: number; run: (() => void) | null } = { at: this.#now + delayMs, run };
			this.#tasks.push(task);
			return { cancel: () => void (task.run = null) };
		};
		return { now: () => this.#now, monotonic: () => this.#now, after, every: after };
	}
}

const run = (release: number, instances: number, as: Run['as'] = 'serving', placed?: Record<string, number>): Run => ({
	release,
	instances,
	as,
	...(placed ? { placed } : {}),
});
const room = (server: string, missingMiB: number) => (error: unknown) => {
	assert.ok(error instanceof Refusal);
	assert.deepEqual(
		[error.code, (error.data as { server: string }).server, (error.data as { missingMiB: number }).missingMiB],
		['room', server, missingMiB],
	);
	return true;
};

test("this machine's own server runs everything: nothing is placed by name, and its one budget holds for all its regions", () => {
	const house = new House((it) => it.server('local', ['fra', 'iad', 'nrt'], { budgetMiB: 300 }));
	assert.deepEqual(house.assign('fra', 'notes', [run(1, 2)]), [run(1, 2)]);
	assert.deepEqual(house.assign('iad', 'notes', [run(1, 2)]), [run(1, 2)]);
	assert.throws(() => house.assign('nrt', 'notes', [run(1, 1)]), room('local', 20));
	assert.deepEqual(house.assign('nrt', 'notes', [run(1, 1)], false), [run(1, 1)], 'who is not to be refused goes on');
});

test('on a server where an app was never measured it counts with what it takes elsewhere', () => {
	const house = new House((it) => {
		it.server('web-1', ['fra'], { joined: true, budgetMiB: 2000 });
		it.server('web-2', ['fra'], { joined: true, budgetMiB: 200 });
		Object.assign(it.views[0]!, { state: { ...it.views[0]!.state, appsMiB: { notes: 300 } } });
	});
	assert.deepEqual(house.assign('fra', 'notes', [run(1, 2)])[0]?.placed, { 'web-1': 2 });
	assert.deepEqual(house.assign('fra', 'mail', [run(1, 2)])[0]?.placed, { 'web-1': 1, 'web-2': 1 });
});

test('an app whose files are on a server stays with them, in the next release too, while it may', () => {
	const house = new House((it) => {
		it.server('web-1', ['fra'], { joined: true });
		it.server('web-2', ['fra'], { joined: true });
		Object.assign(it.views[0]!, { state: { ...it.views[0]!.state, keeps: ['notes'] } });
	});
	const want = house.want('fra', 'notes', [run(1, 2, 'serving', { 'web-1': 2 })]);
	assert.equal(
		house.placing.rearranged(want, () => []),
		null,
	);
	assert.deepEqual(house.assign('fra', 'notes', [...want.run, run(2, 2, 'prepared')])[1]?.placed, { 'web-1': 2 });
	assert.deepEqual(
		house.assign('fra', 'notes', [...want.run, run(2, 15, 'prepared')])[1]?.placed,
		{ 'web-1': 7, 'web-2': 8 },
		'no room there',
	);
	const other = house.want('fra', 'mail', [run(1, 2, 'serving', { 'web-1': 2 })]);
	assert.deepEqual(house.placing.rearranged(other, () => [])?.[0]?.placed, { 'web-1': 2, 'web-2': 1 });
	house.joined[0]!.draining = true;
	house.placing.candidates.heard('fra');
	house.pass(100);
	assert.deepEqual(house.placing.rearranged(want, () => [])?.[0]?.placed, { 'web-1': 2, 'web-2': 2 });
});

test('what stands by gives way, and counts for nothing', () => {
	const house = new House((it) => it.server('local', ['fra'], { budgetMiB: 130 }));
	house.want('fra', 'mail', [run(1, 1), run(2, 8, 'warm')]);
	assert.deepEqual(house.assign('fra', 'notes', [run(1, 1)]), [run(1, 1)]);
});

test('a joined server is named although it is alone: the next one must not start everything again', () => {
	const house = new House((it) => it.server('web-1', ['fra'], { joined: true }));
	assert.deepEqual(house.assign('fra', 'notes', [run(1, 2)]), [run(1, 2, 'serving', { 'web-1': 2 })]);
});

test('what was never placed is placed where it was seen once there are several servers', () => {
	const house = new House((it) => {
		it.server('web-1', ['fra'], { joined: true });
		it.server('web-2', ['fra'], { joined: true });
	});
	const want = house.want('fra', 'notes', [run(1, 1)]);
	house.said.push({ server: 'web-2', instance: { release: 1, state: 'serving', healthy: true } as Instance, obeys: want });
	assert.deepEqual(
		house.placing.rearranged(want, () => []),
		[run(1, 1, 'serving', { 'web-2': 1 })],
	);
});

test('what was said to be healthy before the agent knew of the move does not end it', () => {
	const house = new House((it) => {
		it.server('web-1', ['fra'], { joined: true });
		it.server('web-2', ['fra'], { joined: true });
	});
	house.joined[0]!.draining = true;
	house.placing.candidates.heard('fra');
	const want = house.want('fra', 'notes', [run(1, 1, 'serving', { 'web-1': 1, 'web-2': 1 })], 5);
	const instance = { release: 1, state: 'serving', healthy: true } as Instance;
	house.said.push({ server: 'web-2', instance, obeys: { epoch: 1, version: 4 } });
	assert.equal(house.placing.rearranged(want, () => []), null); // prettier-ignore
	house.said[0]!.obeys = { epoch: 1, version: 5 };
	assert.deepEqual(house.placing.rearranged(want, () => [])?.[0]?.placed, { 'web-2': 1 });
});

test('what comes back from rest does not wait for a server that is away', () => {
	const house = new House((it) => {
		it.server('web-1', ['fra'], { joined: true });
		it.server('web-2', ['fra'], { joined: true });
		Object.assign(it.views[0]!, { connected: false, lostSinceMs: 999_000 });
	});
	house.want('fra', 'notes', [run(1, 1, 'warm', { 'web-1': 1 }), run(2, 1, 'serving', { 'web-1': 1 })]);
	const back = house.assign('fra', 'notes', [run(1, 1), run(2, 1, 'warm', { 'web-1': 1 })], false);
	assert.deepEqual(back.map(({ placed }) => placed), [{ 'web-2': 1 }, { 'web-1': 1 }]); // prettier-ignore
});

test('a control that has just begun counts on servers that it has not heard of yet; for a while', () => {
	const house = new House((it) => {
		it.server('web-1', ['fra'], { joined: true, budgetMiB: 70 });
		it.server('web-2', ['fra'], { joined: true, connected: false });
	});
	assert.deepEqual(house.assign('fra', 'notes', [run(1, 2)])[0]?.placed, { 'web-1': 1, 'web-2': 1 });
	house.pass(10_000);
	house.placing.candidates.heard('fra');
	assert.throws(() => house.assign('fra', 'mail', [run(1, 2)]), room('web-1', 58));
	house.pass(45_000);
	assert.equal(house.changes, 1, 'it is away');
	house.pass(6_000);
	assert.equal(house.changes, 2, 'it is lost');
});

test('a decision that was never written is forgotten', async () => {
	const house = new House((it) => it.server('local', ['fra'], { budgetMiB: 100 }));
	house.assign('fra', 'notes', [run(1, 1)]);
	await Promise.resolve();
	assert.throws(() => house.assign('fra', 'mail', [run(1, 1)]), room('local', 28));
	house.pass(11_000);
	await Promise.resolve();
	assert.deepEqual(house.assign('fra', 'mail', [run(1, 1)]), [run(1, 1)]);
});

test("a server's own word that it has no room counts after 30 s, and is remembered for 10 min", () => {
	const refusals = new Refusals();
	assert.deepEqual(refusals.of('notes', { a: 1 }, 0), {});
	assert.deepEqual(refusals.of('notes', { a: 1 }, 29_000), {});
	assert.deepEqual(refusals.of('notes', { a: 1 }, 31_000), { a: 1 });
	assert.deepEqual(refusals.of('notes', {}, 40_000), { a: 0 });
	assert.deepEqual(refusals.of('notes', {}, 32_000 + 600_000), {});
	assert.equal(refusals.any('notes'), false);
	refusals.of('mail', { a: 2 }, 0);
	refusals.of('mail', {}, 20_000);
	assert.deepEqual(refusals.of('mail', { a: 2 }, 40_000), {}, 'it had room in between');
});

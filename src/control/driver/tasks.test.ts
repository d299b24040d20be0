import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Clock } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import type { RolloutEvent, Task } from '#rollout/rollout.ts';
import type { TaskOrder, TaskStop } from '#wire/region.ts';
import { releaseSpec } from '#wire/fixture.ts';
import type { RegionHub } from '../ports.ts';
import type { KnownRelease, Walk } from './lane.ts';
import { LaneTasks, type TaskLane } from './tasks.ts';

const STEP_MS = 1_000;

/** A lane with one deployment whose migration was given to `one`, and a clock that is moved. */
class Scene {
	readonly said: string[] = [];
	readonly told: string[] = [];
	orders: TaskOrder[] = [];
	now = 0;
	readonly tasks = new LaneTasks();
	readonly #walk: Walk;
	readonly #beats: { everyMs: number; next: number; run: () => void }[] = [];
	readonly lane: TaskLane;

	constructor() {
		const task: Task = { kind: 'migrate-before', attempt: 1, at: { region: 'fra', server: 'one' }, since: 0, notBefore: 0 };
		this.#walk = { deployment: { id: 'dpl_7m4k92xy' }, rollout: { release: 2, task } } as unknown as Walk;
		const known = { spec: releaseSpec(2), commit: null, config: { migrate: { before: 'node migrate.js', protect: false } } };
		const clock = { monotonic: () => this.now, every: (everyMs: number, run: () => void) => this.#every(everyMs, run) };
		this.lane = {
			app: 'notes',
			environment: 'production',
			walks: [this.#walk],
			releases: new Map([[2, known as unknown as KnownRelease]]),
			hub: { task: (order: TaskOrder | TaskStop) => this.#hear(order) } as unknown as RegionHub,
			log: createLog({}, { level: 'error' }),
			settings: { clock: clock as unknown as Clock },
			exclusive: (task) => task(),
			tell: async (walk, event) => this.#tell(walk, event),
			look: () => undefined,
		};
	}

	set task(task: Task | null) {
		this.#walk.rollout.task = task;
		this.tasks.look(this.lane);
	}

	answer(state: 'running' | 'passed' | 'failed', server = 'one'): void {
		const { id, app, environment, region } = this.orders.at(-1)!;
		this.tasks.said(this.lane, { type: 'taskSaid', id, app, environment, region, server, state, detail: 'words', ms: 3 });
	}

	/** `answering`: its server answers each time that it is asked. */
	async pass(forMs: number, answering: boolean): Promise<string[]> {
		this.said.length = 0;
		for (const until = this.now + forMs; this.now < until;) {
			this.now += STEP_MS;
			for (const beat of this.#beats.filter((one) => one.next <= this.now)) {
				beat.next += beat.everyMs;
				const before = this.said.length;
				beat.run();
				if (answering && this.said.length > before) this.answer('running');
			}
			await Promise.resolve();
		}
		return this.said;
	}

	#every(everyMs: number, run: () => void) {
		const beat = { everyMs, next: this.now + everyMs, run };
		this.#beats.push(beat);
		return { cancel: () => void this.#beats.splice(this.#beats.indexOf(beat), 1) };
	}

	#hear(order: TaskOrder | TaskStop): void {
		this.said.push(order.type);
		if (order.type === 'task') this.orders.push(order);
	}

	async #tell(_walk: Walk, event: RolloutEvent): Promise<boolean> {
		if (event.type === 'task') this.told.push(`${event.kind} ${event.attempt} ${event.outcome}`);
		return true;
	}
}

test('a task is said to its server at once and again, until it has ended', async () => {
	const scene = new Scene();
	scene.tasks.look(scene.lane);
	scene.tasks.look(scene.lane);
	assert.deepEqual(scene.said, ['task']);
	const [order] = scene.orders;
	assert.deepEqual(
		[order?.id, order?.server, order?.command, order?.secrets],
		['dpl_7m4k92xy/migrate-before/1', 'one', 'node migrate.js', true],
	);
	assert.equal((await scene.pass(60_000, true)).length, 12);
	scene.answer('passed', 'two');
	assert.deepEqual(scene.told, [], 'another server says nothing of it');
	scene.answer('passed');
	assert.deepEqual(scene.told, ['migrate-before 1 passed']);
});

test('a server that says nothing is not asked any more, and given up only when its lease has surely run out', async () => {
	const scene = new Scene();
	scene.tasks.look(scene.lane);
	const asked = await scene.pass(45_000, false);
	assert.deepEqual(asked, ['task', 'task'], 'for 15 s');
	assert.deepEqual(scene.told, []);
	await scene.pass(10_000, false);
	assert.ok(scene.told.length > 0 && scene.told.every((one) => one === 'migrate-before 1 lost'), scene.told.join());
	const leaseMs = scene.orders[0]!.leaseMs;
	assert.ok(leaseMs + 10_000 < 55_000 && leaseMs === 30_000);
});

test('who is back hears at once what it was given, unless it was silent for so long that its lease is to run out', async () => {
	const scene = new Scene();
	scene.tasks.look(scene.lane);
	scene.tasks.again(scene.lane, 'ams');
	scene.tasks.again(scene.lane, 'fra');
	assert.deepEqual(scene.said, ['task', 'task']);
	await scene.pass(20_000, false);
	scene.said.length = 0;
	scene.tasks.again(scene.lane, 'fra');
	assert.deepEqual(scene.said, []);
});

test('a server that is heard again in time goes on', async () => {
	const scene = new Scene();
	scene.tasks.look(scene.lane);
	await scene.pass(30_000, false);
	scene.answer('running');
	assert.ok((await scene.pass(60_000, true)).length >= 11);
	assert.deepEqual(scene.told, []);
});

test('one that nobody waits for any more is stopped; the next attempt is another one', async () => {
	const scene = new Scene();
	scene.tasks.look(scene.lane);
	scene.task = { kind: 'migrate-before', attempt: 2, at: { region: 'fra', server: 'two' }, since: 0, notBefore: 0 };
	assert.deepEqual(scene.said, ['task', 'taskStop', 'task']);
	assert.equal(scene.orders.at(-1)?.id, 'dpl_7m4k92xy/migrate-before/2');
	scene.task = null;
	assert.deepEqual(scene.said.slice(3), ['taskStop']);
	assert.deepEqual(await scene.pass(30_000, true), []);
});

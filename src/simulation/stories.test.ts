import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DeployInput, RollbackInput } from '#control/ports.ts';
import { sha256 } from '#digest/digest.ts';
import { createLog } from '#log/log.ts';
import { APP, ControlProcess, ENVIRONMENT } from './control-process.ts';
import { MemoryDatabase } from './memory-database.ts';
import { Random } from './random.ts';
import { Region, type Quality, type World } from './region.ts';
import { input } from './run.ts';
import { VirtualClock } from './virtual-clock.ts';

/** The driver's stories, one at a time, in a world without accidents. */
class House {
	readonly clock = new VirtualClock();
	readonly database = new MemoryDatabase();
	readonly regions: Region[];
	readonly qualities: Quality[] = [];
	readonly #world: World;
	control: ControlProcess;
	/** Every transaction: the state it leads to and how many pointers or run lists it writes. */
	readonly transactions: string[] = [];

	constructor(regions: readonly string[]) {
		this.#world = {
			clock: this.clock,
			random: new Random(1),
			qualityOf: (release) => this.qualities[release - 1] ?? 'good',
			fault: null,
			broken: (what) => assert.fail(what),
			report: (region) => this.control.reported(region),
		};
		this.regions = regions.map((name) => new Region(name, this.#world));
		const create = this.database.create.bind(this.database);
		const advance = this.database.advance.bind(this.database);
		this.database.create = (asked, now) => {
			const held = create(asked, now);
			this.transactions.push(`${held.deployment.kind} ${held.deployment.state} ${held.wants.length}`);
			return held;
		};
		this.database.advance = (asked) => {
			if (asked.to) this.transactions.push(`${asked.to} ${asked.writes?.length ?? 0}`);
			return advance(asked);
		};
		this.control = this.startControl();
	}

	startControl(): ControlProcess {
		const log = createLog({}, { write: () => undefined });
		return new ControlProcess({ name: 'control', database: this.database, world: this.#world, regions: this.regions, log, mistake: null });
	}

	async deploy(content: string, more: Partial<DeployInput> = {}) {
		return this.answer(this.control.driver.deploy({ ...input(sha256(content)), ...more }));
	}

	async rollback(more: Partial<RollbackInput> = {}) {
		const ask = { app: APP, environment: ENVIRONMENT, to: null, undo: null, again: false, by: 'ada', why: null };
		return this.answer(this.control.driver.rollback({ ...ask, ...more }));
	}

	/** Deploys and waits until it is live. */
	async live(content: string, more: Partial<DeployInput> = {}): Promise<string> {
		const { deployment } = await this.deploy(content, more);
		await this.clock.pass(20_000);
		assert.equal(this.state(deployment.id), 'Deployed');
		return deployment.id;
	}

	state(id: string): string {
		const { state, reason } = this.database.deployments.get(id)!.deployment;
		return reason === null ? state : `${state} ${reason}`;
	}

	/** Its first pointer has moved. */
	isWalking(id: string): boolean {
		return ['CanaryCheck', 'RollingOut'].includes(this.state(id));
	}

	serves(): (number | null)[] {
		return [...new Set(this.regions.flatMap((region) => region.edges.map((edge) => edge.serves)))];
	}

	async answer<T>(asked: Promise<T>): Promise<T> {
		const answer = asked.then(
			(value) => ({ value }),
			(error: unknown) => ({ error }),
		);
		await this.clock.pass(50);
		const settled = await answer;
		if ('error' in settled) throw settled.error;
		return settled.value;
	}
}

async function house(...regions: string[]): Promise<House> {
	const made = new House(regions);
	await made.clock.pass(5000);
	return made;
}

const git = (commit: string, ...ancestors: string[]) => ({ commit, branch: 'main', dirty: false, ancestors });

test('24 regions: four transactions to Deployed, two for the way back', async () => {
	const all = await house(...Array.from({ length: 24 }, (_, index) => `r${index}`));
	await all.live('one');
	all.transactions.length = 0;
	await all.live('two');
	assert.deepEqual(all.transactions, ['deploy Deploying 24', 'CanaryCheck 1', 'RollingOut 23', 'Deployed 24']);
	assert.deepEqual(all.serves(), [2]);
	all.transactions.length = 0;
	const { deployment } = await all.rollback();
	await all.clock.pass(9000);
	assert.deepEqual(all.transactions, ['rollback RollingOut 24', 'Deployed 0']);
	assert.equal(all.state(deployment.id), 'Deployed');
	assert.deepEqual(all.serves(), [1]);
});

test('what is live already is answered at once, and what is on its way with its id', async () => {
	const made = await house('fra', 'iad');
	const first = await made.deploy('one');
	assert.deepEqual(await made.deploy('one'), {
		deployment: made.database.deployments.get(first.deployment.id)!.deployment,
		already: false,
	});
	await made.clock.pass(20_000);
	const again = await made.deploy('one');
	assert.deepEqual([again.deployment.id, again.already], [first.deployment.id, true]);
	assert.equal(made.database.deployments.size, 1);
});

test('while one walks only the newest waits, prepared; it starts when the walk ends', async () => {
	const made = await house('fra', 'iad');
	const ids = [];
	for (const content of ['one', 'two', 'three']) ids.push((await made.deploy(content)).deployment.id);
	assert.deepEqual(
		ids.map((id) => made.state(id)),
		['Deploying', 'Superseded superseded', 'ReadyToDeploy'],
	);
	await made.clock.pass(30_000);
	assert.deepEqual([made.state(ids[0]!), made.state(ids[2]!)], ['Deployed', 'Deployed']);
	assert.deepEqual(made.serves(), [3]);
});

test('--now ends the walking one first', async () => {
	const made = await house('fra', 'iad');
	const { deployment } = await made.deploy('one');
	await made.live('two', { now: true });
	assert.equal(made.state(deployment.id), 'Superseded superseded');
});

test('nobody undoes a colleague silently', async () => {
	const made = await house('fra');
	await made.live('one', { git: git('aaaa'), by: 'grace' });
	await assert.rejects(made.deploy('two', { git: git('bbbb') }), (error: { code: string; status: number; data: unknown }) => {
		assert.deepEqual([error.code, error.status], ['colleague', 409]);
		assert.deepEqual(error.data, { commit: 'aaaa', by: 'grace', release: 1, deployment: 'dpl_00000000', missing: ['aaaa'] });
		return true;
	});
	await made.live('two', { git: git('bbbb', 'aaaa') });
	await made.live('three', { git: git('cccc'), force: true });
	await made.live('four', { git: null });
	await made.live('five', { git: git('dddd') });
	await made.live('six', { git: git('eeee', 'dddd') });
	await made.rollback();
	await made.clock.pass(9000);
	await made.live('seven', { git: git('ffff') });
});

test('harm in the watch: every pointer back, by jibe, with its cause; the harmful release is never gone back to', async () => {
	const made = await house('fra', 'iad');
	await made.live('one');
	made.qualities[1] = 'fails-users';
	const harmful = await made.live('two');
	for (let second = 0; second < 5; second++) {
		for (const region of made.regions) made.control.counted(region.name, 2, 20, 20);
		await made.clock.pass(1000);
	}
	const rollback = made.database.history({ limit: 1 })[0]!;
	assert.deepEqual(
		[rollback.kind, rollback.release, rollback.state, rollback.by, rollback.cause],
		['rollback', 1, 'Deployed', 'jibe', harmful],
	);
	assert.equal(made.state(harmful), 'Deployed harm');
	assert.deepEqual(made.serves(), [1]);
	await made.live('three');
	await made.rollback();
	await made.clock.pass(9000);
	assert.deepEqual(made.serves(), [1]);
});

test('harm of the first release ever is recorded: there is nothing to go back to', async () => {
	const made = await house('fra');
	const harmful = await made.live('one');
	made.control.counted('fra', 1, 50, 50);
	await made.clock.pass(5000);
	assert.equal(made.state(harmful), 'Deployed harm');
	assert.deepEqual(made.serves(), [1]);
});

test('an unhealthy release is stopped before anything moved; one that fails its probes swings the first region back', async () => {
	const made = await house('fra', 'iad');
	await made.live('one');
	made.qualities.push('good', 'never-starts', 'fails-probes');
	const unhealthy = await made.deploy('two');
	await made.clock.pass(20_000);
	assert.equal(made.state(unhealthy.deployment.id), 'DeployFailed unhealthy');
	made.transactions.length = 0;
	const failing = await made.deploy('three');
	await made.clock.pass(20_000);
	assert.equal(made.state(failing.deployment.id), 'RolledBack gate_failed');
	assert.deepEqual(made.transactions, ['deploy Deploying 2', 'CanaryCheck 1', 'RollingBack 2', 'RolledBack 0']);
	assert.deepEqual(made.serves(), [1]);
});

test('a rollback takes a walk over: one ends RolledBack, the other Deployed', async () => {
	const made = await house('fra', 'iad', 'nrt');
	await made.live('one');
	const { deployment } = await made.deploy('two');
	while (!made.isWalking(deployment.id)) await made.clock.pass(1);
	const back = await made.rollback();
	await made.clock.pass(20_000);
	assert.deepEqual([made.state(deployment.id), made.state(back.deployment.id)], ['RolledBack rolled_back', 'Deployed']);
	assert.deepEqual([back.deployment.cause, made.serves()], [deployment.id, [1]]);
});

test('a rollback with nothing before it, and one when nothing serves, are refused', async () => {
	const made = await house('fra');
	await assert.rejects(made.rollback(), { code: 'nothing_serves', status: 409 });
	await made.live('one');
	await assert.rejects(made.rollback(), { code: 'no_previous', status: 409 });
	await assert.rejects(made.rollback({ to: 7 }), { code: 'release_gone', status: 409 });
});

test('how long a rollback from disk takes is told from what had to start, not from one that stood by', async () => {
	const made = await house('fra', 'iad');
	for (const content of ['one', 'two', 'three']) await made.live(content);
	const target = async () => made.answer(made.control.driver.rollbackTarget(APP, ENVIRONMENT));
	assert.equal((await target())?.warm, true);
	await made.rollback();
	await made.clock.pass(20_000);
	const last = made.database.history({ limit: 2 })[1]!.timings;
	const next = await target();
	assert.deepEqual([next?.release, next?.warm], [1, false]);
	assert.equal(next?.estimateMs, last.prepareMs! + last.canaryMs! + last.rolloutMs!);
});

test('a release that is no longer warm is prepared and gated first', async () => {
	const made = await house('fra', 'iad');
	await made.live('one');
	await made.live('two');
	await made.clock.pass(20 * 60_000);
	assert.deepEqual([...made.regions[0]!.seats.keys()], [2]);
	made.transactions.length = 0;
	await made.rollback();
	await made.clock.pass(20_000);
	assert.deepEqual(made.transactions, ['rollback Deploying 2', 'CanaryCheck 1', 'RollingOut 1', 'Deployed 2']);
	assert.deepEqual(made.serves(), [1]);
});

test('tests run meanwhile: prepared everywhere, and no pointer moves before they passed', async () => {
	const made = await house('fra', 'iad');
	await made.live('one');
	made.transactions.length = 0;
	const { deployment } = await made.deploy('two', {
		testing: true,
		stages: [
			{ state: 'Building', at: 1 },
			{ state: 'Uploading', at: 2 },
		],
	});
	await made.clock.pass(20_000);
	assert.equal(made.state(deployment.id), 'Testing');
	assert.deepEqual([made.serves(), [...made.regions[1]!.seats.keys()]], [[1], [1, 2]]);
	await made.answer(made.control.driver.tested(deployment.id, { passed: true, summary: '' }));
	await made.clock.pass(20_000);
	assert.deepEqual(made.transactions, [
		'deploy Testing 2',
		'ReadyToDeploy 0',
		'Deploying 0',
		'CanaryCheck 1',
		'RollingOut 1',
		'Deployed 2',
	]);
	assert.deepEqual(made.serves(), [2]);
	const again = made.control.driver.tested(deployment.id, { passed: false, summary: '' });
	await assert.rejects(made.answer(again), { code: 'not_testing', status: 409 });
});

test('tests that fail, that nobody tells of, and that are cancelled: nothing moves, and what was prepared goes', async () => {
	const made = await house('fra', 'iad');
	await made.live('one');
	const failing = await made.deploy('two', { testing: true });
	await made.clock.pass(1_000);
	await made.answer(made.control.driver.tested(failing.deployment.id, { passed: false, summary: '1 of 3 failed' }));
	const silent = await made.deploy('three', { testing: true });
	await made.clock.pass(31 * 60_000);
	const cancelling = await made.deploy('four', { testing: true });
	const stopped = await cancelled(made, cancelling.deployment.id);
	await made.clock.pass(20_000);
	assert.deepEqual(
		[made.state(failing.deployment.id), made.state(silent.deployment.id), stopped],
		['TestFailed tests', 'TimedOut tests_timeout', 'Cancelled cancelled'],
	);
	assert.deepEqual([made.serves(), [...made.regions[0]!.seats.keys()]], [[1], [1]]);
});

test('cancel: before a pointer moved, after it, and when it is too late', async () => {
	const made = await house('fra', 'iad');
	await made.live('one');
	const early = await made.deploy('two');
	const late = await cancelled(made, early.deployment.id);
	assert.equal(late, 'Cancelled cancelled');
	const moved = await made.deploy('three');
	while (!made.isWalking(moved.deployment.id)) await made.clock.pass(1);
	assert.equal(await cancelled(made, moved.deployment.id), 'RolledBack cancelled');
	const done = await made.live('four');
	const refused = assert.rejects(made.control.driver.cancel(done, 'ada'), { code: 'already_ended', status: 409 });
	await made.clock.pass(50);
	await refused;
});

test('a control that starts anew goes on with what walked', async () => {
	const made = await house('fra', 'iad');
	await made.live('one');
	const { deployment } = await made.deploy('two');
	while (!made.isWalking(deployment.id)) await made.clock.pass(1);
	made.control.kill();
	made.control = made.startControl();
	void made.control.driver.resume();
	await made.clock.pass(60_000);
	assert.equal(made.state(deployment.id), 'Deployed');
	assert.deepEqual(made.serves(), [2]);
});

test('a region that knows more than the database makes the app read-only, until it is recovered', async () => {
	const made = await house('fra');
	await made.live('one');
	made.control.ahead('fra');
	await assert.rejects(made.deploy('two'), { code: 'read_only', status: 409, hint: /jibe control recover/ });
	await assert.rejects(made.rollback(), { code: 'read_only' });
	assert.match(made.control.driver.readOnly(APP)!, /fra has seen version 2.1/);
	const recovered = made.control.driver.recovered(APP);
	await made.clock.pass(50);
	await recovered;
	await made.live('two');
});

test('an app that is removed: nothing of it runs or serves, and its open deployment ends', async () => {
	const made = await house('fra', 'iad');
	await made.live('one');
	const { deployment } = await made.deploy('two');
	const removed = made.control.driver.removeApp(APP, 'ada');
	await made.clock.pass(60_000);
	await removed;
	assert.equal(made.state(deployment.id), 'Cancelled app_removed');
	assert.deepEqual([made.serves(), made.regions.flatMap((region) => [...region.seats.keys()])], [[null], []]);
	await made.live('three');
});

test('regions that leave the configuration stop serving once the rest is live', async () => {
	const made = await house('fra', 'iad');
	await made.live('one');
	const { release } = input(sha256('two'));
	await made.live('two', { release: { ...release, config: { ...release.config, regions: ['fra'] } } });
	assert.deepEqual(
		made.regions.map((region) => region.edges[0]!.serves),
		[2, null],
	);
});

async function cancelled(made: House, id: string): Promise<string> {
	const asked = made.control.driver.cancel(id, 'ada');
	await made.clock.pass(20_000);
	await asked;
	return made.state(id);
}

test('more deploys within one watch than the driver remembers releases: each is told to the regions with its release', async () => {
	const house = new House(['fra']);
	for (let n = 1; n <= 70; n++) {
		const { deployment } = await house.deploy(`edition ${n}`);
		for (let second = 0; second < 20 && house.state(deployment.id) !== 'Deployed'; second++) await house.clock.pass(1_000);
		assert.equal(house.state(deployment.id), 'Deployed', `deploy ${n}`);
	}
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { EARLY_WAIT_MS } from './gate.ts';
import { planDeploy, planWarmRollback, PlanError, ROLLBACK_TIMEOUT_MS, type PlanInput, type Strategy } from './plan.ts';
import { newRollout, type Effect, type Facts, type RegionFacts, type Rollout, type RolloutEvent, type Wanted } from './rollout.ts';
import { NOTHING, prepared } from './runs.ts';
import { nextLook, step } from './step.ts';

const walkStrategy: Strategy = { type: 'walk', watchMs: 300_000 };
const input = (regions: string[], more: Partial<PlanInput> = {}): PlanInput => ({
	strategy: walkStrategy,
	regions,
	instances: 1,
	keepWarm: true,
	strict: false,
	...more,
});
const passed: Omit<Extract<RolloutEvent, { type: 'probed' }>, 'region'> = {
	type: 'probed',
	verdict: 'pass',
	status: 200,
	p50Ms: 3,
	maxMs: 9,
	detail: '',
};

/** A rollout with regions that obey what they are told, unless a test says otherwise. */
class Scene {
	rollout: Rollout;
	now = 0;
	readonly facts: Record<string, RegionFacts> = {};
	/** What comes of probes that are asked for before a pointer has moved. */
	early: 'refused' | 'awaited' = 'refused';
	/** Every effect, as `fra→2`, `RollingOut`, `probe fra`. */
	readonly done: string[] = [];

	constructor(regions: string[], of: { serving: number | null; release?: number; plan?: Rollout['plan']; kind?: Rollout['kind'] }) {
		const release = of.release ?? 2;
		const plan = of.plan ?? planDeploy(input(regions));
		this.rollout = newRollout({ kind: of.kind ?? 'deploy', release, plan, waiting: false, now: 0 });
		const serving: Wanted =
			of.serving === null ? NOTHING : { primary: of.serving, candidate: null, run: [{ release: of.serving, instances: 1, as: 'serving' }] };
		for (const region of regions) {
			const wanted = of.kind === 'rollback' ? serving : prepared(serving, release, 1);
			this.facts[region] = { connected: true, lost: false, wanted, confirmed: true, target: { state: 'starting' } };
		}
	}

	/** Steps until nothing more comes of it. */
	tell(event: RolloutEvent = { type: 'looked' }): this {
		for (let more = true; more; event = { type: 'looked' }) {
			const facts: Facts = { regions: this.facts, keep: [] };
			const before = JSON.stringify(this.rollout);
			const { rollout, effects } = step(this.rollout, event, facts, this.now);
			assert.equal(JSON.stringify(this.rollout), before, 'a step changes nothing that it was given');
			this.rollout = rollout;
			for (const effect of effects) this.#apply(effect);
			more = effects.some((effect) => effect.type !== 'probe');
			const early = effects.find((effect) => effect.type === 'probe' && effect.early === true) as
				| Extract<Effect, { type: 'probe' }>
				| undefined;
			// As an edge of the version before: it does not wait for what is not there yet.
			if (early && this.early === 'refused') this.tell({ ...passed, type: 'probed', verdict: 'error', region: early.region, early: true });
		}
		return this;
	}

	set(regions: string[], facts: Partial<RegionFacts>): this {
		for (const region of regions) Object.assign(this.facts[region]!, facts);
		return this;
	}

	take(): string[] {
		return this.done.splice(0);
	}

	run(region: string): string {
		return this.facts[region]!.wanted!.run.map((run) => `${run.release} ${run.as}`).join(', ');
	}

	#apply(effect: Effect): void {
		if (effect.type === 'transition') this.done.push(effect.reason === null ? effect.to : `${effect.to} (${effect.reason})`);
		if (effect.type === 'probe' && !(effect.early && this.early === 'refused'))
			this.done.push(`probe ${effect.region}${effect.early ? ' early' : ''}`);
		if (effect.type !== 'write') return;
		const fact = this.facts[effect.region]!;
		if (fact.wanted!.primary !== effect.wanted.primary) this.done.push(`${effect.region}→${effect.wanted.primary ?? 'nothing'}`);
		Object.assign(fact, { wanted: effect.wanted, confirmed: false });
	}
}

test('three regions: prepared everywhere, the first region, its gate, the rest in one wave, Deployed last', () => {
	const regions = ['fra', 'iad', 'nrt'];
	const scene = new Scene(regions, { serving: 1 });
	assert.deepEqual(
		scene
			.set(['fra', 'iad'], { target: { state: 'ready' } })
			.tell()
			.take(),
		[],
	);
	assert.deepEqual(
		scene
			.set(['nrt'], { target: { state: 'ready' } })
			.tell()
			.take(),
		['CanaryCheck', 'fra→2', 'probe fra'],
	);
	assert.deepEqual(scene.tell({ ...passed, region: 'fra' }).take(), []);
	assert.deepEqual(scene.set(['fra'], { confirmed: true }).tell().take(), ['RollingOut', 'iad→2', 'nrt→2']);
	assert.deepEqual(scene.set(['iad'], { confirmed: true }).tell().take(), []);
	assert.equal(scene.run('iad'), '1 serving, 2 serving');
	assert.deepEqual(scene.set(['nrt'], { confirmed: true }).tell().take(), ['Deployed']);
	assert.equal(scene.run('iad'), '1 warm, 2 serving');
	assert.deepEqual(scene.rollout.canary, { region: 'fra', status: 200, p50Ms: 3, maxMs: 9 });
});

test('probes that pass before a pointer moved: all pointers follow one another, and Deployed waits for every one', () => {
	const regions = ['fra', 'iad', 'nrt'];
	const scene = new Scene(regions, { serving: 1 });
	scene.early = 'awaited';
	assert.deepEqual(scene.tell().take(), ['probe fra early']);
	assert.deepEqual(
		scene
			.set(regions, { target: { state: 'ready' } })
			.tell()
			.take(),
		[],
		'the answer is on its way',
	);
	scene.tell({ ...passed, region: 'fra', early: true });
	assert.deepEqual(scene.take(), ['CanaryCheck', 'fra→2', 'RollingOut', 'iad→2', 'nrt→2']);
	assert.deepEqual(scene.set(['iad', 'nrt'], { confirmed: true }).tell().take(), []);
	assert.deepEqual(scene.set(['fra'], { confirmed: true }).tell().take(), ['Deployed']);
	assert.deepEqual(scene.rollout.canary, { region: 'fra', status: 200, p50Ms: 3, maxMs: 9 });
});

test('probes that were asked for early and fail, or say nothing in time, are no reason: the first pointer moves alone', () => {
	const asked = () => {
		const scene = new Scene(['fra', 'iad'], { serving: 1 });
		scene.early = 'awaited';
		scene.set(['fra', 'iad'], { target: { state: 'ready' } }).tell();
		assert.deepEqual(scene.take(), ['probe fra early']);
		return scene;
	};
	const failed = asked().tell({ ...passed, region: 'fra', verdict: 'fail', early: true });
	assert.deepEqual(failed.take(), ['CanaryCheck', 'fra→2', 'probe fra']);
	const late = asked();
	assert.equal(nextLook(late.rollout, late.now), EARLY_WAIT_MS);
	late.now = EARLY_WAIT_MS;
	assert.deepEqual(late.tell().take(), ['CanaryCheck', 'fra→2']);
	assert.deepEqual(late.set(['fra'], { confirmed: true }).tell().take(), []);
	assert.deepEqual(late.tell({ ...passed, region: 'fra', early: true }).take(), ['RollingOut', 'iad→2'], 'it says the same, though late');
	const lost = asked().tell({ type: 'resumed' });
	assert.deepEqual(lost.tell().take(), ['probe fra early'], 'a new process asks again');
});

test('one region: the gate, then Deployed, without RollingOut', () => {
	const scene = new Scene(['fra'], { serving: 1 }).set(['fra'], { target: { state: 'ready' } }).tell();
	scene.set(['fra'], { confirmed: true }).tell({ ...passed, region: 'fra' });
	assert.deepEqual(scene.take(), ['CanaryCheck', 'fra→2', 'probe fra', 'Deployed']);
});

test('unhealthy in one region: nothing moved, and what was prepared goes', () => {
	const scene = new Scene(['fra', 'iad'], { serving: 1 }).set(['fra'], { target: { state: 'ready' } });
	scene.set(['iad'], { target: { state: 'failed', reason: 'unhealthy', detail: 'GET / was answered with 500' } }).tell();
	assert.deepEqual(scene.take(), ['DeployFailed (unhealthy)']);
	assert.equal(scene.rollout.detail, 'in iad: GET / was answered with 500');
	assert.deepEqual([scene.run('fra'), scene.run('iad')], ['1 serving', '1 serving']);
});

test('a failed gate swings the first region back, and RolledBack is said once it is', () => {
	const scene = new Scene(['fra', 'iad'], { serving: 1 }).set(['fra', 'iad'], { target: { state: 'ready' } }).tell();
	scene.take();
	scene.tell({ ...passed, region: 'fra', verdict: 'fail', status: 500, detail: 'a probe was answered with 500' });
	assert.deepEqual(scene.take(), ['RollingBack (gate_failed)', 'fra→1']);
	assert.deepEqual([scene.run('fra'), scene.run('iad')], ['1 serving', '1 serving']);
	assert.deepEqual(scene.set(['fra', 'iad'], { confirmed: true }).tell().take(), ['RolledBack (gate_failed)']);
});

test('an inconclusive gate is asked again, and gives up after five times', () => {
	const scene = new Scene(['fra', 'iad'], { serving: 1 }).set(['fra', 'iad'], { target: { state: 'ready' } }).tell();
	scene.set(['fra'], { confirmed: true });
	scene.take();
	for (let attempt = 0; attempt < 4; attempt++) {
		scene.tell({ ...passed, region: 'fra', verdict: 'inconclusive' });
		assert.deepEqual(scene.take(), []);
		scene.now = nextLook(scene.rollout, scene.now)!;
		assert.deepEqual(scene.tell().take(), ['probe fra']);
	}
	assert.deepEqual(scene.tell({ ...passed, region: 'fra', verdict: 'error' }).take(), ['RollingBack (gate_error)', 'fra→1']);
});

test('the first release ever that fails after a pointer moved: the pointer is cleared, reason no_previous', () => {
	const scene = new Scene(['fra', 'iad'], { serving: null }).set(['fra', 'iad'], { target: { state: 'ready' } }).tell();
	scene.tell({ ...passed, region: 'fra', verdict: 'fail', detail: 'slow' });
	assert.deepEqual(scene.take().slice(-2), ['RollingBack (no_previous)', 'fra→nothing']);
	assert.equal(scene.rollout.detail, 'gate_failed: slow');
	assert.equal(scene.run('fra'), '');
});

test('a lost region is skipped, a lost first region is replaced, and both catch up through a gate of their own', () => {
	const scene = new Scene(['fra', 'iad', 'nrt'], { serving: 1 });
	scene
		.set(['fra'], { connected: false, lost: true })
		.set(['iad', 'nrt'], { target: { state: 'ready' } })
		.tell();
	assert.deepEqual(scene.take(), ['CanaryCheck', 'iad→2', 'probe iad']);
	scene.set(['iad'], { confirmed: true }).tell({ ...passed, region: 'iad' });
	scene.set(['nrt'], { confirmed: true }).tell();
	assert.deepEqual(scene.take(), ['RollingOut', 'nrt→2', 'Deployed']);
	assert.equal(scene.run('fra'), '1 serving, 2 prepared');
	assert.deepEqual(scene.set(['fra'], { connected: true, lost: false }).tell().take(), []);
	assert.deepEqual(
		scene
			.set(['fra'], { target: { state: 'ready' } })
			.tell()
			.take(),
		['probe fra'],
	);
	assert.deepEqual(scene.tell({ ...passed, region: 'fra' }).take(), ['fra→2']);
	assert.equal(scene.set(['fra'], { confirmed: true }).tell().rollout.regions[0]!.stage, 'live');
});

test('a region that fails its own gate when it is back stays as it is, alone', () => {
	const scene = new Scene(['fra', 'iad', 'nrt'], { serving: 1 }).set(['iad', 'nrt'], { target: { state: 'ready' } });
	scene.set(['fra'], { connected: false, lost: true }).tell();
	scene
		.set(['iad'], { confirmed: true })
		.tell({ ...passed, region: 'iad' })
		.set(['nrt'], { confirmed: true })
		.tell();
	scene.take();
	scene.set(['fra'], { connected: true, lost: false, target: { state: 'ready' } }).tell();
	assert.deepEqual(scene.tell({ ...passed, region: 'fra', verdict: 'fail' }).take(), ['probe fra']);
	assert.deepEqual([scene.rollout.phase, scene.rollout.regions[0]!.stage], ['live', 'failed']);
});

test('too few regions: nothing moves', () => {
	const scene = new Scene(['fra', 'iad', 'nrt'], { serving: 1 }).set(['nrt'], { target: { state: 'ready' } });
	assert.deepEqual(scene.set(['fra', 'iad'], { connected: false, lost: true }).tell().take(), ['DeployFailed (regions_lost)']);
});

test('lost after its pointer moved: that region alone is pending, and the gate moves on', () => {
	const scene = new Scene(['fra', 'iad', 'nrt'], { serving: 1 }).set(['fra', 'iad', 'nrt'], { target: { state: 'ready' } }).tell();
	scene.take();
	assert.deepEqual(scene.set(['fra'], { connected: false, lost: true }).tell().take(), ['iad→2', 'probe iad']);
	scene
		.set(['iad'], { confirmed: true })
		.tell({ ...passed, region: 'iad' })
		.set(['nrt'], { confirmed: true })
		.tell();
	assert.deepEqual(scene.take(), ['RollingOut', 'nrt→2', 'Deployed']);
	assert.deepEqual(
		scene.rollout.regions.map((region) => region.stage),
		['pending', 'live', 'live'],
	);
});

test('time limits: prepare, wave, and a swing that leaves what it can not reach pending', () => {
	const slow = new Scene(['fra', 'iad', 'nrt'], { serving: 1 }).set(['nrt'], { target: { state: 'ready' } });
	slow.now = 120_000;
	assert.deepEqual(slow.tell().take(), ['TimedOut (prepare_timeout)']);
	const stuck = new Scene(['fra', 'iad'], { serving: 1 }).set(['fra', 'iad'], { target: { state: 'ready' } }).tell();
	stuck.tell({ ...passed, region: 'fra' }).take();
	stuck.now = 120_000;
	assert.deepEqual(stuck.tell().take(), ['RollingBack (timed_out)', 'fra→1']);
	stuck.now = 130_000;
	assert.deepEqual(stuck.tell().take(), ['RolledBack (timed_out)']);
	assert.equal(stuck.rollout.regions[0]!.stage, 'pending');
	assert.equal(stuck.set(['fra'], { confirmed: true }).tell().rollout.regions[0]!.stage, 'rolled-back');
});

test('cancelled before a pointer moved: Cancelled; after it: swung back', () => {
	const stop: RolloutEvent = { type: 'stop', to: 'Cancelled', reason: 'cancelled', detail: 'by ada', byAnother: false };
	assert.deepEqual(new Scene(['fra', 'iad'], { serving: 1 }).tell(stop).take(), ['Cancelled (cancelled)']);
	const moving = new Scene(['fra', 'iad'], { serving: 1 }).set(['fra', 'iad'], { target: { state: 'ready' } }).tell();
	moving.take();
	assert.deepEqual(moving.tell(stop).take(), ['RollingBack (cancelled)', 'fra→1']);
});

test('a warm rollback: every pointer in the first step, what served stands by, whoever is away is pending', () => {
	const regions = ['fra', 'iad', 'nrt'];
	const scene = new Scene(regions, { serving: 2, release: 1, kind: 'rollback', plan: planWarmRollback(input(regions)) });
	scene.set(['nrt'], { connected: false, lost: true }).tell();
	assert.deepEqual(scene.take(), ['RollingOut', 'fra→1', 'iad→1', 'nrt→1']);
	assert.equal(scene.run('fra'), '2 warm, 1 serving');
	scene.set(['fra', 'iad'], { confirmed: true }).tell();
	assert.deepEqual(scene.take(), ['Deployed']);
	assert.equal(scene.rollout.regions[2]!.stage, 'pending');
});

test('a rollback waits no longer than its 10 s for a region that does not confirm, however few are left', () => {
	for (const minRegions of [undefined, 2]) {
		const strategy: Strategy = { ...walkStrategy, ...(minRegions === undefined ? {} : { minRegions }) };
		const scene = new Scene(['fra', 'iad'], {
			serving: 2,
			release: 1,
			kind: 'rollback',
			plan: planWarmRollback(input(['fra', 'iad'], { strategy })),
		});
		scene.tell().set(['fra'], { confirmed: true }).tell();
		assert.equal(nextLook(scene.rollout, 0), ROLLBACK_TIMEOUT_MS);
		scene.now = ROLLBACK_TIMEOUT_MS;
		assert.deepEqual(scene.tell().take().at(-1), 'Deployed');
		assert.deepEqual(
			scene.rollout.regions.map(({ stage }) => stage),
			['live', 'pending'],
		);
	}
});

test('a canary: its ramp of weights, each held, then the rest of the regions, all within its window', () => {
	const strategy: Strategy = { type: 'canary', watchMs: 1, ramp: [5, 25, 100], windowMs: 300_000, onWindowEnd: 'promote' };
	const scene = new Scene(['fra', 'iad'], { serving: 1, plan: planDeploy(input(['fra', 'iad'], { strategy })) });
	scene.set(['fra', 'iad'], { target: { state: 'ready' } }).tell();
	const weight = () => scene.facts['fra']!.wanted!.candidate?.weightBp ?? 10_000;
	const weights = [weight()];
	scene.set(['fra'], { confirmed: true }).tell({ ...passed, region: 'fra' });
	for (let rung = 1; rung < 3; rung++) {
		assert.equal(nextLook(scene.rollout, scene.now + 74_999), scene.now + 75_000);
		scene.now += 75_000;
		weights.push((scene.tell(), weight()));
		scene.set(['fra'], { confirmed: true }).tell();
	}
	assert.deepEqual(weights, [500, 2500, 10_000]);
	assert.deepEqual(scene.facts['iad']!.wanted!.candidate, { release: 2, weightBp: 500 });
	for (let rung = 0; rung < 3; rung++) {
		assert.equal(scene.rollout.phase, 'walking');
		scene.set(['iad'], { confirmed: true }).tell();
		scene.now += 75_000;
		scene.tell();
	}
	assert.equal(scene.rollout.phase, 'live');
	assert.equal(scene.rollout.times.ended, 300_000);
});

test('what can not be done is refused by name', () => {
	const refused = (strategy: Strategy, regions = ['fra', 'iad']) => {
		try {
			planDeploy(input(regions, { strategy }));
			return null;
		} catch (error) {
			return error instanceof PlanError ? error.code : error;
		}
	};
	assert.equal(refused({ type: 'walk', watchMs: 1, waves: [['fra']] }), 'bad_waves');
	assert.equal(refused({ type: 'walk', watchMs: 1, waves: [['fra'], ['fra', 'iad']] }), 'bad_waves');
	assert.equal(refused(walkStrategy, []), 'no_regions');
	assert.equal(refused({ type: 'walk', watchMs: 1, waves: [['fra', 'elsewhere'], 'rest'] }), null);
});

test('property: whatever happens it ends, through legal states, and never leaves a pointer at a release that was swung back', () => {
	const target = fc.constantFrom<RegionFacts['target']>(
		{ state: 'starting' },
		{ state: 'ready' },
		{ state: 'ready' },
		{ state: 'failed', reason: 'start', detail: null },
	);
	const change = fc.record({
		region: fc.nat(3),
		connected: fc.boolean(),
		lost: fc.boolean(),
		confirmed: fc.boolean(),
		target,
		waitMs: fc.nat(20_000),
	});
	const event = fc.constantFrom<RolloutEvent['type']>('looked', 'looked', 'looked', 'probed', 'probed', 'stop', 'resumed');
	fc.assert(
		fc.property(fc.array(fc.tuple(change, event), { maxLength: 40 }), fc.constantFrom(null, 1), (life, serving) => {
			const regions = ['fra', 'iad', 'nrt', 'syd'];
			const scene = new Scene(regions, { serving });
			for (const [{ region, waitMs, connected, lost, ...facts }, type] of life) {
				scene.now += waitMs;
				scene.set([regions[region]!], { ...facts, connected: connected && !lost, lost });
				scene.tell(eventOf(type, scene.rollout));
			}
			scene.set(regions, { connected: true, lost: false, confirmed: true, target: { state: 'ready' } });
			for (let quiet = 0; quiet < 30; quiet++) {
				scene.now += 130_000;
				scene.tell(eventOf('probed', scene.rollout)).set(regions, { confirmed: true });
			}
			assert.ok(['live', 'ended'].includes(scene.rollout.phase), scene.rollout.phase);
			assert.deepEqual(JSON.parse(JSON.stringify(scene.rollout)), scene.rollout);
			if (scene.rollout.phase !== 'ended') return;
			for (const region of regions) assert.equal(scene.facts[region]!.wanted!.primary, serving);
		}),
		{ numRuns: 300 },
	);
});

function eventOf(type: RolloutEvent['type'], rollout: Rollout): RolloutEvent {
	switch (type) {
		case 'probed':
			return { ...passed, region: rollout.gate?.region ?? 'fra' };
		case 'stop':
			return { type: 'stop', to: 'Cancelled', reason: 'cancelled', detail: null, byAnother: false };
		case 'resumed':
			return { type: 'resumed' };
		default:
			return { type: 'looked' };
	}
}

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { planDeploy, WAVE_TIMEOUT_MS, WHOLE_BP } from './plan.ts';
import { LEAVING_MS } from './rolling.ts';
import { newRollout, type Facts, type RegionFacts, type Rollout, type RolloutEvent, type Wanted } from './rollout.ts';
import { NOTHING, prepared } from './runs.ts';
import { step } from './step.ts';

const PASSED = { type: 'probed' as const, region: 'fra', verdict: 'pass' as const, status: 200, p50Ms: 1, maxMs: 1, detail: '' };

/** A region whose instances start when the scene says so; edges obey at once what they can. */
class Scene {
	rollout: Rollout;
	now = 0;
	fact: RegionFacts;
	ready = 0;
	/** `old × count, new × count @ weight` after each write. */
	readonly written: string[] = [];
	readonly states: string[] = [];

	constructor(instances: number, serving: { release: number; instances: number } | null) {
		const plan = planDeploy({ strategy: { type: 'rolling', watchMs: 1 }, regions: ['fra'], instances, keepWarm: true, strict: false });
		this.rollout = newRollout({ kind: 'deploy', release: 2, plan, waiting: false, now: 0 });
		const wanted: Wanted = serving ? { primary: serving.release, candidate: null, run: [{ ...serving, as: 'serving' }] } : NOTHING;
		this.fact = { connected: true, lost: false, wanted: prepared(wanted, 2, 1), confirmed: true, target: { state: 'starting' } };
	}

	count(release: number): number {
		return this.fact.wanted!.run.find((run) => run.release === release)?.instances ?? 0;
	}

	/** One more instance of the new release is there. */
	starts(): this {
		this.ready++;
		return this.tell();
	}

	tell(event: RolloutEvent = { type: 'looked' }): this {
		for (let next: RolloutEvent | null = event; next;) {
			if (this.fact.target.state !== 'failed') this.fact.target = this.ready >= this.count(2) ? { state: 'ready' } : { state: 'starting' };
			const facts: Facts = { regions: { fra: this.fact }, keep: [] };
			const { rollout, effects } = step(this.rollout, next, facts, this.now);
			this.rollout = rollout;
			for (const effect of effects) {
				if (effect.type === 'transition') this.states.push(effect.to);
				if (effect.type !== 'write') continue;
				this.fact.wanted = effect.wanted;
				const { candidate, primary } = effect.wanted;
				const weight = candidate?.weightBp ?? (primary === 2 ? WHOLE_BP : 0);
				this.written.push(`${this.count(1)} old, ${this.count(2)} new, ${weight}`);
			}
			next = effects.some((effect) => effect.type === 'probe') ? PASSED : effects.length > 0 ? { type: 'looked' } : null;
		}
		return this;
	}
}

test('one instance after the other is replaced: never more than one too many, and no weight without an instance for it', () => {
	const scene = new Scene(4, { release: 1, instances: 4 });
	for (let i = 0; i < 4; i++) scene.starts();
	assert.deepEqual(scene.written, [
		'3 old, 1 new, 2500',
		'3 old, 2 new, 2500',
		'2 old, 2 new, 5000',
		'2 old, 3 new, 5000',
		'1 old, 3 new, 7500',
		'1 old, 4 new, 7500',
		'1 old, 4 new, 10000',
		'0 old, 4 new, 10000',
	]);
	assert.deepEqual(scene.states, ['CanaryCheck', 'Deployed']);
});

test('where nothing served all of them start at once; where fewer or more served, as many go as come', () => {
	const first = new Scene(3, null).starts();
	assert.deepEqual(first.written, ['0 old, 3 new, 10000']);
	const more = new Scene(2, { release: 1, instances: 6 });
	more.starts().starts();
	assert.deepEqual(more.written, ['3 old, 1 new, 5000', '3 old, 2 new, 5000', '1 old, 2 new, 10000', '0 old, 2 new, 10000']);
	const fewer = new Scene(3, { release: 1, instances: 1 });
	fewer.starts().starts().starts();
	assert.deepEqual(fewer.written.slice(0, 3), ['1 old, 1 new, 3333', '1 old, 2 new, 3333', '1 old, 2 new, 6667']);
});

test('the next one starts when what was taken out has ended, or its streams take too long', () => {
	const scene = new Scene(3, { release: 1, instances: 3 });
	scene.fact.others = 3;
	scene.starts();
	assert.deepEqual(scene.written, ['2 old, 1 new, 3333']);
	scene.fact.others = 2;
	assert.deepEqual(scene.tell().written.slice(1), ['2 old, 2 new, 3333']);
	scene.starts();
	assert.deepEqual(scene.written.slice(2), ['1 old, 2 new, 6667']);
	scene.now += LEAVING_MS;
	assert.deepEqual(scene.tell().written.slice(3), ['1 old, 3 new, 6667']);
});

test('an instance that does not come: everything swings back, and the old ones are as many as before', () => {
	const scene = new Scene(4, { release: 1, instances: 4 });
	scene.starts().starts();
	scene.fact.target = { state: 'failed', reason: 'room', detail: null };
	scene.tell();
	assert.deepEqual(scene.states, ['CanaryCheck', 'RollingBack', 'RolledBack']);
	assert.equal(scene.rollout.reason, 'instance_failed');
	assert.deepEqual(scene.written.slice(-2), ['2 old, 0 new, 0', '4 old, 0 new, 0']);
	const late = new Scene(4, { release: 1, instances: 4 });
	late.starts();
	late.now = WAVE_TIMEOUT_MS;
	late.tell();
	assert.deepEqual([late.rollout.reason, late.count(1)], ['timed_out', 4]);
});

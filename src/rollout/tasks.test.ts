import assert from 'node:assert/strict';
import { test } from 'node:test';
import { planDeploy, TESTS_TIMEOUT_MS, type Strategy } from './plan.ts';
import { newRollout, type Effect, type RegionFacts, type Rollout, type RolloutEvent, type TaskKind } from './rollout.ts';
import { NOTHING, prepared } from './runs.ts';
import { nextLook, step } from './step.ts';
import { TASK_ATTEMPTS, TASK_PLACE_MS } from './tasks.ts';

const REGIONS = ['fra', 'iad'];

/** A rollout of release 2 over release 1, in regions that do at once what they are told, probes included. */
class Scene {
	rollout: Rollout;
	now = 0;
	readonly facts: Record<string, RegionFacts> = {};
	settled = false;
	proven = false;
	readonly done: string[] = [];

	constructor(of: { tasks?: TaskKind[]; strategy?: Strategy; checking?: boolean; regions?: string[] }) {
		const { tasks = [], strategy = { type: 'walk', watchMs: 1000 }, checking = false, regions = REGIONS } = of;
		const plan = planDeploy({ strategy, regions, instances: 1, keepWarm: true, strict: false, tasks });
		this.rollout = newRollout({ kind: 'deploy', release: 2, plan, waiting: false, checking, now: 0 });
		for (const name of regions) {
			const wanted = { ...NOTHING, primary: 1, run: [{ release: 1, instances: 1, as: 'serving' as const }] };
			const fresh = tasks.includes('migrate-before') ? wanted : prepared(wanted, 2, 1);
			this.facts[name] = { connected: true, lost: false, wanted: fresh, confirmed: true, target: { state: 'ready' }, worker: `${name}-1` };
		}
	}

	tell(event: RolloutEvent = { type: 'looked' }): string[] {
		for (let next: RolloutEvent | null = event; next;) {
			const { rollout, effects } = step(this.rollout, next, { regions: this.facts, keep: [], settled: this.settled, proven: this.proven }, this.now); // prettier-ignore
			this.rollout = rollout;
			for (const effect of effects) this.#do(effect);
			const probe = effects.find((effect) => effect.type === 'probe');
			if (probe)
				next = { type: 'probed', region: probe.region, verdict: 'pass', status: 200, p50Ms: 1, maxMs: 1, detail: '', ...(probe.early ? { early: true } : {}) }; // prettier-ignore
			else next = effects.length > 0 ? { type: 'looked' } : null;
		}
		return this.done.splice(0);
	}

	ends(kind: TaskKind, outcome: 'passed' | 'failed' | 'lost', attempt = 1): string[] {
		return this.tell({ type: 'task', kind, attempt, outcome, detail: 'its words', ms: 5 });
	}

	#do(effect: Effect): void {
		if (effect.type === 'transition') this.done.push(effect.reason === null ? effect.to : `${effect.to} (${effect.reason})`);
		else if (effect.type === 'floor') this.done.push(`floor ${effect.release}`);
		else if (effect.type === 'event') {
			const { kind, state, server } = effect.event.data as { kind?: string; state?: string; server?: string };
			this.done.push([effect.event.type.replace('deployment.', ''), kind, state, state === 'running' ? server : null].filter((word) => word != null).join(' ')); // prettier-ignore
		} else if (effect.type === 'write') {
			const fact = this.facts[effect.region]!;
			if (fact.wanted!.primary !== effect.wanted.primary) this.done.push(`${effect.region}→${effect.wanted.primary}`);
			else if (!fact.wanted!.run.some(({ release }) => release === 2)) this.done.push(`${effect.region} prepares`);
			fact.wanted = effect.wanted;
		}
	}
}

test('migrate.before comes before anything is prepared, the smoke test before and after the walk, migrate.after when the way back has ended', () => {
	const scene = new Scene({ tasks: ['migrate-before', 'smoke-prepared', 'smoke-live', 'migrate-after'] });
	assert.deepEqual(scene.tell(), ['task migrate-before running fra-1']);
	assert.deepEqual(scene.tell(), [], 'it waits');
	assert.deepEqual(scene.ends('migrate-before', 'passed'), ['task migrate-before passed', 'fra prepares', 'iad prepares', 'task smoke-prepared running fra-1']); // prettier-ignore
	const walked = ['CanaryCheck', 'fra→2', 'RollingOut', 'iad→2', 'task smoke-live running fra-1'];
	assert.deepEqual(scene.ends('smoke-prepared', 'passed'), ['task smoke-prepared passed', ...walked]);
	assert.deepEqual(scene.ends('smoke-live', 'passed'), ['task smoke-live passed', 'Deployed']);
	assert.deepEqual(scene.tell(), [], 'something of before stands by');
	scene.settled = true;
	assert.deepEqual(scene.tell(), ['task migrate-after running fra-1']);
	assert.deepEqual(scene.ends('migrate-after', 'passed'), ['task migrate-after passed', 'floor 2']);
	assert.deepEqual(scene.tell(), []);
});

test('a task that fails before a pointer moved ends it; one that fails after that swings back', () => {
	const before = new Scene({ tasks: ['migrate-before'] });
	before.tell();
	assert.deepEqual(before.ends('migrate-before', 'failed'), ['task migrate-before failed', 'DeployFailed (migration)']);
	assert.match(before.rollout.detail!, /stays.*its words/);
	const smoke = new Scene({ tasks: ['smoke-prepared'] });
	smoke.tell();
	assert.deepEqual(smoke.ends('smoke-prepared', 'failed'), ['task smoke-prepared failed', 'DeployFailed (smoke)']);
	const live = new Scene({ tasks: ['smoke-live'] });
	live.tell();
	assert.deepEqual(live.ends('smoke-live', 'failed'), ['task smoke-live failed', 'RollingBack (smoke)', 'fra→1', 'iad→1', 'RolledBack (smoke)']); // prettier-ignore
});

test('a server that is lost with a task: another is given it, so many times; a word of an earlier one counts for nothing', () => {
	const scene = new Scene({ tasks: ['migrate-before'] });
	scene.tell();
	for (let attempt = 1; attempt < TASK_ATTEMPTS; attempt++) {
		assert.deepEqual(scene.ends('migrate-before', 'lost', attempt), ['task migrate-before lost']);
		scene.facts['fra']!.connected = false;
		scene.now = nextLook(scene.rollout, scene.now)!;
		assert.deepEqual(scene.tell(), ['task migrate-before running iad-1']);
		assert.deepEqual(scene.ends('migrate-before', 'passed', attempt), []);
	}
	assert.deepEqual(scene.ends('migrate-before', 'lost', TASK_ATTEMPTS), ['task migrate-before lost', 'DeployFailed (migration)']);
});

test('where nobody can run it, it fails after a while; the last of all waits for ever', () => {
	const scene = new Scene({ tasks: ['migrate-before', 'migrate-after'] });
	for (const fact of Object.values(scene.facts)) fact.worker = null;
	assert.deepEqual(scene.tell(), []);
	scene.now = TASK_PLACE_MS;
	assert.deepEqual(scene.tell(), ['DeployFailed (migration)']);
	const live = new Scene({ tasks: ['migrate-after'] });
	live.tell();
	live.settled = true;
	for (const fact of Object.values(live.facts)) fact.worker = null;
	live.now = 10 * TASK_PLACE_MS;
	assert.deepEqual(live.tell(), []);
	live.facts['iad']!.worker = 'iad-1';
	assert.deepEqual(live.tell(), ['task migrate-after running iad-1']);
});

test('migrate.after that failed waits for a person, and runs under another number then', () => {
	const scene = new Scene({ tasks: ['migrate-after'] });
	scene.tell();
	scene.settled = true;
	scene.tell();
	assert.deepEqual(scene.ends('migrate-after', 'failed'), ['task migrate-after failed']);
	assert.deepEqual(scene.tell(), []);
	assert.deepEqual(scene.tell({ type: 'promoted', by: 'ada' }), ['promoted', 'task migrate-after running fra-1']);
	assert.deepEqual(scene.ends('migrate-after', 'passed', 2), ['task migrate-after passed', 'floor 2']);
});

test('a rollback goes before a migration that waits, which is given anew afterwards', () => {
	const scene = new Scene({ tasks: ['migrate-before'] });
	scene.tell();
	scene.tell({ type: 'yield' });
	assert.equal(scene.rollout.task, null);
	assert.deepEqual(scene.ends('migrate-before', 'failed'), []);
	assert.deepEqual(scene.tell({ type: 'turn' }), ['task migrate-before running fra-1']);
});

test('checks hold it in the first region; passed it goes on, failed it goes back', () => {
	const passing = new Scene({ checking: true });
	assert.deepEqual(passing.tell(), ['CanaryCheck', 'fra→2']);
	passing.now = 10 * 60_000;
	assert.deepEqual(passing.tell(), [], 'the time limits of a wave do not count meanwhile');
	assert.deepEqual(passing.tell({ type: 'checked', passed: true, summary: 'tsc' }), ['checks passed', 'RollingOut', 'iad→2', 'Deployed']);
	const failing = new Scene({ checking: true });
	failing.tell();
	assert.deepEqual(failing.tell({ type: 'checked', passed: false, summary: 'tsc said no' }), ['checks failed', 'RollingBack (checks)', 'fra→1', 'RolledBack (checks)']); // prettier-ignore
	const late = new Scene({ checking: true });
	late.tell();
	late.now = TESTS_TIMEOUT_MS;
	assert.deepEqual(late.tell()[0], 'RollingBack (checks_timeout)');
});

test('with one region checks hold its end, with one wave everything', () => {
	const one = new Scene({ checking: true, regions: ['fra'] });
	assert.deepEqual(one.tell(), ['CanaryCheck', 'fra→2']);
	assert.deepEqual(one.tell({ type: 'checked', passed: true, summary: '' }), ['checks passed', 'Deployed']);
	const all = new Scene({ checking: true, strategy: { type: 'blue-green', watchMs: 1 } });
	assert.deepEqual(all.tell(), []);
	assert.deepEqual(all.tell({ type: 'checked', passed: false, summary: '' }), ['checks failed', 'DeployFailed (checks)']);
});

test('a canary whose window ends: held until a person promotes it, or swung back when nothing was shown', () => {
	const canary = (onWindowEnd: 'hold' | 'rollback'): Strategy => ({
		type: 'canary',
		watchMs: 1,
		ramp: [5, 25, 100],
		windowMs: 4000,
		onWindowEnd,
	});
	const toWindowEnd = (scene: Scene) => {
		scene.tell();
		for (let at = nextLook(scene.rollout, scene.now); at !== null && !scene.rollout.held && scene.rollout.phase === 'walking' && scene.now < 4000; at = nextLook(scene.rollout, scene.now)) {
			scene.now = at;
			scene.tell();
		}
	}; // prettier-ignore
	const held = new Scene({ strategy: canary('hold') });
	toWindowEnd(held);
	assert.equal(held.rollout.held, true);
	assert.equal(held.facts['fra']!.wanted!.candidate?.weightBp, 2500);
	held.now += 3_600_000;
	assert.deepEqual(held.tell(), [], 'for as long as it takes');
	held.tell({ type: 'promoted', by: 'ada' });
	assert.equal(held.facts['fra']!.wanted!.primary, 2);
	const unproven = new Scene({ strategy: canary('rollback') });
	toWindowEnd(unproven);
	assert.deepEqual([unproven.rollout.phase, unproven.rollout.reason], ['ended', 'window_ended']);
	const proven = new Scene({ strategy: canary('rollback') });
	proven.proven = true;
	toWindowEnd(proven);
	assert.equal(proven.facts['fra']!.wanted!.primary, 2);
});

import type { TaskKind } from './rollout.ts';

/** A strategy and the regions it is for, worked out into waves, gates and time limits: what a rollout then follows. */

export const PREPARE_TIMEOUT_MS = 120_000;
/** Who runs the tests may be gone: nobody waits for longer. */
export const TESTS_TIMEOUT_MS = 30 * 60_000;
export const WAVE_TIMEOUT_MS = 120_000;
/** After this a rollback lists the regions that have not confirmed as pending. */
export const ROLLBACK_TIMEOUT_MS = 10_000;
export const WHOLE_BP = 10_000;

export type Strategy =
	| { type: 'walk'; watchMs: number; minRegions?: number; waves?: readonly ('rest' | readonly string[])[] }
	| {
			type: 'canary';
			watchMs: number;
			minRegions?: number;
			waves?: readonly ('rest' | readonly string[])[];
			/** Percent. */
			ramp: readonly number[];
			/** How long weights below 100 % are held, those of all waves together. */
			windowMs: number;
			onWindowEnd: 'promote' | 'hold' | 'rollback';
	  }
	| { type: 'blue-green' | 'rolling'; watchMs: number; minRegions?: number };

export interface Plan {
	/** In order; the first is the canary region. */
	regions: string[];
	waves: string[][];
	/** For each wave: must a gate pass before the next one follows? */
	gates: boolean[];
	/** Weights that a wave goes through, in hundredths of a percent; the last is 10,000. */
	ramp: number[];
	/** How long each weight but the last is held. */
	holdMs: number;
	/** The rollout goes on without lost regions as long as so many are there. */
	minRegions: number;
	/** In each region. */
	instances: number;
	prepareMs: number;
	/** Regions that have not confirmed by then are pending, if enough have. */
	confirmMs: number;
	/** Otherwise everything swings back after this. */
	waveMs: number;
	watchMs: number;
	/** What served before is kept warm. */
	keepWarm: boolean;
	/** Which statuses pass the probe gate: 2xx and 3xx, or anything below 500. */
	strict: boolean;
	/** What is run on a server of the first region beside it. Absent: nothing. */
	tasks?: readonly TaskKind[];
	/** In each region one instance after the other is replaced. */
	rolling?: boolean;
	/** canary: what the end of the window brings where nothing was decided in it; absent: it goes on. */
	onWindowEnd?: 'hold' | 'rollback';
}

export class PlanError extends Error {
	readonly code: 'bad_waves' | 'no_regions';
	constructor(code: PlanError['code'], message: string) {
		super(message);
		this.code = code;
	}
}

export interface PlanInput {
	strategy: Strategy;
	regions: readonly string[];
	instances: number;
	keepWarm: boolean;
	strict: boolean;
	tasks?: readonly TaskKind[];
}

/** The way of a new release, or of an old one that has to be prepared again. @throws PlanError */
export function planDeploy(input: PlanInput): Plan {
	const regions = [...input.regions];
	if (regions.length === 0) throw new PlanError('no_regions', 'there is no region to deploy to; start some with `jibe up --regions`');
	const waves = wavesOf(input.strategy, regions);
	const ramp = rampOf(input.strategy, input.instances);
	return {
		...limits(input, regions),
		...(input.strategy.type === 'rolling' ? { rolling: true, keepWarm: false } : {}),
		waves,
		// The last wave has nothing to hold back any more: what follows it is the watch. A single wave is gated.
		gates: waves.map((_, index) => index === 0 || index < waves.length - 1),
		ramp,
		holdMs: input.strategy.type === 'canary' ? Math.ceil(input.strategy.windowMs / Math.max(1, (ramp.length - 1) * waves.length)) : 0,
		...(input.tasks?.length ? { tasks: [...input.tasks] } : {}),
		...(input.strategy.type === 'canary' && input.strategy.onWindowEnd !== 'promote' ? { onWindowEnd: input.strategy.onWindowEnd } : {}),
	};
}

/** The way back to a release that still stands by: every region at once, no gate. @throws PlanError */
export function planWarmRollback(input: PlanInput): Plan {
	const regions = [...input.regions];
	if (regions.length === 0) throw new PlanError('no_regions', 'there is no region to roll back in; start some with `jibe up --regions`');
	return {
		...limits(input, regions),
		// It goes to whoever can be reached: "enough" is a question of new releases.
		minRegions: 1,
		waves: [regions],
		gates: [false],
		ramp: [WHOLE_BP],
		holdMs: 0,
		confirmMs: ROLLBACK_TIMEOUT_MS,
	};
}

/** false: pointers are written everywhere at once, prepared or not. */
export function isGated(plan: Plan): boolean {
	return plan.gates.some((gate) => gate);
}

function limits(input: PlanInput, regions: string[]) {
	const most = input.strategy.minRegions ?? Math.floor(regions.length / 2) + 1;
	return {
		regions,
		minRegions: Math.min(most, regions.length),
		instances: input.instances,
		prepareMs: PREPARE_TIMEOUT_MS,
		confirmMs: WAVE_TIMEOUT_MS,
		waveMs: WAVE_TIMEOUT_MS,
		watchMs: input.strategy.watchMs,
		keepWarm: input.keepWarm,
		strict: input.strict,
	};
}

function wavesOf(strategy: Strategy, regions: string[]): string[][] {
	switch (strategy.type) {
		case 'walk':
		case 'canary':
			return strategy.waves ? customWaves(strategy.waves, regions) : firstThenRest(regions);
		case 'rolling':
			return firstThenRest(regions);
		case 'blue-green':
			return [regions];
	}
}

function firstThenRest(regions: string[]): string[][] {
	return regions.length === 1 ? [regions] : [regions.slice(0, 1), regions.slice(1)];
}

/** Names of regions that the environment does not have are left out: `environments` may narrow the regions below the strategy's. */
function customWaves(waves: readonly ('rest' | readonly string[])[], regions: string[]): string[][] {
	const named = new Set(waves.flatMap((wave) => (wave === 'rest' ? [] : wave)));
	const rest = regions.filter((region) => !named.has(region));
	const all = waves.map((wave) => (wave === 'rest' ? rest : wave.filter((region) => regions.includes(region))));
	const seen = new Set(all.flat());
	if (all.flat().length !== seen.size) throw new PlanError('bad_waves', 'a region stands in two waves of the strategy; name each once');
	const missing = regions.filter((region) => !seen.has(region));
	if (missing.length > 0) throw new PlanError('bad_waves', `the strategy's waves leave out ${missing.join(', ')}; add them or "rest"`);
	return all.filter((wave) => wave.length > 0);
}

function rampOf(strategy: Strategy, instances: number): number[] {
	// One weight for each instance.
	if (strategy.type === 'rolling') return Array.from({ length: instances }, (_, i) => Math.round(((i + 1) * WHOLE_BP) / instances));
	if (strategy.type !== 'canary') return [WHOLE_BP];
	const below = strategy.ramp.map((percent) => Math.round(percent * 100)).filter((weight) => weight < WHOLE_BP);
	const rising = below.every((weight, index) => index === 0 || weight > below[index - 1]!);
	if (!rising) throw new PlanError('bad_waves', 'the ramp must rise from step to step');
	return [...below, WHOLE_BP];
}

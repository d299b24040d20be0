import type { Effect, Rollout } from '#rollout/rollout.ts';
import type { Deployment, RegionOutcome } from '#wire/api.ts';
import type { Advance } from '../ports.ts';
import { pointerWrite, type Scene } from './facts.ts';

/** What one step of a rollout changes in the record of its deployment, and in the pointers. */
export function changeOf(
	scene: Scene,
	rollout: Rollout,
	effects: readonly Effect[],
	now: number,
): Omit<Advance, 'deployment' | 'fence' | 'version' | 'at'> {
	const transition = effects.find((effect) => effect.type === 'transition');
	const writes = effects.flatMap((effect) => (effect.type === 'write' ? [pointerWrite(scene, effect.region, effect.wanted)] : []));
	const events = effects.flatMap((effect) => (effect.type === 'event' ? [effect.event] : []));
	const floor = effects.find((effect) => effect.type === 'floor');
	return {
		...(transition ? { to: transition.to, reason: transition.reason, detail: transition.detail } : {}),
		rollout,
		regions: outcomes(rollout),
		timings: timings(rollout),
		canary: rollout.canary,
		...(transition?.to === 'Deployed' ? { watchUntil: now + rollout.plan.watchMs } : {}),
		...(rollout.times.prepared === now ? { coldStarts: coldStarts(scene, rollout) } : {}),
		...(writes.length > 0 ? { writes } : {}),
		...(events.length > 0 ? { events } : {}),
		...(floor ? { floor: floor.release } : {}),
	};
}

/** A rollout as the record of its deployment tells it. */
export function outcomes(rollout: Rollout): RegionOutcome[] {
	return rollout.regions.map(({ name, stage, ms, reason }) => ({ name, state: OUTCOME[stage], ms, reason }));
}

const OUTCOME = {
	preparing: 'waiting',
	prepared: 'prepared',
	moving: 'prepared',
	live: 'live',
	pending: 'pending',
	skipped: 'skipped',
	failed: 'failed',
	swinging: 'pending',
	'rolled-back': 'rolled-back',
} as const satisfies Record<Rollout['regions'][number]['stage'], RegionOutcome['state']>;

/** Spans from one mark to the next; the gate is left out of the rollout's span. */
function timings(rollout: Rollout): Deployment['timings'] {
	const { prepared, ended } = rollout.times;
	// The gate may have passed while other regions still prepared: then it has cost nothing.
	const gated = rollout.times.gated === null ? null : Math.max(rollout.times.gated, prepared ?? 0);
	return {
		prepareMs: prepared === null ? null : prepared - rollout.createdAt,
		canaryMs: prepared === null || gated === null ? null : gated - prepared,
		rolloutMs: prepared === null || ended === null ? null : ended - (gated ?? prepared),
	};
}

/** How many instances of the release were not taken from the idle pool. */
function coldStarts({ app, environment, hub }: Scene, rollout: Rollout): number {
	const all = rollout.plan.regions.flatMap((region) => hub.instances({ region, app, environment }));
	return all.filter((instance) => instance.release === rollout.release && instance.cold).length;
}

/** A region that was away has heard of it after the end: nothing else would record that. */
export function isLateNews(before: Rollout, after: Rollout): boolean {
	if (after.phase !== 'live' && after.phase !== 'ended') return false;
	return after.regions.some((region, index) => region.stage !== before.regions[index]!.stage);
}

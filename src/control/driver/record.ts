import type { Rollout } from '#rollout/rollout.ts';
import type { Deployment, RegionOutcome } from '#wire/api.ts';

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
export function timings(rollout: Rollout): Deployment['timings'] {
	const { prepared, gated, ended } = rollout.times;
	return {
		prepareMs: prepared === null ? null : prepared - rollout.createdAt,
		canaryMs: prepared === null || gated === null ? null : gated - prepared,
		rolloutMs: prepared === null || ended === null ? null : ended - (gated ?? prepared),
	};
}

import type { RampProgress } from '#wire/api.ts';
import type { Lane, Walk } from './lane.ts';
import type { Listener } from './settings.ts';

/** Who watches a canary is told how far it is once a second, and at each new weight. */
const TELL_EACH_MS = 1_000;

export class RampTeller {
	#last: { weight: string; at: number } = { weight: '', at: 0 };

	look(lane: Lane, told: Listener): void {
		const now = lane.settings.clock.now();
		const walk = lane.walking();
		const progress = walk && rampProgress(lane, walk, now);
		if (!progress) return;
		const weight = `${walk.deployment.id} ${walk.rollout.wave} ${progress.weightBp}`;
		if (weight === this.#last.weight && now - this.#last.at < TELL_EACH_MS) return;
		this.#last = { weight, at: now };
		told(walk.deployment, { type: 'deployment.ramp', data: { ...progress } });
	}
}

/** null while no weight below 100 % is held. */
function rampProgress(lane: Lane, { rollout }: Walk, now: number): RampProgress | null {
	if (rollout.rungAt === null) return null;
	const held = [...lane.wants.values()].filter((want) => want.pointer.candidate?.release === rollout.release);
	if (held.length === 0) return null;
	const { requests, errors } = lane.ledger.counted(rollout.release, rollout.times.prepared ?? rollout.createdAt);
	return {
		weightBp: rollout.plan.ramp[rollout.rung]!,
		regions: held.map((want) => want.region),
		leftMs: Math.max(0, rollout.rungAt + rollout.plan.holdMs - now),
		requests,
		errors,
	};
}

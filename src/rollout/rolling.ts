import { WHOLE_BP, type Plan } from './plan.ts';
import { moved } from './runs.ts';
import type { Effect, Facts, Readiness, RegionProgress, Rollout, Wanted } from './rollout.ts';

/**
 * In place, one instance at a time, for servers without room for two releases: each rung gives the new ones one share more of the
 * traffic and takes an old one out; once that has ended the next one starts. There is never more than one too many.
 */

/** Streams may take longer to end: the next instance finds room beside them, or it fails. */
export const LEAVING_MS = 40_000;

/** How many run before any traffic moves. */
export function preparedCount({ rolling, instances }: Plan): number {
	return rolling ? 1 : instances;
}

/** What a region is to run on this rung; where nothing served there is nothing to replace. */
export function rolled(wanted: Wanted, { plan, rung, release }: Rollout, { full }: RegionProgress): Wanted {
	if (wanted.primary === null || wanted.primary === release) return moved(wanted, release, plan.instances, WHOLE_BP);
	const old = wanted.primary;
	const next = moved(wanted, release, rung + 1, plan.ramp[rung]!);
	const before = full ?? plan.instances;
	const left = Math.max(1, before - Math.floor(((rung + 1) * before) / plan.instances));
	return { ...next, run: next.run.map((entry) => (entry.release === old ? { ...entry, instances: left } : entry)) };
}

export type RollingStep = { type: 'wait' } | { type: 'failed'; detail: string } | { type: 'write'; writes: Effect[] };

/** In each region: what was taken out has ended, then one more starts, then it is there. null: the next rung. */
export function rollingStep(rollout: Rollout, facts: Facts, now: number): RollingStep | null {
	const { plan, release, rung, since } = rollout;
	if (!plan.rolling) return null;
	const writes: Effect[] = [];
	let waits = false;
	for (const { name } of rollout.regions.filter(({ stage }) => stage === 'live')) {
		const fact = facts.regions[name];
		const wanted = fact?.wanted;
		const mine = wanted?.run.find((entry) => entry.release === release);
		if (!fact || !wanted || !mine) continue;
		if (fact.target.state === 'failed') return { type: 'failed', detail: failure(name, fact.target) };
		const others = wanted.run.reduce((sum, entry) => sum + (entry.release === release ? 0 : entry.instances), 0);
		const isLeaving = (fact.others ?? 0) > others && now < since + LEAVING_MS;
		if (isLeaving || fact.target.state !== 'ready') waits = true;
		else if (mine.instances < Math.min(plan.instances, rung + 2)) {
			const run = wanted.run.map((entry) => (entry === mine ? { ...entry, instances: mine.instances + 1 } : entry));
			writes.push({ type: 'write', region: name, wanted: { ...wanted, run } });
		}
	}
	if (writes.length > 0) return { type: 'write', writes };
	return waits ? { type: 'wait' } : null;
}

function failure(region: string, { reason, detail }: Extract<Readiness, { state: 'failed' }>): string {
	return `${reason} in ${region}${detail === null ? '' : `: ${detail}`}`;
}

/** After the way back: as many of what serves again as there were. */
export function restored(wanted: Wanted, { before, full }: RegionProgress): Wanted {
	if (full == null || before === null || wanted.primary !== before) return wanted;
	return {
		...wanted,
		run: wanted.run.map((entry) => (entry.release === before && entry.instances < full ? { ...entry, instances: full } : entry)),
	};
}

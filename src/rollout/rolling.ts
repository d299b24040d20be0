import { WHOLE_BP, type Plan } from './plan.ts';
import { moved } from './runs.ts';
import type { Facts, RegionProgress, Rollout, Wanted } from './rollout.ts';

/**
 * In place, one instance at a time, for servers without room for two releases: each rung takes one more of the old ones out,
 * gives the new ones that share of the traffic, and starts the next. There is never more than one instance too many.
 */

/** How many run before any traffic moves. */
export function preparedCount({ rolling, instances }: Plan): number {
	return rolling ? 1 : instances;
}

/** What a region is to run on this rung; where nothing served there is nothing to replace. */
export function rolled(wanted: Wanted, { plan, rung, release }: Rollout, { full }: RegionProgress): Wanted {
	if (wanted.primary === null || wanted.primary === release) return moved(wanted, release, plan.instances, WHOLE_BP);
	const old = wanted.primary;
	const next = moved(wanted, release, Math.min(plan.instances, rung + 2), plan.ramp[rung]!);
	const before = full ?? plan.instances;
	const left = Math.max(1, before - Math.floor(((rung + 1) * before) / plan.instances));
	return { ...next, run: next.run.map((entry) => (entry.release === old ? { ...entry, instances: left } : entry)) };
}

/** Where the next instance is not there yet, and why it will not come. null: all may go on. */
export function rollingWaits({ plan }: Rollout, members: readonly RegionProgress[], facts: Facts): { failed: string | null } | null {
	if (!plan.rolling) return null;
	const targets = members.map(({ name }) => ({ name, target: facts.regions[name]?.target }));
	for (const { name, target } of targets)
		if (target?.state === 'failed') return { failed: `${target.reason} in ${name}${target.detail === null ? '' : `: ${target.detail}`}` };
	return targets.every(({ target }) => target?.state === 'ready') ? null : { failed: null };
}

/** After the way back: as many of what serves again as there were. */
export function restored(wanted: Wanted, { before, full }: RegionProgress): Wanted {
	if (full == null || before === null || wanted.primary !== before) return wanted;
	return {
		...wanted,
		run: wanted.run.map((entry) => (entry.release === before && entry.instances < full ? { ...entry, instances: full } : entry)),
	};
}

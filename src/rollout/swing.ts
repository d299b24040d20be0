import { ROLLBACK_TIMEOUT_MS } from './plan.ts';
import { restored } from './rolling.ts';
import { NOTHING, prepared, sameWanted, serves, swungBack } from './runs.ts';
import type { Effect, Facts, RegionProgress, Rollout } from './rollout.ts';

/** Every pointer that moved goes back to where it was. It never fails: regions that can't be reached are left pending. */

export const SWING_TIMEOUT_MS = ROLLBACK_TIMEOUT_MS;

export function startSwing(
	rollout: Rollout,
	reason: string,
	detail: string | null,
	byAnother: boolean,
	facts: Facts,
	now: number,
): Effect[] {
	const first = rollout.regions.filter((region) => region.moved).every((region) => region.before === null);
	rollout.reason = first ? 'no_previous' : reason;
	rollout.detail = first ? [reason, detail].filter((part) => part !== null).join(': ') : detail;
	Object.assign(rollout, { phase: 'swinging', since: now, gate: null, rungAt: null, task: null });
	for (const region of rollout.regions) if (region.moved) region.stage = 'swinging';
	const transition: Effect = { type: 'transition', to: 'RollingBack', reason: rollout.reason, detail: rollout.detail };
	return byAnother ? [transition] : [transition, ...writesBack(rollout, facts)];
}

export function swing(rollout: Rollout, facts: Facts, now: number): Effect[] {
	const writes = writesBack(rollout, facts);
	if (writes.length > 0) return writes;
	const late = now >= rollout.since + SWING_TIMEOUT_MS;
	for (const region of rollout.regions) {
		const fact = facts.regions[region.name];
		if (region.stage !== 'swinging') continue;
		if (!fact || fact.confirmed) Object.assign(region, { stage: 'rolled-back', ms: now - rollout.createdAt, reason: null });
		else if (fact.lost || late) Object.assign(region, { stage: 'pending', reason: fact.lost ? 'lost' : 'not_confirmed' });
	}
	if (rollout.regions.some((region) => region.stage === 'swinging')) return [];
	rollout.phase = 'ended';
	rollout.times.ended = now;
	const again = rollout.regions.flatMap((region): Effect[] => {
		const wanted = facts.regions[region.name]?.wanted ?? NOTHING;
		const next = restored(wanted, region);
		return sameWanted(wanted, next) ? [] : [{ type: 'write', region: region.name, wanted: next }];
	});
	return [...again, { type: 'transition', to: 'RolledBack', reason: rollout.reason, detail: rollout.detail }];
}

/** Where the release still serves, or still stands prepared. Nothing where another deployment has written already. */
function writesBack(rollout: Rollout, facts: Facts): Effect[] {
	return rollout.regions.flatMap((region): Effect[] => {
		const wanted = facts.regions[region.name]?.wanted ?? NOTHING;
		const back = backFrom(region, rollout, facts);
		const next = back(wanted);
		return sameWanted(wanted, next) ? [] : [{ type: 'write', region: region.name, wanted: next }];
	});
}

function backFrom(region: RegionProgress, rollout: Rollout, facts: Facts) {
	const { release, plan } = rollout;
	// Another deployment goes to the same release: it goes on standing prepared for that.
	const kept = facts.keep.includes(release);
	return (wanted: typeof NOTHING) => {
		if (region.before === release) return wanted;
		if (region.moved && serves(wanted, release)) {
			const back = swungBack(wanted, release, region.before, plan.instances);
			return kept ? prepared(back, release, plan.instances) : back;
		}
		if (serves(wanted, release) || kept) return wanted;
		return { ...wanted, run: wanted.run.filter((entry) => entry.release !== release || entry.as === 'warm') };
	};
}

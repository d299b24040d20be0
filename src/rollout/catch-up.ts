import { askGate, newGate } from './gate.ts';
import { preparedCount } from './rolling.ts';
import { moved, NOTHING, prepared, settled } from './runs.ts';
import { awaitTask } from './tasks.ts';
import type { Effect, Facts, RegionFacts, RegionProgress, Rollout } from './rollout.ts';

/** After Deployed: regions that were away come back. One that never got its pointer prepares and passes a gate of its own first. */
export function catchUp(rollout: Rollout, facts: Facts, now: number): Effect[] {
	releaseGate(rollout, facts);
	for (const region of rollout.regions) {
		const fact = facts.regions[region.name];
		if (!fact || !(region.stage === 'pending' || region.stage === 'moving')) continue;
		if (fact.confirmed) Object.assign(region, { stage: 'live', ms: now - rollout.createdAt, reason: null });
		else if (fact.lost && region.stage === 'moving') Object.assign(region, { stage: 'pending', reason: 'lost' });
	}
	const writes = rollout.regions
		.filter((region) => region.stage === 'skipped' && reachable(facts.regions[region.name]))
		.flatMap((region) => bringBack(rollout, region, facts));
	const after = facts.settled ? (awaitTask(rollout, 'migrate-after', facts, now) ?? []) : [];
	return [...writes, ...askGate(rollout, facts, now), ...after];
}

/** Prepare, gate, pointer. One region at a time is asked. */
function bringBack(rollout: Rollout, region: RegionProgress, facts: Facts): Effect[] {
	const { release, plan } = rollout;
	const fact = facts.regions[region.name]!;
	const wanted = fact.wanted ?? NOTHING;
	if (!wanted.run.some((entry) => entry.release === release)) {
		return [{ type: 'write', region: region.name, wanted: prepared(wanted, release, preparedCount(plan)) }];
	}
	if (fact.target.state === 'failed') Object.assign(region, { stage: 'failed', reason: fact.target.reason });
	if (fact.target.state !== 'ready') return [];
	rollout.gate ??= newGate(region.name);
	if (rollout.gate.region !== region.name || !rollout.gate.passed) return [];
	rollout.gate = null;
	region.before = wanted.primary;
	Object.assign(region, { stage: 'moving', moved: true, reason: null });
	const warm = plan.keepWarm && region.before !== release ? region.before : null;
	return [{ type: 'write', region: region.name, wanted: settled(moved(wanted, release, plan.instances, 10_000), warm, facts.keep) }];
}

/** Its region went away again, or failed: another one may be asked. */
function releaseGate(rollout: Rollout, facts: Facts): void {
	const region = rollout.regions.find((one) => one.name === rollout.gate?.region);
	if (region?.stage !== 'skipped' || !reachable(facts.regions[region.name])) rollout.gate = null;
}

function reachable(fact: RegionFacts | undefined): boolean {
	return fact !== undefined && fact.connected && !fact.lost;
}

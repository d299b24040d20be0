import { checksFailure, waitsForChecks } from './checks.ts';
import { askGate, newGate, passedEarly } from './gate.ts';
import { moved, NOTHING, sameWanted, settled } from './runs.ts';
import { isGated } from './plan.ts';
import { rolled, rollingStep } from './rolling.ts';
import { startSwing } from './swing.ts';
import { awaitTask } from './tasks.ts';
import type { Effect, Facts, Gate, RegionProgress, Rollout } from './rollout.ts';

/** The pointers, wave after wave: write them, have them confirmed, pass the gate, go on. */
export function walk(rollout: Rollout, facts: Facts, now: number): Effect[] {
	const late = now >= rollout.since + rollout.plan.confirmMs;
	confirmRegions(rollout, facts, now);
	if (late) giveUpWaiting(rollout);
	const harmed = checksFailure(rollout, now);
	if (harmed) return startSwing(rollout, harmed.reason, harmed.detail, false, facts, now);
	if (tooLate(rollout, now) && stuck(rollout)) return timedOut(rollout, facts, now);
	const elsewhere = moveGate(rollout, facts);
	if (elsewhere.length > 0) return elsewhere;
	// The probes go out with the pointer: the region's edge gets them after it, and both have to come out well.
	const asked = askGate(rollout, facts, now);
	if (asked.length > 0) return asked;
	if (goesOnAtOnce(rollout)) return nextWave(rollout, facts, now);
	if (rollout.regions.some((region) => region.stage === 'moving')) return [];
	if (rollout.gate && !rollout.gate.passed) return [];
	if (!anyLive(rollout)) return [];
	return nextRung(rollout, facts, now);
}

/** The next wave's pointers; after the last one, the end. */
export function nextWave(rollout: Rollout, facts: Facts, now: number): Effect[] {
	if (waitsForChecks(rollout)) return [];
	const members = nextMembers(rollout, facts);
	if (!enoughCan(rollout, passedEarly(rollout)))
		return startSwing(rollout, 'regions_lost', 'too few regions are left to go on with', false, facts, now);
	if (members.length === 0) return awaitTask(rollout, 'smoke-live', facts, now) ?? finish(rollout, facts, now);
	const gated = rollout.plan.gates[rollout.wave]!;
	Object.assign(rollout, { phase: 'walking', since: now, rung: 0, rungAt: null, gate: gated ? gateOf(rollout, members[0]!.name) : null });
	return [...enter(rollout), ...members.map((region) => movePointer(rollout, region, facts))];
}

/** One that was asked early stands, or is waited for, where it is of this wave. */
function gateOf({ gate, wave }: Rollout, region: string): Gate {
	return wave === 0 && gate?.early && gate.asked && gate.region === region ? gate : newGate(region);
}

/** The gate passed before the first pointer moved: the next wave does not wait for that pointer to be confirmed. */
function goesOnAtOnce(rollout: Rollout): boolean {
	return rollout.wave === 0 && passedEarly(rollout) && rollout.regions.some(({ stage }) => stage === 'prepared');
}

/** Regions of the next wave that has any. A first region that is lost is replaced by the next that can be reached. */
function nextMembers(rollout: Rollout, facts: Facts): RegionProgress[] {
	const ready = rollout.regions.filter((region) => region.stage === 'prepared');
	// A rollback is written everywhere: whoever is away catches up first thing on return.
	for (const region of isGated(rollout.plan) ? ready : [])
		if (facts.regions[region.name]?.lost) Object.assign(region, { stage: 'skipped', reason: 'lost' });
	const there = ready.filter((region) => region.stage === 'prepared');
	while (++rollout.wave < rollout.plan.waves.length) {
		// One whose turn was taken by another goes with the next wave.
		const turns = rollout.plan.waves.slice(0, rollout.wave + 1).flat();
		const members = there.filter((region) => turns.includes(region.name));
		const reachable = (region: RegionProgress) => facts.regions[region.name]?.connected === true;
		if (rollout.wave === 0 && !members.some(reachable) && there.some(reachable)) return [there.find(reachable)!];
		if (members.length > 0) return members.toSorted((a, b) => Number(reachable(b)) - Number(reachable(a)));
	}
	return [];
}

function enter(rollout: Rollout): Effect[] {
	if (rollout.state === 'RollingOut') return [];
	const to = rollout.wave === 0 && rollout.gate ? 'CanaryCheck' : 'RollingOut';
	return to === rollout.state ? [] : [{ type: 'transition', to, reason: null, detail: null }];
}

function movePointer(rollout: Rollout, region: RegionProgress, facts: Facts): Effect {
	const wanted = facts.regions[region.name]?.wanted ?? NOTHING;
	const { plan, release } = rollout;
	if (!region.moved) region.before = wanted.primary;
	if (!region.moved && plan.rolling) region.full = wanted.run.find((entry) => entry.release === region.before)?.instances ?? null;
	Object.assign(region, { stage: 'moving', moved: true, reason: null });
	const next = plan.rolling ? rolled(wanted, rollout, region) : moved(wanted, release, plan.instances, plan.ramp[rollout.rung]!);
	// Without a gate nothing is asked of what served before: it may stand by at once.
	return { type: 'write', region: region.name, wanted: isGated(plan) ? next : settled(next, standby(rollout, region), facts.keep) };
}

function standby(rollout: Rollout, region: RegionProgress): number | null {
	return rollout.plan.keepWarm && region.before !== rollout.release ? region.before : null;
}

function confirmRegions(rollout: Rollout, facts: Facts, now: number): void {
	for (const region of rollout.regions) {
		const fact = facts.regions[region.name];
		if (region.stage === 'moving' || region.stage === 'pending') {
			if (fact?.confirmed) Object.assign(region, { stage: 'live', ms: now - rollout.createdAt, reason: null });
			else if (!fact || fact.lost) Object.assign(region, { stage: 'pending', reason: 'lost' });
		}
	}
}

function giveUpWaiting(rollout: Rollout): void {
	if (!enoughCan(rollout) || !anyLive(rollout)) return;
	for (const region of rollout.regions) {
		if (region.stage === 'moving') Object.assign(region, { stage: 'pending', reason: 'not_confirmed' });
	}
}

/** Regions that are live, or were lost with a moved pointer, or still have their turn, are enough to go on with. */
function enoughCan(rollout: Rollout, moving = false): boolean {
	const can = rollout.regions.filter(
		({ stage, reason }) =>
			(moving && stage === 'moving') || stage === 'live' || stage === 'prepared' || (stage === 'pending' && reason === 'lost'),
	);
	return can.length >= rollout.plan.minRegions;
}

function anyLive(rollout: Rollout): boolean {
	return rollout.regions.some((region) => region.stage === 'live');
}

/** It waits for a gate or for regions that don't answer; a weight that is held is no reason to give up. */
function stuck(rollout: Rollout): boolean {
	return !anyLive(rollout) || !enoughCan(rollout) || (rollout.gate !== null && !rollout.gate.passed);
}

function tooLate(rollout: Rollout, now: number): boolean {
	return now >= rollout.since + rollout.plan.waveMs;
}

function timedOut(rollout: Rollout, facts: Facts, now: number): Effect[] {
	const live = rollout.regions.filter((region) => region.stage === 'live').length;
	return startSwing(rollout, 'timed_out', `${live} of ${rollout.regions.length} regions confirmed in time`, false, facts, now);
}

/** The gate's region was lost after its pointer moved: another one of the wave answers for it, or the next region takes its place. */
function moveGate(rollout: Rollout, facts: Facts): Effect[] {
	const gate = rollout.gate;
	if (!gate || gate.passed) return [];
	const region = rollout.regions.find((one) => one.name === gate.region)!;
	if (region.stage !== 'pending') return [];
	const reachable = (one: RegionProgress) => facts.regions[one.name]?.connected === true;
	const inWave = rollout.regions.find((one) => (one.stage === 'live' || one.stage === 'moving') && reachable(one));
	const next = inWave ?? rollout.regions.find((one) => one.stage === 'prepared' && reachable(one));
	if (!next) return [];
	rollout.gate = newGate(next.name);
	return inWave ? [] : [movePointer(rollout, next, facts)];
}

/** Raises the wave's weight when it was held for long enough; at the full weight, the next wave. */
function nextRung(rollout: Rollout, facts: Facts, now: number): Effect[] {
	const members = rollout.regions.filter((region) => facts.regions[region.name]?.wanted?.candidate?.release === rollout.release);
	// Where nothing served before there is nothing to share the traffic with.
	const rolling = rollingStep(rollout, facts, now);
	if (rolling?.type === 'failed') return startSwing(rollout, 'instance_failed', rolling.detail, false, facts, now);
	if (rolling && tooLate(rollout, now)) return timedOut(rollout, facts, now);
	if (rolling) return rolling.type === 'write' ? rolling.writes : [];
	if (members.length === 0) return nextWave(rollout, facts, now);
	rollout.rungAt ??= now;
	if (now < rollout.rungAt + rollout.plan.holdMs) return [];
	const held = windowEnd(rollout, facts, now);
	if (held) return held;
	Object.assign(rollout, { rung: rollout.rung + 1, rungAt: null, since: now });
	return members.map((region) => movePointer(rollout, region, facts));
}

/** Before the first region gets all of the traffic: what is asked of it there, once. null: it goes on. */
function windowEnd(rollout: Rollout, facts: Facts, now: number): Effect[] | null {
	const { plan, rung, promoted, held } = rollout;
	if (plan.onWindowEnd === undefined || promoted || rung + 1 < plan.ramp.length - 1) return null;
	if (plan.onWindowEnd === 'rollback') {
		if (!facts.proven)
			return startSwing(
				rollout,
				'window_ended',
				'its window ended without enough requests to show that it does no harm',
				false,
				facts,
				now,
			);
		rollout.promoted = true;
		return null;
	}
	if (held) return [];
	rollout.held = true;
	return [{ type: 'event', event: { type: 'deployment.held', data: { weightBp: plan.ramp[rung]! } } }];
}

/** The last thing promised is done. What served before stands by, and what nobody needs goes, in the same transaction. */
function finish(rollout: Rollout, facts: Facts, now: number): Effect[] {
	Object.assign(rollout, { phase: 'live', since: now, gate: null });
	rollout.times.ended = now;
	const effects: Effect[] = [{ type: 'transition', to: 'Deployed', reason: rollout.reason, detail: rollout.detail }];
	for (const [name, fact] of Object.entries(facts.regions)) {
		if (!fact.wanted) continue;
		const region = rollout.regions.find((one) => one.name === name);
		const next = region ? settledRegion(rollout, region, fact.wanted, facts) : settled(NOTHING, null, []);
		if (!sameWanted(fact.wanted, next)) effects.push({ type: 'write', region: name, wanted: next });
	}
	return effects;
}

function settledRegion(rollout: Rollout, region: RegionProgress, wanted: NonNullable<Facts['regions'][string]['wanted']>, facts: Facts) {
	// A region without its pointer keeps the release prepared, to catch up when it is back.
	const keep = region.moved ? facts.keep : [...facts.keep, rollout.release];
	return settled(wanted, standby(rollout, region), keep);
}

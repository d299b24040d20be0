import { type Effect, type Facts, type Gate, type Rollout, type RolloutEvent } from './rollout.ts';
import { startSwing } from './swing.ts';

/** How often a gate that got no clear answer is asked again, and after how long. */
const GATE_ATTEMPTS = 5;
const GATE_RETRY_MS = 1_000;
/** With everybody prepared, the answer to probes that were asked for early is waited for no longer; then the first pointer moves. */
export const EARLY_WAIT_MS = 500;

export function newGate(region: string): Gate {
	return { region, asked: false, attempts: 0, notBefore: 0, passed: false };
}

/** Has the region's edge send the probes, once it can be asked. */
export function askGate(rollout: Rollout, facts: Facts, now: number): Effect[] {
	const gate = rollout.gate;
	if (!gate || gate.asked || gate.passed || now < gate.notBefore || !facts.regions[gate.region]?.connected) return [];
	gate.asked = true;
	return [{ type: 'probe', region: gate.region, current: comparedWith(rollout, gate.region, facts) }];
}

/**
 * Has the first region's edge probe the release as soon as it is prepared there: when that passes, a whole way there and
 * back is saved, because the pointers of the next wave need not wait for the first one's.
 */
export function askEarly(rollout: Rollout, facts: Facts): Effect[] {
	const { plan, gate } = rollout;
	if (gate ? !gate.early || gate.asked : plan.ramp.length > 1 || !plan.gates[0]) return [];
	const name = gate?.region ?? plan.waves[0]!.find((region) => facts.regions[region]?.connected);
	if (name === undefined || !facts.regions[name]?.connected) return [];
	rollout.gate = { ...newGate(name), asked: true, early: true };
	return [{ type: 'probe', region: name, current: comparedWith(rollout, name, facts), early: true }];
}

/** Everybody is prepared, and the probes that were asked for early are on their way. */
export function waitsForEarly({ gate, times }: Rollout, now: number): boolean {
	return gate?.early === true && gate.asked && !gate.passed && times.prepared !== null && now < times.prepared + EARLY_WAIT_MS;
}

/** Its answer says all that it would say after the pointer: probes go to instances, whatever a pointer says. */
export function passedEarly({ gate }: Rollout): boolean {
	return gate?.early === true && gate.passed;
}

/** What the region serves, or served until this rollout moved its pointer. */
function comparedWith(rollout: Rollout, name: string, facts: Facts): number | null {
	const region = rollout.regions.find((one) => one.name === name)!;
	const current = region.moved ? region.before : (facts.regions[name]?.wanted?.primary ?? null);
	return current === rollout.release ? null : current;
}

/** The probes' verdict is in. null: the facts decide how to go on. */
export function gateAnswered(
	rollout: Rollout,
	event: Extract<RolloutEvent, { type: 'probed' }>,
	facts: Facts,
	now: number,
): Effect[] | null {
	const gate = rollout.gate;
	if (!gate || gate.region !== event.region || gate.passed || !gate.asked) return null;
	// What came to nothing before is asked again in the usual way, once the pointer has moved there.
	if (event.early && !gate.early) return null;
	if (event.early && event.verdict !== 'pass') {
		Object.assign(gate, { asked: false, early: false });
		return null;
	}
	if (event.verdict === 'inconclusive' || event.verdict === 'error') {
		gate.attempts++;
		if (gate.attempts < GATE_ATTEMPTS) {
			Object.assign(gate, { asked: false, notBefore: now + GATE_RETRY_MS });
			return null;
		}
		return failed(rollout, 'gate_error', event.detail, facts, now);
	}
	if (rollout.phase === 'walking' || event.early) {
		rollout.canary = { region: event.region, status: event.status, p50Ms: event.p50Ms, maxMs: event.maxMs };
	}
	if (event.verdict === 'fail') return failed(rollout, 'gate_failed', event.detail, facts, now);
	gate.passed = true;
	rollout.times.gated ??= now;
	return null;
}

/** While it walks everything swings back; a region that catches up later stays as it is, alone. */
function failed(rollout: Rollout, reason: string, detail: string, facts: Facts, now: number): Effect[] | null {
	const region = rollout.regions.find((one) => one.name === rollout.gate!.region)!;
	if (rollout.phase === 'walking') {
		region.reason = reason;
		return startSwing(rollout, reason, detail, false, facts, now);
	}
	rollout.gate = null;
	Object.assign(region, { stage: 'failed', reason });
	return null;
}

import { type Effect, type Facts, type Gate, type Rollout, type RolloutEvent } from './rollout.ts';
import { startSwing } from './swing.ts';

/** How often a gate that got no clear answer is asked again, and after how long. */
const GATE_ATTEMPTS = 5;
const GATE_RETRY_MS = 1_000;

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
	if (event.verdict === 'inconclusive' || event.verdict === 'error') {
		gate.attempts++;
		if (gate.attempts < GATE_ATTEMPTS) {
			Object.assign(gate, { asked: false, notBefore: now + GATE_RETRY_MS });
			return null;
		}
		return failed(rollout, 'gate_error', event.detail, facts, now);
	}
	if (rollout.phase === 'walking') {
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

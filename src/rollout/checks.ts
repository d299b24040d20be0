import type { Effect, Rollout, RolloutEvent } from './rollout.ts';

/** Checks that run beside a rollout (steps with `gate: "promotion"`): nothing goes past the first region before they have passed. */

/** null: it waits for none. */
export function checked(rollout: Rollout, event: Extract<RolloutEvent, { type: 'checked' }>): Effect[] | null {
	if (rollout.checks?.state !== 'running') return null;
	const state = event.passed ? 'passed' : 'failed';
	rollout.checks = { ...rollout.checks, state, summary: event.summary };
	return [{ type: 'event', event: { type: 'deployment.checks', data: { state, summary: event.summary } } }];
}

/** What the next pointers wait for, once one region has its own. */
export function waitsForChecks({ checks, wave, plan }: Rollout): boolean {
	return checks?.state === 'running' && (wave >= 0 || plan.waves[0]!.length > 1);
}

/** Why it ends for them; null: it does not. */
export function checksFailure({ checks }: Rollout, now: number): { reason: string; detail: string } | null {
	if (checks?.state === 'failed') return { reason: 'checks', detail: checks.summary ?? 'checks that ran beside it failed' };
	if (checks?.state !== 'running' || now < checks.until) return null;
	return { reason: 'checks_timeout', detail: 'nobody said in time how the checks beside it ended' };
}

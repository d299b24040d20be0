import type { Effect, Facts, Rollout, RolloutEvent, Task, TaskKind } from './rollout.ts';

/**
 * What is run once on a server of the first region: migrations of the app's data, and its smoke test. A task goes to one
 * server at a time, and to another one when that is gone: whatever it does, it may be done more than once.
 */

/** Servers that a task is given to before it counts as failed. */
export const TASK_ATTEMPTS = 3;
const TASK_RETRY_MS = 1_000;
/** Nobody there who could run it for longer than this: it failed. */
export const TASK_PLACE_MS = 120_000;

type TaskEvent = Extract<RolloutEvent, { type: 'task' }>;

/** Gives the task to a server, and waits for it. null: there is none of the kind, or it has passed. */
export function awaitTask(rollout: Rollout, kind: TaskKind, facts: Facts, now: number): Effect[] | null {
	if (!rollout.plan.tasks?.includes(kind) || rollout.done?.includes(kind)) return null;
	if (rollout.task?.kind !== kind) rollout.task = { kind, attempt: 0, at: null, since: now, notBefore: now };
	const { task } = rollout;
	if (task.at || task.failed !== undefined || now < task.notBefore) return [];
	const at = placeFor(rollout, facts);
	if (!at) return [];
	Object.assign(task, { attempt: task.attempt + 1, at, since: now });
	return [told(rollout.task, 'running', null, null)];
}

/** Nobody was found who could run it. */
export function isUnplaced({ task }: Rollout, now: number): boolean {
	return (
		task != null && task.kind !== 'migrate-after' && task.at === null && task.failed === undefined && now >= task.since + TASK_PLACE_MS
	);
}

/** The first region comes first, and a region that can't be asked is passed over. */
function placeFor(rollout: Rollout, facts: Facts): Task['at'] {
	for (const { name } of rollout.regions) {
		const fact = facts.regions[name];
		if (fact?.connected && fact.worker != null) return { region: name, server: fact.worker };
	}
	return null;
}

export type TaskEnd = { effects: Effect[]; failed: { kind: TaskKind; attempt: number; detail: string } | null };

/** How the task that is under way ended; null: the word is not about that. */
export function taskEnded(rollout: Rollout, event: TaskEvent, now: number): TaskEnd | null {
	const { task } = rollout;
	if (!task?.at || task.kind !== event.kind || task.attempt !== event.attempt) return null;
	const effects = [told(task, event.outcome, event.ms, event.detail)];
	if (event.outcome === 'passed') {
		rollout.done = [...(rollout.done ?? []), event.kind];
		rollout.task = null;
		// The time limits of what follows begin here.
		rollout.since = now;
		if (event.kind === 'migrate-after') effects.push({ type: 'floor', release: rollout.release });
		return { effects, failed: null };
	}
	const again = event.outcome === 'lost' && task.attempt < TASK_ATTEMPTS;
	rollout.task = again ? { ...task, at: null, since: now, notBefore: now + TASK_RETRY_MS } : null;
	return { effects, failed: again ? null : { kind: event.kind, attempt: task.attempt, detail: event.detail } };
}

/** `state`: running, passed, failed, lost. */
function told({ kind, attempt, at }: Task, state: string, ms: number | null, detail: string | null): Effect {
	return { type: 'event', event: { type: 'deployment.task', data: { kind, state, attempt, ...at, ms, detail } } };
}

export function taskFailure(kind: TaskKind): { reason: string; says: string } {
	switch (kind) {
		case 'migrate-before':
			return {
				reason: 'migration',
				says: 'migrate.before failed, and nothing moved; what it has already changed in the database stays, so it has to suit what serves',
			};
		case 'smoke-prepared':
			return { reason: 'smoke', says: 'its smoke test failed before anything moved' };
		case 'smoke-live':
			return { reason: 'smoke', says: 'its smoke test failed once it served' };
		case 'migrate-after':
			return { reason: 'migration', says: 'migrate.after failed' };
	}
}

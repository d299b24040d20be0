import { catchUp } from './catch-up.ts';
import { checked, checksFailure } from './checks.ts';
import { askEarly, EARLY_WAIT_MS, gateAnswered, waitsForEarly } from './gate.ts';
import { isGated } from './plan.ts';
import { hasMoved, isTesting, type Effect, type Facts, type Rollout, type RolloutEvent, type RolloutState, type Step } from './rollout.ts';
import { LEAVING_MS, preparedCount } from './rolling.ts';
import { dropped, NOTHING, prepared, sameWanted } from './runs.ts';
import { startSwing, swing, SWING_TIMEOUT_MS } from './swing.ts';
import { awaitTask, isUnplaced, TASK_PLACE_MS, taskEnded, taskFailure, type TaskEnd } from './tasks.ts';
import { nextWave, walk } from './walk.ts';

/**
 * One step of a rollout: what it is told, the facts as they are, and the time, give the rollout as it is then and what
 * is to be done about it. All transitions and writes of one step belong into one transaction. It looks at the facts
 * rather than at what changed in them, so a process that starts anew with an old rollout goes on from there.
 */
export function step(rollout: Rollout, event: RolloutEvent, facts: Facts, now: number): Step {
	const next = copied(rollout);
	const effects = told(next, event, facts, now) ?? look(next, facts, now);
	for (const effect of effects) if (effect.type === 'transition') next.state = effect.to;
	return { rollout: next, effects };
}

/** Everything that a step changes; a general deep copy costs more than the step itself. */
function copied(rollout: Rollout): Rollout {
	return {
		...rollout,
		gate: rollout.gate && { ...rollout.gate },
		times: { ...rollout.times },
		regions: rollout.regions.map((region) => ({ ...region })),
		...(rollout.task ? { task: { ...rollout.task } } : {}),
	};
}

/** What the event itself brings about; null: just look at the facts. */
function told(rollout: Rollout, event: RolloutEvent, facts: Facts, now: number): Effect[] | null {
	switch (event.type) {
		case 'looked':
			return null;
		case 'turn':
			return takeTurn(rollout, now);
		case 'tested':
			return tested(rollout, event, facts, now);
		case 'checked':
			return checked(rollout, event);
		case 'promoted':
			return promoted(rollout, event.by, now);
		case 'task':
			return taskOver(rollout, event, facts, now);
		case 'yield':
			if (rollout.phase === 'preparing') Object.assign(rollout, { phase: 'waiting', task: null });
			return null;
		case 'resumed':
			if (rollout.gate) rollout.gate.asked = false;
			return [];
		case 'probed':
			return gateAnswered(rollout, event, facts, now);
		case 'stop':
			return stop(rollout, event, facts, now);
	}
}

/** A person's word: past the end of a window, or once more what had failed after the end of all else. */
function promoted(rollout: Rollout, by: string, now: number): Effect[] | null {
	if (rollout.held) Object.assign(rollout, { held: false, promoted: true });
	else if (rollout.task?.failed !== undefined) {
		const { kind, attempt } = rollout.task;
		rollout.task = { kind, attempt, at: null, since: now, notBefore: now };
	} else return null;
	return [{ type: 'event', event: { type: 'deployment.promoted', data: { by } } }];
}

function taskOver(rollout: Rollout, event: Extract<RolloutEvent, { type: 'task' }>, facts: Facts, now: number): Effect[] | null {
	const over = taskEnded(rollout, event, now);
	if (!over) return [];
	return over.failed ? [...over.effects, ...taskFailed(rollout, over.failed, facts, now)] : over.effects;
}

type Failed = NonNullable<TaskEnd['failed']>;

function taskFailed(rollout: Rollout, { kind, attempt, detail }: Failed, facts: Facts, now: number): Effect[] {
	const { reason, says } = taskFailure(kind);
	const words = `${says}: ${detail}`;
	switch (rollout.phase) {
		case 'preparing':
			return end(rollout, 'DeployFailed', reason, words, facts, now);
		case 'walking':
			return startSwing(rollout, reason, words, false, facts, now);
		case 'live':
			rollout.task = { kind, attempt, at: null, since: now, notBefore: now, failed: detail };
			return [];
		case 'waiting':
		case 'swinging':
		case 'ended':
			// A rollback went first, or it ended otherwise: it is run anew when its turn comes again.
			return [];
	}
}

function look(rollout: Rollout, facts: Facts, now: number): Effect[] {
	if (isUnplaced(rollout, now)) return taskFailed(rollout, { ...rollout.task!, detail: NOBODY }, facts, now);
	switch (rollout.phase) {
		case 'waiting':
			return waitForTests(rollout, facts, now);
		case 'preparing':
			return prepare(rollout, facts, now);
		case 'walking':
			return walk(rollout, facts, now);
		case 'live':
			return catchUp(rollout, facts, now);
		case 'swinging':
			return swing(rollout, facts, now);
		case 'ended':
			return lateReturns(rollout, facts, now);
	}
}

const NOBODY = `no server could run it for ${TASK_PLACE_MS / 1000} s`;

/** Regions that could not be told when everything swung back, and were told now. */
function lateReturns(rollout: Rollout, facts: Facts, now: number): Effect[] {
	for (const region of rollout.regions) {
		const fact = facts.regions[region.name];
		if (region.stage === 'pending' && fact?.confirmed) {
			Object.assign(region, { stage: 'rolled-back', ms: now - rollout.createdAt, reason: null });
		}
	}
	return [];
}

/** Who ran the tests may be gone. */
function waitForTests(rollout: Rollout, facts: Facts, now: number): Effect[] {
	if (!isTesting(rollout) || now < rollout.testsUntil!) return [];
	return end(rollout, 'TimedOut', 'tests_timeout', 'nobody said in time how the tests ended', facts, now);
}

/** From now on it waits for its turn only, which may come at once. */
function tested(rollout: Rollout, event: Extract<RolloutEvent, { type: 'tested' }>, facts: Facts, now: number): Effect[] | null {
	if (!isTesting(rollout)) return null;
	if (!event.passed) return end(rollout, 'TestFailed', 'tests', event.summary, facts, now);
	rollout.testsUntil = null;
	return [{ type: 'transition', to: 'ReadyToDeploy', reason: null, detail: null }];
}

function takeTurn(rollout: Rollout, now: number): Effect[] | null {
	if (rollout.phase !== 'waiting' || isTesting(rollout)) return null;
	rollout.phase = 'preparing';
	rollout.since = now;
	return rollout.state === 'ReadyToDeploy' ? [{ type: 'transition', to: 'Deploying', reason: null, detail: null }] : null;
}

/** Every region that can be reached starts and checks the release; no traffic moves. */
function prepare(rollout: Rollout, facts: Facts, now: number): Effect[] {
	if (!isGated(rollout.plan)) return goAtOnce(rollout, facts, now);
	const harmed = checksFailure(rollout, now);
	if (harmed) return end(rollout, 'DeployFailed', harmed.reason, harmed.detail, facts, now);
	// Its code may need the new schema already when it starts.
	const migrating = awaitTask(rollout, 'migrate-before', facts, now);
	if (migrating) return migrating;
	const untold = startEverywhere(rollout, facts);
	if (untold.length > 0) return untold;
	const late = now >= rollout.since + rollout.plan.prepareMs;
	for (const region of rollout.regions) {
		const fact = facts.regions[region.name];
		if (region.stage !== 'preparing' && region.stage !== 'prepared') continue;
		if (!fact || fact.lost) Object.assign(region, { stage: 'skipped', reason: 'lost' });
		else if (fact.target.state === 'failed') {
			Object.assign(region, { stage: 'failed', reason: fact.target.reason });
			return end(rollout, 'DeployFailed', fact.target.reason, inRegion(region.name, fact.target.detail), facts, now);
		} else if (fact.target.state === 'ready') region.stage = 'prepared';
		else if (late) Object.assign(region, { stage: 'skipped', reason: 'prepare_timeout' });
		else region.stage = 'preparing';
	}
	const early = askEarly(rollout, facts);
	if (rollout.regions.some((region) => region.stage === 'preparing')) return early;
	const there = rollout.regions.filter((region) => region.stage === 'prepared').length;
	if (there >= rollout.plan.minRegions) {
		rollout.times.prepared ??= now;
		const smoking = awaitTask(rollout, 'smoke-prepared', facts, now);
		if (smoking) return [...early, ...smoking];
		return waitsForEarly(rollout, now) ? early : [...early, ...nextWave(rollout, facts, now)];
	}
	const detail = `${there} of ${rollout.regions.length} regions are prepared, ${rollout.plan.minRegions} are needed`;
	return rollout.regions.some((region) => region.reason === 'prepare_timeout')
		? end(rollout, 'TimedOut', 'prepare_timeout', detail, facts, now)
		: end(rollout, 'DeployFailed', 'regions_lost', detail, facts, now);
}

/** Normally told when the deployment was made; another one that ended may have dropped the same release since. */
function startEverywhere(rollout: Rollout, facts: Facts): Effect[] {
	return rollout.regions.flatMap((region): Effect[] => {
		const wanted = facts.regions[region.name]?.wanted ?? NOTHING;
		if (region.stage !== 'preparing' || wanted.run.some((run) => run.release === rollout.release && run.as !== 'warm')) return [];
		const next = prepared(wanted, rollout.release, preparedCount(rollout.plan));
		return sameWanted(wanted, next) ? [] : [{ type: 'write', region: region.name, wanted: next }];
	});
}

/** What it goes to stands by already. */
function goAtOnce(rollout: Rollout, facts: Facts, now: number): Effect[] {
	for (const region of rollout.regions) region.stage = 'prepared';
	rollout.times.prepared = now;
	return nextWave(rollout, facts, now);
}

function stop(rollout: Rollout, event: Extract<RolloutEvent, { type: 'stop' }>, facts: Facts, now: number): Effect[] | null {
	switch (rollout.phase) {
		case 'waiting':
		case 'preparing':
			return end(rollout, event.to, event.reason, event.detail, facts, now);
		case 'walking':
			return startSwing(rollout, event.reason, event.detail, event.byAnother, facts, now);
		case 'live':
		case 'swinging':
		case 'ended':
			return null;
	}
}

const MIGRATED = 'what migrate.before has changed in the database stays';

/** It was done, or somebody was at it. */
function hasMigrated({ task, done }: Rollout): boolean {
	return done?.includes('migrate-before') === true || (task?.kind === 'migrate-before' && task.at !== null);
}

/** It ends before anything moved: what was prepared goes. */
function end(rollout: Rollout, to: RolloutState, reason: string, detail: string | null, facts: Facts, now: number): Effect[] {
	if (hasMoved(rollout)) throw new Error(`a rollout whose pointers moved can't end as ${to}`);
	const words = hasMigrated(rollout) ? [detail, MIGRATED].filter((part) => part !== null).join('; ') : detail;
	Object.assign(rollout, { phase: 'ended', since: now, gate: null, task: null, reason, detail: words });
	rollout.times.ended = now;
	const effects: Effect[] = [{ type: 'transition', to, reason, detail: words }];
	for (const { name } of rollout.regions) {
		const wanted = facts.regions[name]?.wanted;
		if (!wanted || facts.keep.includes(rollout.release)) continue;
		const without = dropped(wanted, rollout.release);
		if (!sameWanted(wanted, without)) effects.push({ type: 'write', region: name, wanted: without });
	}
	return effects;
}

function inRegion(region: string, detail: string | null): string {
	return detail === null ? `in ${region}` : `in ${region}: ${detail}`;
}

/** When it has to be looked at again even if nothing happens; null: never. */
export function nextLook(rollout: Rollout, now: number): number | null {
	const { plan, since } = rollout;
	const times: number[] = [];
	if (isTesting(rollout)) times.push(rollout.testsUntil!);
	if (rollout.phase === 'preparing') times.push(since + plan.prepareMs);
	if (rollout.phase === 'preparing' && rollout.times.prepared !== null) times.push(rollout.times.prepared + EARLY_WAIT_MS);
	if (rollout.phase === 'walking') times.push(since + plan.confirmMs, since + plan.waveMs);
	if (rollout.phase === 'walking' && plan.rolling) times.push(since + LEAVING_MS);
	if (rollout.phase === 'walking' && rollout.rungAt !== null) times.push(rollout.rungAt + plan.holdMs);
	if (rollout.phase === 'swinging') times.push(since + SWING_TIMEOUT_MS);
	if (rollout.gate && !rollout.gate.asked) times.push(rollout.gate.notBefore);
	if (rollout.task && !rollout.task.at) times.push(rollout.task.notBefore, rollout.task.since + TASK_PLACE_MS);
	if (rollout.checks?.state === 'running') times.push(rollout.checks.until);
	const ahead = times.filter((time) => time > now);
	return ahead.length === 0 ? null : Math.min(...ahead);
}

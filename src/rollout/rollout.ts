import { TESTS_TIMEOUT_MS, type Plan } from './plan.ts';

/** What a rollout is, what it is told, and what it asks for. All of it is JSON: a new control process goes on from it. */

export interface Rollout {
	format: 1;
	kind: 'deploy' | 'rollback';
	release: number;
	plan: Plan;
	createdAt: number;
	/** It waits, prepared, for its tests until then; null: for none. Absent in records of the version before. */
	testsUntil?: number | null;
	phase: Phase;
	/** When the phase, or in `walking` the wave, began: its time limit counts from here. */
	since: number;
	/** The deployment's state as this rollout last set it. */
	state: RolloutState;
	/** Index of the wave that is on its way; -1 before the first. */
	wave: number;
	/** Index into the ramp. */
	rung: number;
	/** When the weight of this rung was confirmed everywhere; null until then. */
	rungAt: number | null;
	gate: Gate | null;
	regions: RegionProgress[];
	/** Why it ends other than Deployed. */
	reason: string | null;
	detail: string | null;
	times: { prepared: number | null; gated: number | null; ended: number | null };
	canary: { region: string; status: number; p50Ms: number; maxMs: number } | null;
	/** What is run on a server now, or is to be. Absent: nothing. */
	task?: Task | null;
	/** Tasks that have passed. */
	done?: readonly TaskKind[];
	/** Checks that run beside it, and must have passed before it goes past the first region. Absent: there are none. */
	checks?: Checks | null;
	/** A person let it go on past the end of its window, or what it showed there did. */
	promoted?: boolean;
	/** It stands still until a person says how it goes on. */
	held?: boolean;
}

/** In the order in which they come. */
export type TaskKind = 'migrate-before' | 'smoke-prepared' | 'smoke-live' | 'migrate-after';

export interface Task {
	kind: TaskKind;
	/** Counts how often it was given to a server. */
	attempt: number;
	/** Where it runs; null: nobody has it. */
	at: { region: string; server: string } | null;
	/** When somebody was given it last, or when it became due. */
	since: number;
	/** Not given to anybody before. */
	notBefore: number;
	/** After the end of all else: why it failed. It waits for a person. */
	failed?: string;
}

export interface Checks {
	state: 'running' | 'passed' | 'failed';
	/** Who runs them may be gone: nobody waits for longer. */
	until: number;
	summary: string | null;
}

/** `waiting`: prepares, but another one walks, or its tests do not say yet that it may. `live`: Deployed; regions that were away still catch up. */
export type Phase = 'waiting' | 'preparing' | 'walking' | 'live' | 'swinging' | 'ended';

export type RolloutState =
	| 'Testing'
	| 'TestFailed'
	| 'ReadyToDeploy'
	| 'Deploying'
	| 'CanaryCheck'
	| 'RollingOut'
	| 'Deployed'
	| 'RollingBack'
	| 'RolledBack'
	| 'DeployFailed'
	| 'Cancelled'
	| 'Superseded'
	| 'TimedOut';

export interface RegionProgress {
	name: string;
	/** `moving`: its pointer is written and not confirmed yet. `pending`: the same, and nobody waits for it any more. */
	stage: 'preparing' | 'prepared' | 'moving' | 'live' | 'pending' | 'skipped' | 'failed' | 'swinging' | 'rolled-back';
	/** Its pointer was written by this rollout. */
	moved: boolean;
	/** What it pointed at before that. */
	before: number | null;
	/** How many instances of that there were; only where they are replaced one by one. */
	full?: number | null;
	/** From the rollout's beginning to its confirmation. */
	ms: number | null;
	reason: string | null;
}

/** A region whose probes are awaited. */
export interface Gate {
	region: string;
	asked: boolean;
	attempts: number;
	/** Not asked again before. */
	notBefore: number;
	passed: boolean;
	/** Asked while the release was prepared, before any pointer moved; until that came to nothing. */
	early?: boolean;
}

export interface RunEntry {
	release: number;
	instances: number;
	as: 'prepared' | 'serving' | 'warm';
}

export interface Wanted {
	primary: number | null;
	candidate: { release: number; weightBp: number } | null;
	run: RunEntry[];
}

/** A region as it is now, seen from one rollout. */
export interface RegionFacts {
	connected: boolean;
	/** Away for so long that nobody waits for it. */
	lost: boolean;
	wanted: Wanted | null;
	/** Every connected edge obeys what is wanted now. */
	confirmed: boolean;
	/** How the rollout's release is doing there. */
	target: Readiness;
	/** Instances of other releases that have not ended; asked for where they are replaced one by one. */
	others?: number;
	/** Server that could run a task of this release; looked for where there is one to run. */
	worker?: string | null;
}

export type Readiness = { state: 'starting' | 'ready' } | { state: 'failed'; reason: string; detail: string | null };

export interface Facts {
	/** Every region where something is wanted or planned. */
	regions: Readonly<Record<string, RegionFacts>>;
	/** Releases of other open deployments: what runs of them is left alone. */
	keep: readonly number[];
	/** Nothing watches it any more, and nothing of before stands by. */
	settled?: boolean;
	/** Its traffic so far shows that it does no harm; asked for where a window ends with that question. */
	proven?: boolean;
}

export type RolloutEvent =
	/** The facts may have changed. */
	| { type: 'looked' }
	/** It is this rollout's turn to walk. */
	| { type: 'turn' }
	/** Its tests have ended. */
	| { type: 'tested'; passed: boolean; summary: string }
	/** The checks beside it have ended. */
	| { type: 'checked'; passed: boolean; summary: string }
	/** A person lets it go on. */
	| { type: 'promoted'; by: string }
	/** A task has ended, or who ran it is gone (`lost`). */
	| { type: 'task'; kind: TaskKind; attempt: number; outcome: 'passed' | 'failed' | 'lost'; detail: string; ms: number }
	/** A rollback goes first: wait again, if nothing moved. */
	| { type: 'yield' }
	/** A new process took over: whatever was under way outside has to be asked again. */
	| { type: 'resumed' }
	| {
			type: 'probed';
			region: string;
			verdict: 'pass' | 'fail' | 'inconclusive' | 'error';
			status: number;
			p50Ms: number;
			maxMs: number;
			detail: string;
			/** It was asked for before any pointer moved. */
			early?: boolean;
	  }
	/** Somebody or something wants it to end; `byAnother`: another deployment writes the pointers back. */
	| { type: 'stop'; to: 'Cancelled' | 'Superseded'; reason: string; detail: string | null; byAnother: boolean };

export type Effect =
	| { type: 'transition'; to: RolloutState; reason: string | null; detail: string | null }
	| { type: 'write'; region: string; wanted: Wanted }
	/** Something of it that only its record tells; the server that a task is given to reads it there. */
	| { type: 'event'; event: { type: string; data: Record<string, unknown> } }
	/** The database is no longer as earlier releases know it. */
	| { type: 'floor'; release: number }
	/** `early`: as soon as the release is there, which may take a while. */
	| { type: 'probe'; region: string; current: number | null; early?: boolean };

export interface Step {
	rollout: Rollout;
	effects: Effect[];
}

export interface RolloutInput {
	kind: Rollout['kind'];
	release: number;
	plan: Plan;
	/** Another one walks: prepare, and wait for the turn. */
	waiting: boolean;
	/** Its tests run meanwhile. */
	testing?: boolean;
	/** Checks run meanwhile that hold it in the first region. */
	checking?: boolean;
	now: number;
}

/** A rollout before its first step. */
export function newRollout(input: RolloutInput): Rollout {
	const waits = input.testing ? 'Testing' : 'ReadyToDeploy';
	const waiting = input.waiting || input.testing === true;
	return {
		format: 1,
		kind: input.kind,
		release: input.release,
		plan: input.plan,
		createdAt: input.now,
		testsUntil: input.testing ? input.now + TESTS_TIMEOUT_MS : null,
		phase: waiting ? 'waiting' : 'preparing',
		since: input.now,
		state: waiting && input.kind === 'deploy' ? waits : 'Deploying',
		wave: -1,
		rung: 0,
		rungAt: null,
		gate: null,
		regions: input.plan.regions.map((name) => ({ name, stage: 'preparing', moved: false, before: null, ms: null, reason: null })),
		reason: null,
		detail: null,
		times: { prepared: null, gated: null, ended: null },
		canary: null,
		...(input.checking ? { checks: { state: 'running', until: input.now + TESTS_TIMEOUT_MS, summary: null } } : {}),
	};
}

/** A pointer was written, so it can only end Deployed or swung back. */
export function hasMoved(rollout: Rollout): boolean {
	return rollout.regions.some((region) => region.moved);
}

/** No turn comes before its tests have passed. */
export function isTesting(rollout: Rollout): boolean {
	return rollout.phase === 'waiting' && rollout.testsUntil != null;
}

/** Still on its way: it may write pointers, or is waiting to. */
export function isOpen(rollout: Rollout): boolean {
	return rollout.phase !== 'live' && rollout.phase !== 'ended';
}

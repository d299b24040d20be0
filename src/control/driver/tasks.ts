import type { Timer } from '#clock/clock.ts';
import type { Facts, Rollout, Task, TaskKind } from '#rollout/rollout.ts';
import { durationMs, type AppConfig } from '#wire/config.ts';
import type { TaskOrder, TaskSaid } from '#wire/region.ts';
import { shownHarmless } from '#canary/watch.ts';
import type { Lane, Walk } from './lane.ts';
import type { DriverSettings } from './settings.ts';

/** Tasks that are under way: said to their servers again and again, as a lease; whoever does not answer is given up once it has ended. */

const BEAT_MS = 5_000;
/** A server that has not answered for so long is not asked any more, so that its lease runs out. */
const SILENT_MS = 15_000;
const LEASE_MS = 30_000;
/** An agent looks at its leases once a second; then it kills. */
const LEASE_SLACK_MS = 5_000;
const DEFAULT_TIMEOUT_MS = { migrate: 10 * 60_000, smoke: 60_000 };

/** What it needs of a lane. */
export type TaskLane = Pick<Lane, 'app' | 'environment' | 'walks' | 'releases' | 'hub' | 'log' | 'exclusive' | 'tell' | 'look'> & {
	settings: Pick<DriverSettings, 'clock' | 'edgeOf'>;
};

interface Beat {
	order: TaskOrder;
	timer: Timer;
	heardAt: number;
	saidAt: number;
}

export class LaneTasks {
	readonly #beats = new Map<string, Beat>();

	/** Begins with those that are new, and stops those that nobody waits for any more. */
	look(lane: TaskLane): void {
		const wanted = new Map(lane.walks.flatMap((walk) => (walk.rollout.task?.at ? [[idOf(walk, walk.rollout.task), walk]] : [])));
		for (const [id, beat] of this.#beats) if (!wanted.has(id)) this.#end(lane, id, beat);
		for (const [id, walk] of wanted) {
			const order = this.#beats.has(id) ? null : orderOf(lane, walk, id);
			if (order) this.#begin(lane, order);
		}
	}

	said(lane: TaskLane, said: TaskSaid): void {
		const beat = this.#beats.get(said.id);
		if (!beat || beat.order.server !== said.server) return;
		beat.heardAt = lane.settings.clock.monotonic();
		if (said.state !== 'running') this.#tell(lane, said.id, said.state, said.detail, said.ms);
	}

	/** Somebody came or went there: who is back hears at once what it was given. */
	again(lane: TaskLane, region: string): void {
		for (const beat of this.#beats.values()) if (beat.order.region === region) this.#say(lane, beat);
	}

	close(): void {
		for (const { timer } of this.#beats.values()) timer.cancel();
		this.#beats.clear();
	}

	#begin(lane: TaskLane, order: TaskOrder): void {
		const now = lane.settings.clock.monotonic();
		const timer = lane.settings.clock.every(BEAT_MS, () => this.#beat(lane, order.id));
		this.#beats.set(order.id, { order, timer, heardAt: now, saidAt: now });
		lane.hub.task(order);
	}

	#beat(lane: TaskLane, id: string): void {
		const beat = this.#beats.get(id);
		if (!beat) return;
		const now = lane.settings.clock.monotonic();
		if (this.#say(lane, beat) || now - beat.saidAt <= LEASE_MS + LEASE_SLACK_MS) return;
		const silentMs = now - beat.heardAt;
		this.#tell(lane, id, 'lost', `${beat.order.server} did not say for ${Math.round(silentMs / 1000)} s how far it is`, silentMs);
	}

	/** Renews the lease. false: it was silent for too long, and its lease is to run out. */
	#say(lane: TaskLane, beat: Beat): boolean {
		const now = lane.settings.clock.monotonic();
		if (now - beat.heardAt >= SILENT_MS) return false;
		beat.saidAt = now;
		lane.hub.task(beat.order);
		return true;
	}

	#tell(lane: TaskLane, id: string, outcome: 'passed' | 'failed' | 'lost', detail: string, ms: number): void {
		lane
			.exclusive(async () => {
				const walk = lane.walks.find((one) => one.rollout.task?.at && idOf(one, one.rollout.task) === id);
				if (!walk) return;
				const { kind, attempt } = walk.rollout.task!;
				await lane.tell(walk, { type: 'task', kind, attempt, outcome, detail, ms: Math.round(ms) });
				lane.look();
			})
			// Whoever holds the lane asks again, and is told again.
			.catch((error: unknown) => lane.log.warn('task.answer_lost', { id, error }));
	}

	#end(lane: TaskLane, id: string, { order, timer }: Beat): void {
		timer.cancel();
		this.#beats.delete(id);
		lane.hub.task({ type: 'taskStop', id, region: order.region, server: order.server });
	}
}

function idOf({ deployment }: Walk, { kind, attempt }: Task): string {
	return `${deployment.id}/${kind}/${attempt}`;
}

/** null: the release is not there any more. */
function orderOf(lane: TaskLane, { rollout }: Walk, id: string): TaskOrder | null {
	const known = lane.releases.get(rollout.release);
	const { kind, at } = rollout.task!;
	const command = known && commandOf(known.config, kind);
	if (!known || !command || !at) return null;
	const { app, environment } = lane;
	const edge = kind === 'smoke-live' ? lane.settings.edgeOf?.(at.region, app, environment) : null;
	return {
		type: 'task',
		id,
		app,
		environment,
		...at,
		kind,
		release: known.spec,
		...command,
		secrets: kind === 'migrate-before' || kind === 'migrate-after',
		leaseMs: LEASE_MS,
		...(edge ? { edge } : {}),
	};
}

function commandOf({ migrate, smoke }: AppConfig, kind: TaskKind): Pick<TaskOrder, 'command' | 'env' | 'timeoutMs'> | null {
	const of = { 'migrate-before': migrate?.before, 'migrate-after': migrate?.after, 'smoke-prepared': smoke, 'smoke-live': smoke }[kind];
	if (of === undefined) return null;
	if (typeof of === 'string') {
		const timeoutMs = DEFAULT_TIMEOUT_MS[kind.startsWith('smoke') ? 'smoke' : 'migrate'];
		return { command: of, env: {}, timeoutMs };
	}
	return { command: of.run, env: of.env, timeoutMs: durationMs(of.timeout) };
}

/** What a deploy of this configuration runs on servers. */
export function tasksOf({ migrate, smoke }: AppConfig): TaskKind[] {
	const of: [TaskKind, unknown][] = [
		['migrate-before', migrate?.before],
		['smoke-prepared', smoke],
		['smoke-live', smoke],
		['migrate-after', migrate?.after],
	];
	return of.flatMap(([kind, command]) => (command === undefined ? [] : [kind]));
}

/** What is waited for a person with, and what runs on a server now. */
export function noticesOf({ walks }: Pick<Lane, 'walks'>): string[] {
	return walks.flatMap(({ deployment: { id }, rollout: { task, checks, held, plan, rung, phase } }) => [
		...(held ? [`${id} is held at ${plan.ramp[rung]! / 100} %: jibe promote ${id} goes on, jibe cancel ${id} goes back`] : []),
		...(task?.failed === undefined ? [] : [`${NAMES[task.kind]} of ${id} failed; jibe promote ${id} runs it again: ${task.failed}`]),
		...(task?.at ? [`${NAMES[task.kind]} of ${id} runs on ${task.at.server} in ${task.at.region}`] : []),
		...(checks?.state === 'running' && phase === 'walking' ? [`${id} waits in its first region for the checks beside it`] : []),
	]);
}

const NAMES: Readonly<Record<TaskKind, string>> = {
	'migrate-before': 'migrate.before',
	'smoke-prepared': 'the smoke test',
	'smoke-live': 'the smoke test',
	'migrate-after': 'migrate.after',
};

/** Facts that only some rollouts ask for. */
export function askedFor(lane: Lane, rollout: Rollout): Pick<Facts, 'settled' | 'proven'> {
	const { plan, done } = rollout;
	return {
		...(rollout.phase === 'live' && plan.tasks?.includes('migrate-after') && !done?.includes('migrate-after')
			? { settled: isSettled(lane, rollout) }
			: {}),
		...(plan.onWindowEnd === 'rollback' && rollout.phase === 'walking' ? { proven: isProven(lane, rollout) } : {}),
	};
}

/** No way back is kept open any more. */
function isSettled(lane: Lane, rollout: Rollout): boolean {
	const walk = lane.walks.find((one) => one.rollout === rollout);
	const standsBy = [...lane.wants.values()].some((want) => want.run.some((run) => run.as === 'warm'));
	return walk?.deployment.watchUntil === null && !standsBy && lane.waiting() === null;
}

function isProven(lane: Lane, rollout: Rollout): boolean {
	const now = lane.settings.clock.now();
	const current = rollout.regions.find((region) => region.before !== null)?.before ?? null;
	const since = rollout.times.prepared ?? rollout.createdAt;
	const regions = rollout.regions.filter((region) => region.moved).map((region) => region.name);
	return shownHarmless(
		lane.ledger.evidence(lane, { release: rollout.release, current, regions, since, watchMs: rollout.plan.watchMs }, now),
	);
}

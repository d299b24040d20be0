import { harmOf, type Harm } from '#canary/watch.ts';
import { hasMoved } from '#rollout/rollout.ts';
import type { Run } from '#wire/region.ts';
import type { PointerWrite } from '../ports.ts';
import type { Lane, Walk } from './lane.ts';
import { rollbackFor } from './rollback.ts';

/** What served before stays warm for at least this long after the release that followed it is live. */
export const WARM_FOR_MS = 10 * 60_000;

/** Harm in a walk swings it back; harm in a watch starts a rollback. A watch and warmth end by time. true: something was done. */
export async function judge(lane: Lane): Promise<boolean> {
	const now = lane.settings.clock.now();
	const walking = lane.walking();
	if (walking && hasMoved(walking.rollout)) {
		const harm = harmIn(lane, walking, now);
		return harm ? lane.tell(walking, { type: 'stop', to: 'Cancelled', reason: 'harm', detail: harm.detail, byAnother: false }) : false;
	}
	for (const walk of lane.walks) {
		if (walk.rollout.phase !== 'live' || walk.deployment.watchUntil === null) continue;
		// The next deploy cut it short, or its time is up.
		if (walk !== lane.live() || now >= walk.deployment.watchUntil) return lane.record(walk, { watchUntil: null }).then(() => true);
		const harm = harmIn(lane, walk, now);
		if (harm) return harmSeen(lane, walk, harm).then(() => true);
	}
	return endWarmth(lane, now);
}

/** When time alone will change the outcome; null: never. */
export function nextJudgement(lane: Lane, now: number): number | null {
	const live = lane.live();
	const times = [lane.ledger.nextLook(now), live?.deployment.watchUntil ?? null, warmUntil(lane)];
	const ahead = times.filter((time) => time !== null && time > now) as number[];
	return ahead.length === 0 ? null : Math.min(...ahead);
}

function harmIn(lane: Lane, walk: Walk, now: number): Harm | null {
	const { rollout, deployment } = walk;
	const regions = rollout.regions.filter((region) => region.moved).map((region) => region.name);
	const current = rollout.regions.find((region) => region.before !== null)?.before ?? null;
	const since = rollout.times.prepared ?? deployment.createdAt;
	return harmOf(lane.ledger.evidence(lane, { release: rollout.release, current, regions, since, watchMs: rollout.plan.watchMs }, now), now);
}

/** A rollback is started once: harm in what it goes back to is for a person to judge. */
export async function harmSeen(lane: Lane, walk: Walk, harm: Harm): Promise<void> {
	const events: { type: string; data: Record<string, unknown> }[] = [{ type: 'harm', data: { ...harm } }];
	const harmed = { reason: 'harm', detail: harm.detail, watchUntil: null, events };
	if (walk.deployment.kind === 'deploy') {
		const refusal = await rollbackFor(lane, walk, harm);
		// It stays as it is, and people have to know.
		if (refusal) events.push({ type: 'rollback.held', data: { code: refusal.code, message: refusal.message } });
		if (refusal) harmed.detail = `${harm.detail}; not rolled back by itself: ${refusal.message}`;
	} else lane.log.error('watch.harm_after_rollback', { deployment: walk.deployment.id, ...harm });
	await lane.record(walk, harmed);
}

/** Releases that stood by for long enough are let go of. */
async function endWarmth(lane: Lane, now: number): Promise<boolean> {
	const until = warmUntil(lane);
	const live = lane.live();
	if (!live || until === null || now < until || lane.walking() || lane.waiting() || lane.swinging().length > 0) return false;
	await lane.record(live, { writes: without(lane, (run) => run.as === 'warm') });
	return true;
}

/** These releases do not stand by any more, wherever they do. */
export async function discardWarm(lane: Lane, releases: readonly number[]): Promise<void> {
	const writes = without(lane, (run) => run.as === 'warm' && releases.includes(run.release));
	if (writes.length === 0) return;
	const walk = lane.walking() ?? lane.swinging()[0] ?? lane.live() ?? lane.walks.at(-1);
	if (walk) await lane.record(walk, { writes });
	else lane.send(await lane.settings.store.write({ app: lane.app, environment: lane.environment, writes }), null);
}

function without(lane: Lane, goes: (run: Run) => boolean): PointerWrite[] {
	return [...lane.wants.values()]
		.filter((want) => want.run.some(goes))
		.map((want) => ({
			region: want.region,
			expect: { epoch: want.epoch, version: want.version },
			pointer: want.pointer,
			run: want.run.filter((run) => !goes(run)),
		}));
}

/** null: nothing is warm. */
function warmUntil(lane: Lane): number | null {
	if (![...lane.wants.values()].some((want) => want.run.some((run) => run.as === 'warm'))) return null;
	const last = lane.lastDeployed();
	if (!last) return null;
	return Math.max((last.endedAt ?? last.createdAt) + WARM_FOR_MS, last.watchUntil ?? 0);
}

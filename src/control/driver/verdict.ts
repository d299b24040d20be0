import { hasMoved } from '#rollout/rollout.ts';
import type { VerdictAsk, VerdictDone } from '../ports.ts';
import type { Lane, Walk } from './lane.ts';
import { rollback } from './rollback.ts';
import { harmSeen } from './watch.ts';

/**
 * Somebody outside has judged what serves: an alert, or a test of a team's own. It ends the walk or the watch that it is
 * about; what was deployed after the harm began is not blamed for it.
 */
export async function verdict(lane: Lane, ask: VerdictAsk): Promise<VerdictDone> {
	const walking = lane.walking();
	if (walking && hasMoved(walking.rollout)) return ofWalk(lane, walking, ask);
	const live = lane.live();
	if (live && live.deployment.watchUntil !== null) return ofWatch(lane, live, ask);
	const last = lane.lastDeployed();
	if (last === null) return { did: 'nothing', deployment: null, why: 'nothing serves here' };
	if (ask.verdict === 'pass' || !ask.rollback)
		return { did: 'nothing', deployment: last.id, why: `nothing is under way, and ${last.id} is not watched any more` };
	if (ask.since < last.createdAt) return notBlamed(last.id);
	const { deployment } = await rollback(lane, { to: null, undo: null, again: false, by: ask.by, why: ask.reason });
	return { did: 'rolled-back', deployment: deployment.id, why: null };
}

async function ofWalk(lane: Lane, walk: Walk, { verdict: says, since, reason, by }: VerdictAsk): Promise<VerdictDone> {
	const { id, createdAt } = walk.deployment;
	if (says === 'pass') return passed(lane, walk, by);
	if (since < createdAt) return notBlamed(id);
	await lane.tell(walk, { type: 'stop', to: 'Cancelled', reason: 'verdict', detail: reason, byAnother: false });
	lane.look();
	return { did: 'stopped', deployment: id, why: null };
}

/** Its own gates stay; what waits for a person's word goes on by this one. */
async function passed(lane: Lane, walk: Walk, by: string): Promise<VerdictDone> {
	const { id } = walk.deployment;
	if (!walk.rollout.held) return { did: 'nothing', deployment: id, why: `${id} is under way, and has gates of its own to pass` };
	await lane.tell(walk, { type: 'promoted', by });
	lane.look();
	return { did: 'promoted', deployment: id, why: null };
}

async function ofWatch(lane: Lane, walk: Walk, { verdict: says, since, reason }: VerdictAsk): Promise<VerdictDone> {
	const { id, createdAt } = walk.deployment;
	if (says === 'pass') {
		await lane.record(walk, { watchUntil: null, events: [{ type: 'watch.passed', data: { reason } }] });
		return { did: 'watch-ended', deployment: id, why: null };
	}
	if (since < createdAt) return notBlamed(id);
	await harmSeen(lane, walk, { reason: 'verdict', detail: reason });
	lane.look();
	return { did: 'rolled-back', deployment: id, why: null };
}

function notBlamed(id: string): VerdictDone {
	return { did: 'nothing', deployment: id, why: `it began before ${id} was deployed` };
}

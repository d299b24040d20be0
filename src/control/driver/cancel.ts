import { isOpen, isTesting } from '#rollout/rollout.ts';
import { NOTHING } from '#rollout/runs.ts';
import type { Deployment } from '#wire/api.ts';
import { Refusal } from '../ports.ts';
import { pointerWrite } from './facts.ts';
import type { Lane } from './lane.ts';

/** A person stops a deployment: Cancelled while nothing moved, else everything swings back. */
export async function cancel(lane: Lane, id: string, by: string): Promise<Deployment> {
	const walk = lane.walks.find((one) => one.deployment.id === id);
	if (!walk || !isOpen(walk.rollout)) throw alreadyEnded(lane, id);
	await lane.tell(walk, { type: 'stop', to: 'Cancelled', reason: 'cancelled', detail: `by ${by}`, byAnother: false });
	lane.look();
	return walk.deployment;
}

/** The tests that it waits for have ended. One that was stopped meanwhile stays so. */
export async function tested(lane: Lane, id: string, verdict: { passed: boolean; summary: string }): Promise<Deployment> {
	const walk = lane.walks.find((one) => one.deployment.id === id);
	if (!walk || !isTesting(walk.rollout))
		throw new Refusal('not_testing', 409, `${id} does not wait for tests`, `\`jibe history\` tells how it went on`);
	await lane.tell(walk, { type: 'tested', ...verdict });
	lane.look();
	return walk.deployment;
}

/** The checks that run beside it have ended. One that went back, or never waited for any, stays as it is. */
export async function checked(lane: Lane, id: string, verdict: { passed: boolean; summary: string }): Promise<Deployment> {
	const walk = lane.walks.find((one) => one.deployment.id === id);
	if (walk?.rollout.checks?.state !== 'running' || !isOpen(walk.rollout))
		throw new Refusal('not_checking', 409, `${id} does not wait for checks`, `\`jibe history\` tells how it went on`);
	await lane.tell(walk, { type: 'checked', ...verdict });
	lane.look();
	return walk.deployment;
}

/** A person lets it go on: past the end of its window, or with what failed after the end of all else. */
export async function promote(lane: Lane, id: string, by: string): Promise<Deployment> {
	const walk = lane.walks.find((one) => one.deployment.id === id);
	if (!walk?.rollout.held && walk?.rollout.task?.failed === undefined) {
		const state = lane.history.find((one) => one.id === id)?.state ?? 'gone';
		throw new Refusal('not_waiting', 409, `${id} is ${state} and waits for nobody`, 'look at it with "jibe status"');
	}
	await lane.tell(walk, { type: 'promoted', by });
	lane.look();
	return walk.deployment;
}

function alreadyEnded(lane: Lane, id: string): Refusal {
	const state = lane.history.find((one) => one.id === id)?.state ?? 'gone';
	const hint = state === 'Deployed' ? `\`jibe rollback ${id}\` undoes it` : null;
	return new Refusal('already_ended', 409, `${id} has ended: ${state}`, hint);
}

/** The app goes: what is open ends, and no region serves it or runs anything of it any more. */
export async function remove(lane: Lane): Promise<void> {
	for (const walk of lane.walks.filter((one) => isOpen(one.rollout))) {
		await lane.tell(walk, { type: 'stop', to: 'Cancelled', reason: 'app_removed', detail: null, byAnother: true });
	}
	const { app, environment } = lane;
	const writes = [...lane.wants.keys()].map((region) => pointerWrite(lane, region, NOTHING));
	lane.send(await lane.settings.store.write({ app, environment, writes, removed: true }), null);
	for (const walk of lane.walks) if (walk.deployment.watchUntil !== null) await lane.record(walk, { watchUntil: null });
	// Regions that were away have nothing to catch up with any more.
	lane.walks = lane.walks.filter((walk) => walk.rollout.phase !== 'live');
	lane.look();
}

import { isFinal } from '#pipeline/states.ts';
import type { BuildFinish, BuildRow, ClaimedBuild, Fence } from '#state/builds.ts';
import type { BuildJob, BuildNews, NewBuild } from '#wire/builds.ts';
import type { House } from '../house.ts';
import { platformToBuild } from '../platforms.ts';
import { Refusal } from '../ports.ts';
import { Follower } from './follow.ts';

/** The queue of builds, as the other parts of control see it. */

/**
 * Queues a build, unless one of the same commit is on its way to the same place or was deployed there last (`already`, with
 * its id), or one that contains that commit (`force` insists). A newer one of the same branch supersedes what is queued of it
 * and stops what runs. Who may is asked before. @throws Refusal 503 queue_full
 */
export function enqueue(house: House, input: NewBuild): Promise<{ id: string; already: boolean }> {
	return house.builds.enqueue({ ...input, platform: input.platform ?? platformToBuild(house) });
}

/**
 * Tells all that has happened to a build so far, then all that happens, also to the deployment that it becomes, and ends by
 * itself with `end`; the function returned ends it earlier. Works from any control, whichever the builder speaks to.
 */
export function follow(house: House, id: string, listener: (news: BuildNews) => void): () => void {
	const follower = new Follower(house, id, listener);
	follower.begin();
	return () => follower.stop();
}

/** Ends a queued build at once, stops a running one; of one that is a deployment by now, cancels that. @throws Refusal 404, 409 */
export async function cancel(house: House, id: string, by: string): Promise<BuildRow> {
	const build = await find(house, id);
	if (build.deployed) {
		await house.driver.cancel(id, by);
		return find(house, id);
	}
	if (build.phase === 'ended' || build.phase === 'stopping')
		throw new Refusal('already_ended', 409, `${id} has ended: ${build.state}`, `look at it with "jibe status ${build.app}"`);
	const halted = await house.state.builds.halt(id, 'cancelled', by);
	house.metrics.add('jibe_builds_total', { state: halted.state });
	house.builds.told(id, true);
	house.builds.hint();
	return halted;
}

/** Queues what a build that ended was to make once more, under a new id. @throws Refusal 404, 409 */
export async function retry(house: House, id: string, by: string): Promise<{ id: string; already: boolean }> {
	const build = await find(house, id);
	if (build.retried !== null) return { id: build.retried, already: true };
	const deployment = build.deployed ? await house.state.deployments.deployment(id) : null;
	if (build.phase !== 'ended' || (deployment && !isFinal(deployment.state)))
		throw new Refusal('not_ended', 409, `${id} has not ended: it is ${deployment?.state ?? build.state}`, '"jibe cancel" ends it');
	if (deployment?.state === 'Deployed') throw new Refusal('nothing_to_retry', 409, `${id} was deployed`, '"jibe deploy" deploys again');
	const job = await house.state.builds.job(id);
	if (!job) throw new Refusal('build_unknown', 404, `what ${id} was to make is not kept any more`, 'push it again');
	const queued = await enqueue(house, { ...job, by });
	await house.state.builds.retried(id, queued.id);
	return queued;
}

/** @throws Refusal 404 build_unknown */
export async function find({ state }: House, id: string): Promise<BuildRow> {
	const build = await state.builds.build(id);
	if (build) return build;
	throw new Refusal('build_unknown', 404, `there is no build ${id}`, '"jibe history" lists them');
}

/** The next job for a builder, with what only builders are told. */
export async function claim(house: House, of: { worker: string; platform: string }, left: AbortSignal): Promise<BuildJob | null> {
	return opened(house, await house.builds.claim(of, left));
}

/**
 * It ended without an artifact, or the last steps of one have. `next`: the next job for that builder, if there is one, claimed
 * in the same transaction. @throws StateError fenced
 */
export async function end(
	house: House,
	of: Fence,
	told: BuildFinish,
	next: string | undefined,
	left: AbortSignal,
): Promise<BuildJob | null> {
	const { worker } = of;
	const ask = () => (next === undefined ? null : house.builds.next({ worker, platform: next }, left));
	const [ended, claimed] = await Promise.allSettled([house.builds.end(of, told), ask()]);
	// What was claimed with a refused end is this worker's when it asks again.
	if (ended.status === 'rejected') throw ended.reason;
	if (claimed.status === 'rejected') house.log.warn('builds.unclaimed', { worker, error: claimed.reason });
	let [{ was, state, reason }, job] = [ended.value, claimed.status === 'fulfilled' ? claimed.value : null];
	// The driver hears of it before it has ended: if control dies in between, the next attempt says it again.
	if (was === 'gating') {
		await gatesEnded(house, of, { passed: told.state === 'gates-passed', summary: (told.detail ?? told.reason ?? '').slice(0, 8_000) });
		({ was, state, reason } = await house.builds.end(of, { ...told, heard: true }));
		job = await ask();
	}
	if (was === 'running') house.metrics.add('jibe_builds_total', { state: reason === told.state ? told.state : state });
	return opened(house, job);
}

/** With what only builders are told. */
async function opened(house: House, claimed: ClaimedBuild | null): Promise<BuildJob | null> {
	if (!claimed) return null;
	const { hasSecrets, ...job } = claimed;
	const { allowed, own } = await house.outbound.reach();
	return { ...job, reach: { allowed: [...allowed], own: [...own] }, secrets: hasSecrets ? await secretsOf(house, job) : {} };
}

/** The last steps of a build whose artifact is on its way have ended: its deployment goes past the first region, or back. */
export async function gatesEnded(house: House, of: Fence, verdict: { passed: boolean; summary: string }): Promise<void> {
	try {
		await house.driver.checked(of.id, verdict);
	} catch (error) {
		// It ended otherwise meanwhile, or has heard this before.
		if (!(error instanceof Refusal && error.status === 409)) throw error;
		house.log.info('build.gates_unheard', { ...of, code: error.code });
	}
}

/** None for forks; without its master key control builds what needs none. */
async function secretsOf(house: House, { app, environment, trust }: NewBuild): Promise<Record<string, string>> {
	if (trust === 'fork') return {};
	const rows = await house.state.secrets.list({ app, environment });
	const names = new Set(rows.filter(({ revokedAt }) => revokedAt === null).map(({ name }) => name));
	if (names.size === 0) return {};
	try {
		const place = { app, environment };
		const opened = await house.secrets.opened(place, await house.secrets.pins(place, [...names]));
		return Object.fromEntries(opened.map(({ name, value }) => [name, value]));
	} catch (error) {
		if (!(error instanceof Refusal)) throw error;
		house.log.warn('build.without_secrets', { app, environment, code: error.code });
		return {};
	}
}

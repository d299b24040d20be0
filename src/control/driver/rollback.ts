import type { Harm } from '#canary/watch.ts';
import type { Plan } from '#rollout/plan.ts';
import { hasMoved, isOpen, newRollout, type Rollout } from '#rollout/rollout.ts';
import { preparedCount } from '#rollout/rolling.ts';
import { prepared } from '#rollout/runs.ts';
import { step } from '#rollout/step.ts';
import type { Deployment, DeploymentState } from '#wire/api.ts';
import { Refusal, type PointerWrite, type RollbackInput } from '../ports.ts';
import { factsFor, pointerWrite, standsBy, wantedOf } from './facts.ts';
import type { KnownRelease, Lane, Walk } from './lane.ts';
import { outcomes } from './record.ts';
import { regionsLeft, rollbackPlan } from './strategy.ts';
import { chooseTarget, type Choice } from './target.ts';

export type RollbackAsk = Omit<RollbackInput, 'app' | 'environment'>;

/** Back to an earlier release: at once everywhere when it stands by, else prepared and gated like a deploy. Whatever walks gives way. */
export async function rollback(lane: Lane, ask: RollbackAsk): Promise<{ deployment: Deployment; already: boolean }> {
	const choice = await choose(lane, ask);
	if (choice.kind === 'refused') throw new Refusal(choice.code, 409, choice.message, choice.hint);
	if (choice.kind === 'running') return { deployment: walkOf(lane, choice.deployment).deployment, already: false };
	if (choice.kind === 'cancel') return { deployment: await stopRunning(lane, choice.deployment, ask.by), already: false };
	const known = await lane.release(choice.release);
	if (!known)
		throw new Refusal('release_gone', 409, `v${choice.release} is not kept any more`, '`jibe history` lists the releases that are');
	const warm = await isStandingBy(lane, known);
	await giveWay(lane, warm, ask.automatic !== undefined);
	const walk = await create(lane, ask, choice, known, warm);
	lane.look();
	return { deployment: walk.deployment, already: false };
}

/** The watch saw harm. Nothing to go back to is told to people, not thrown: answers why it stays as it is. */
export async function rollbackFor(lane: Lane, harmed: Walk, harm: Harm): Promise<Refusal | null> {
	// Somebody was quicker.
	if (lane.walks.some((walk) => walk.rollout.kind === 'rollback' && isOpen(walk.rollout))) return null;
	try {
		await rollback(lane, { to: null, undo: null, again: false, by: 'jibe', why: harm.detail, automatic: harm });
		return null;
	} catch (error) {
		if (!(error instanceof Refusal)) throw error;
		lane.log.error('watch.no_way_back', { deployment: harmed.deployment.id, harm, refusal: error.code });
		return error;
	}
}

/** Where `rollback` without arguments would go now, and whether that stands by. */
export async function rollbackTarget(lane: Lane): Promise<{ release: number; warm: boolean; estimateMs: number } | null> {
	const choice = await choose(lane, { to: null, undo: null, again: false, by: '', why: null });
	if (choice.kind !== 'go') return null;
	const known = await lane.release(choice.release);
	if (!known) return null;
	const warm = await isStandingBy(lane, known).catch(refusedAsCold);
	return { release: choice.release, warm, estimateMs: estimateMs(lane.deployed(), warm) };
}

/** As long as the last took that had to do the same: one that stood by tells nothing of a start. */
function estimateMs(past: readonly Deployment[], warm: boolean): number {
	const spans = past.map((one) => one.timings).find(({ rolloutMs, prepareMs }) => rolloutMs !== null && (warm || (prepareMs ?? 0) > 0));
	return (spans?.rolloutMs ?? 0) + (warm ? 0 : (spans?.prepareMs ?? 0) + (spans?.canaryMs ?? 0));
}

async function choose(lane: Lane, ask: RollbackAsk): Promise<Choice> {
	const { schemaFloor } = lane.settings;
	const floor = ask.pastMigration || !schemaFloor ? null : await schemaFloor(lane.app, lane.environment);
	// What the watch undoes is what serves, whatever is being prepared meanwhile.
	const running = ask.automatic ? null : (lane.walking() ?? lane.swinging().at(-1) ?? lane.waiting());
	return chooseTarget(lane.deployed(), running?.deployment ?? null, lane.serving(), { ...ask, floor });
}

function walkOf(lane: Lane, id: string): Walk {
	return lane.walks.find((walk) => walk.deployment.id === id)!;
}

/** Where nothing would stand by: the rollback itself says why it is refused. */
function refusedAsCold(error: unknown): false {
	if (error instanceof Refusal) return false;
	throw error;
}

/** @throws Refusal where one of its secrets is no more */
async function isStandingBy(lane: Lane, { spec, config }: KnownRelease): Promise<boolean> {
	// With another secret than it was healthy with it is another thing: prepared, and asked at the gate.
	if ((await lane.settings.revokedSecrets?.(spec))?.length) return false;
	// What is just being swung back goes away, however healthy it looks.
	if (lane.swinging().some((walk) => walk.rollout.release === spec.release)) return false;
	return standsBy(lane, spec.release, regionsLeft(config, lane.presence.names()), config.instances);
}

async function stopRunning(lane: Lane, id: string, by: string): Promise<Deployment> {
	const walk = walkOf(lane, id);
	await lane.tell(walk, { type: 'stop', to: 'Cancelled', reason: 'cancelled', detail: `by ${by}`, byAnother: false });
	lane.look();
	return walk.deployment;
}

/** A person's rollback ends what walks and what waits; the watch's own only goes before them. */
async function giveWay(lane: Lane, warm: boolean, automatic: boolean): Promise<void> {
	const stop = { type: 'stop', to: 'Cancelled', reason: 'rolled_back', detail: null } as const;
	for (const walk of lane.walks.filter((one) => one.rollout.phase === 'waiting')) {
		if (!automatic) await lane.tell(walk, { ...stop, byAnother: false });
	}
	const walking = lane.walking();
	if (!walking) return;
	if (automatic && !hasMoved(walking.rollout)) await lane.tell(walking, { type: 'yield' });
	// When the target stands by, this rollback's own write moves the pointers: one write instead of two.
	else await lane.tell(walking, { ...stop, byAnother: warm });
}

async function create(
	lane: Lane,
	ask: RollbackAsk,
	choice: Extract<Choice, { kind: 'go' }>,
	known: KnownRelease,
	warm: boolean,
): Promise<Walk> {
	const { store, clock, owner, addressOf } = lane.settings;
	const { app, environment } = lane;
	const now = clock.now();
	const begun = warm ? atOnce(lane, known, now) : fromDisk(lane, known, now);
	const held = await store.create({
		app,
		environment,
		kind: 'rollback',
		release: choice.release,
		previous: lane.lastDeployed()?.release ?? null,
		git: null,
		cause: choice.cause,
		by: ask.by,
		why: ask.why,
		stages: begun.state === 'Deploying' ? [] : [{ state: 'Deploying', at: now }],
		modules: null,
		...addressOf(app, environment, known.spec.domains),
		state: begun.state,
		plan: () => ({ rollout: begun.rollout, regions: outcomes(begun.rollout), writes: begun.writes }),
		owner,
		supersedes: [],
	});
	return lane.adopt(held, known, null);
}

interface Begun {
	rollout: Rollout;
	state: DeploymentState;
	writes: PointerWrite[];
}

/** Every pointer in the transaction that makes the deployment. */
function atOnce(lane: Lane, { spec, config }: KnownRelease, now: number): Begun {
	const plan = rollbackPlan(config, lane.presence.names(), true);
	// What was on its way is not worth keeping.
	const fresh = begin(spec.release, { ...plan, keepWarm: plan.keepWarm && lane.swinging().length === 0 }, false, now);
	const { rollout, effects } = step(fresh, { type: 'looked' }, factsFor(lane, fresh, lane.facts(fresh).keep), now);
	for (const region of rollout.regions) region.before = goodBefore(lane, region.name, region.before);
	const writes = effects.flatMap((effect) => (effect.type === 'write' ? [pointerWrite(lane, effect.region, effect.wanted)] : []));
	return { rollout, state: rollout.state, writes };
}

/** Should this one have to swing back as well, then not to what it took the pointers from. */
function goodBefore(lane: Lane, region: string, before: number | null): number | null {
	const swinging = lane.swinging().find((walk) => walk.rollout.release === before);
	const moved = swinging?.rollout.regions.find((one) => one.name === region && one.moved);
	return moved ? moved.before : before;
}

function fromDisk(lane: Lane, { spec, config }: KnownRelease, now: number): Begun {
	const plan = rollbackPlan(config, lane.presence.names(), false);
	const rollout = begin(spec.release, plan, lane.swinging().length > 0, now);
	const writes = plan.regions.map((region) =>
		pointerWrite(lane, region, prepared(wantedOf(lane.wants.get(region)), spec.release, preparedCount(plan))),
	);
	return { rollout, state: rollout.state, writes };
}

function begin(release: number, plan: Plan, waiting: boolean, now: number): Rollout {
	return newRollout({ kind: 'rollback', release, plan, waiting, now });
}

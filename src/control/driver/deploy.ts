import { canonicalJson } from '#digest/digest.ts';
import type { Plan } from '#rollout/plan.ts';
import { isOpen, newRollout } from '#rollout/rollout.ts';
import { preparedCount } from '#rollout/rolling.ts';
import { dropped, prepared, sameWanted } from '#rollout/runs.ts';
import type { Deployment, DeploymentState } from '#wire/api.ts';
import { Refusal, type DeployInput, type PointerWrite } from '../ports.ts';
import { pointerWrite, wantedOf } from './facts.ts';
import type { KnownRelease, Lane, Walk } from './lane.ts';
import { outcomes } from './record.ts';
import { deployPlan } from './strategy.ts';

/** One keystroke: a release, its deployment, and every region told to prepare it, in one transaction. The walk follows from there. */
export async function deploy(lane: Lane, input: DeployInput): Promise<{ deployment: Deployment; already: boolean }> {
	const same = alreadyThere(lane, input);
	if (same) return same;
	const overruled = checkColleagues(lane, input);
	const plan = deployPlan(input.release.config, lane.presence.names());
	refuseHeld(lane, plan);
	if (input.now) await swingTheWalkingOneBack(lane);
	const walk = await create(lane, input, plan);
	const events = [
		...(overruled ? [{ type: 'deployment.forced', data: { over: overruled, by: input.by } }] : []),
		...(input.unsafe?.length ? [{ type: 'migration.warning', data: { findings: input.unsafe } }] : []),
	];
	if (events.length > 0) await lane.record(walk, { events });
	lane.look();
	return { deployment: walk.deployment, already: false };
}

/** The same artifact and config is live already, or on its way. */
function alreadyThere(lane: Lane, input: DeployInput): { deployment: Deployment; already: boolean } | null {
	const open = lane.walks.filter((walk) => isOpen(walk.rollout) && walk.rollout.phase !== 'swinging');
	const newest = open.at(-1);
	const running = newest && lane.releases.get(newest.rollout.release);
	if (newest && running) return isSame(running, input) ? { deployment: newest.deployment, already: false } : null;
	const serving = lane.serving();
	const live = serving === null ? undefined : lane.releases.get(serving);
	const last = lane.lastDeployed();
	if (!live || last?.release !== serving || open.length > 0 || lane.swinging().length > 0) return null;
	return isSame(live, input) ? { deployment: last, already: true } : null;
}

function isSame(known: KnownRelease, { release }: DeployInput): boolean {
	const { release: _, deployment: __, ...spec } = known.spec;
	return canonicalJson([spec, known.config]) === canonicalJson([release.spec, release.config]);
}

/** Nobody undoes a colleague silently. Returns the commit that `--force` overruled. @throws Refusal */
function checkColleagues(lane: Lane, { git, force }: DeployInput): string | null {
	const live = lane.lastDeployed();
	if (!git || !live?.commit || lane.serving() !== live.release || live.kind === 'rollback') return null;
	const known = new Set([git.commit, ...git.ancestors]);
	if (known.has(live.commit)) return null;
	if (force) return live.commit;
	const deploys = lane.deployed().filter((one) => one.kind === 'deploy' && one.commit !== null);
	const shared = deploys.findIndex((one) => known.has(one.commit!));
	const missing = [...new Set(deploys.slice(0, shared === -1 ? 1 : shared).map((one) => one.commit!))];
	throw new Refusal(
		'colleague',
		409,
		`v${live.release}, deployed by ${live.by}, was built from commit ${live.commit.slice(0, 12)}, which your HEAD ${git.commit.slice(0, 12)} does not contain`,
		'merge or rebase onto it and deploy again; `--force` deploys over it, and is recorded',
		{ commit: live.commit, by: live.by, release: live.release, deployment: live.id, missing },
	);
}

function refuseHeld(lane: Lane, plan: Plan): void {
	for (const region of plan.regions) {
		const hold = lane.wants.get(region)?.pointer.hold;
		if (hold) throw new Refusal('held', 409, `the pointer in ${region} is held: ${hold}`, 'clear the hold first');
	}
}

async function swingTheWalkingOneBack(lane: Lane): Promise<void> {
	const walking = lane.walking();
	if (walking) await lane.tell(walking, { type: 'stop', to: 'Superseded', reason: 'superseded', detail: null, byAnother: false });
}

/** Where the tests run meanwhile, packing and uploading are over before they are. */
const BEFORE_TESTS: readonly DeploymentState[] = ['Queued', 'Building'];
const BEFORE_READY: readonly DeploymentState[] = [...BEFORE_TESTS, 'Testing', 'Packaging', 'Uploading'];

async function create(lane: Lane, input: DeployInput, plan: Plan): Promise<Walk> {
	const { store, clock, owner, addressOf } = lane.settings;
	const { app, environment } = lane;
	const now = clock.now();
	const superseded = lane.walks.filter((walk) => walk.rollout.phase === 'waiting' && walk.rollout.kind === 'deploy');
	const waiting = lane.walking() !== null || lane.swinging().length > 0;
	const testing = input.testing === true;
	const checking = input.checking === true || input.build?.gating === true;
	const stages = input.stages.filter(({ state }) => (testing ? BEFORE_TESTS : BEFORE_READY).includes(state));
	const held = await store.create({
		app,
		environment,
		kind: 'deploy',
		release: input.release,
		previous: lane.serving(),
		git: input.git && { commit: input.git.commit, branch: input.git.branch, dirty: input.git.dirty },
		cause: null,
		by: input.by,
		why: input.why,
		stages: waiting || testing ? stages : [...stages, { state: 'ReadyToDeploy', at: now }],
		modules: input.modules,
		...addressOf(app, environment, input.release.spec.domains),
		state: testing ? 'Testing' : waiting ? 'ReadyToDeploy' : 'Deploying',
		plan: (release) => {
			const rollout = newRollout({ kind: 'deploy', release, plan, waiting, testing, checking, now });
			return {
				rollout,
				regions: outcomes(rollout),
				writes: prepareEverywhere(lane, plan, { release, labels: input.release.config.servers }, superseded),
			};
		},
		owner,
		supersedes: superseded.map((walk) => walk.deployment.id),
		...(input.build ? { build: input.build } : {}),
	});
	const gift = input.gift && { artifact: input.release.artifact, ...input.gift };
	const walk = await lane.adopt(held, { spec: held.spec, commit: input.git?.commit ?? null, config: input.release.config }, gift);
	if (superseded.length > 0) await lane.forget(superseded.map((one) => one.deployment.id));
	return walk;
}

/**
 * Every region of the plan starts the release, without traffic; what was waiting until now is let go of. One that migrates
 * first is started after that, but refused now. @throws Refusal without room
 */
function prepareEverywhere(
	lane: Lane,
	plan: Plan,
	fresh: { release: number; labels: readonly string[] },
	superseded: readonly Walk[],
): PointerWrite[] {
	const regions = new Set([...plan.regions, ...superseded.flatMap((walk) => walk.rollout.plan.regions)]);
	const writes = (prepares: boolean) =>
		[...regions].flatMap((region) => {
			const wanted = wantedOf(lane.wants.get(region));
			const without = superseded.reduce((left, walk) => dropped(left, walk.rollout.release), wanted);
			const next = prepares && plan.regions.includes(region) ? prepared(without, fresh.release, preparedCount(plan)) : without;
			return sameWanted(wanted, next) ? [] : [pointerWrite(lane, region, next, fresh)];
		});
	const all = writes(true);
	return plan.tasks?.includes('migrate-before') ? writes(false) : all;
}

import type { Facts, RegionFacts, Rollout, RunEntry, Wanted } from '#rollout/rollout.ts';
import { isWarm, NOTHING, readiness } from '#rollout/runs.ts';
import { compareVersions, type Instance, type ReleaseSpec, type Run, type Want } from '#wire/region.ts';
import type { PointerWrite, RegionHub } from '../ports.ts';
import type { LabelsOf, Placing } from './placing.ts';
import type { Presence } from './presence.ts';

/** One app and environment, as the hub and the database know it. */
export interface Scene {
	app: string;
	environment: string;
	wants: ReadonlyMap<string, Want>;
	releases: ReadonlyMap<number, { spec: Pick<ReleaseSpec, 'warm'> }>;
	hub: RegionHub;
	presence: Presence;
	placing: Placing;
	labelsOf: LabelsOf;
}

/** The facts that a rollout is stepped with. `keep`: releases of the other open deployments. */
export function factsFor(scene: Scene, rollout: Pick<Rollout, 'release' | 'plan' | 'done'>, keep: readonly number[]): Facts {
	const names = new Set([...rollout.plan.regions, ...scene.wants.keys()]);
	const regions: Record<string, RegionFacts> = {};
	const presence = scene.presence.all();
	for (const name of names) regions[name] = { ...(presence.get(name) ?? GONE), ...regionFacts(scene, name, rollout) };
	return { regions, keep };
}

/** A region that the installation no longer has. */
const GONE = { connected: false, lost: true };

function regionFacts(
	scene: Scene,
	region: string,
	rollout: Pick<Rollout, 'release' | 'plan' | 'done'>,
): Omit<RegionFacts, keyof typeof GONE> {
	const key = { region, app: scene.app, environment: scene.environment };
	const want = scene.wants.get(region);
	const applied = scene.hub.applied(key);
	return {
		wanted: want ? wantedOf(want) : null,
		confirmed: want !== undefined && applied !== null && compareVersions(applied, want) >= 0,
		target: readiness(scene.hub.instances(key), rollout.release, wantedCount(want, rollout)),
		...(rollout.plan.rolling ? { others: othersIn(scene.hub.instances(key), rollout.release) } : {}),
		...(rollout.plan.tasks?.some((kind) => !rollout.done?.includes(kind)) ? { worker: workerIn(scene, region, rollout.release) } : {}),
	};
}

function othersIn(instances: readonly Instance[], release: number): number {
	return instances.filter((one) => one.release !== release && one.state !== 'failed').length;
}

/** Fewer than in the end while they are replaced one by one. */
function wantedCount(want: Want | undefined, { release, plan }: Pick<Rollout, 'release' | 'plan'>): number {
	return want?.run.find((run) => run.release === release)?.instances ?? plan.instances;
}

/** A server that may have the release's files and secrets: one that it is placed on, or else could be. */
function workerIn({ placing, labelsOf, wants }: Scene, region: string, release: number): string | null {
	const there = placing.candidates.in(region).filter(({ connected }) => connected);
	if (!placing.candidates.arePlaced(region)) return there[0]?.name ?? null;
	const placed = wants.get(region)?.run.find((run) => run.release === release)?.placed;
	if (placed) return there.find(({ name }) => (placed[name] ?? 0) > 0)?.name ?? null;
	const labels = labelsOf(release);
	return there.find((one) => one.takes === 'any' && labels.every((label) => one.labels.includes(label)))?.name ?? null;
}

/** Every region that can be reached has instances of the release standing by. */
export function standsBy(scene: Scene, release: number, regions: readonly string[], instances: number): boolean {
	const presence = scene.presence.all();
	const reachable = regions.filter((region) => presence.get(region)?.connected);
	return (
		reachable.length > 0 &&
		reachable.every((region) => {
			const planned = scene.wants.get(region)?.run.some((run) => run.release === release);
			return planned && isWarm(standing(scene, region), release, instances);
		})
	);
}

/** What its servers said, without those that are not there. */
function standing({ hub, placing, app, environment }: Scene, region: string): Instance[] {
	const key = { region, app, environment };
	if (!placing.candidates.arePlaced(region)) return hub.instances(key);
	return hub.instancesByServer(key).flatMap(({ server, instance }) => (placing.isConnected(region, server) ? [instance] : []));
}

export function wantedOf(want: Want | undefined): Wanted {
	if (!want) return NOTHING;
	return { primary: want.pointer.primary, candidate: want.pointer.candidate, run: want.run };
}

/**
 * The write that makes a region want this, over the version that it was decided on. With `fresh`, a release that nobody
 * knows yet, it is refused where the region's servers have no room. @throws Refusal
 */
export function pointerWrite(
	scene: Scene,
	region: string,
	wanted: Wanted,
	fresh?: { release: number; labels: readonly string[] },
): PointerWrite {
	const want = scene.wants.get(region);
	const key = { region, app: scene.app, environment: scene.environment };
	const labelsOf: LabelsOf = (release) => (release === fresh?.release ? fresh.labels : scene.labelsOf(release));
	const strict = fresh !== undefined && scene.presence.all().get(region)?.connected === true;
	const run = wanted.run.map((entry) => runOf(scene, want, entry));
	return {
		region,
		expect: want ? { epoch: want.epoch, version: want.version } : null,
		pointer: { primary: wanted.primary, candidate: wanted.candidate, hold: want?.pointer.hold ?? null },
		run: scene.placing.assign(key, want, run, { labelsOf, strict }),
	};
}

/** Reports from before the release was to run say nothing of it; nobody asks one that stands by frozen how it is. */
function runOf(scene: Scene, want: Want | undefined, { release, instances, as }: RunEntry): Run {
	const before = want?.run.find((run) => run.release === release);
	const rests = before?.as === 'warm' && scene.releases.get(release)?.spec.warm !== 'running';
	const begins = as !== 'warm' && (!before || rests);
	const since = begins ? { epoch: want?.epoch ?? 0, version: (want?.version ?? 0) + 1 } : before?.since;
	return { release, instances, as, ...(since ? { since } : {}) };
}

import type { Want } from '#wire/region.ts';
import type { Lane } from './lane.ts';

/** Releases remembered beyond those that are wanted somewhere. */
const MAX_RELEASES = 64;

/** Those that the lane does not know yet. */
export async function fetchReleases(lane: Lane, numbers: readonly number[]): Promise<void> {
	const unknown = [...new Set(numbers)].filter((number) => !lane.releases.has(number));
	if (unknown.length === 0) return;
	for (const { commit, createdAt: _, config, ...spec } of await lane.settings.store.releases(lane.app, unknown)) {
		if (spec.environment === lane.environment) lane.releases.set(spec.release, { spec, commit, config });
	}
}

/** The oldest that no region is told of. */
export function forgetReleases(lane: Lane): void {
	const named = new Set([...lane.wants.values()].flatMap((want) => want.run.map((run) => run.release)));
	for (const release of lane.releases.keys()) {
		if (lane.releases.size <= MAX_RELEASES) return;
		if (!named.has(release) && !lane.walks.some((walk) => walk.rollout.release === release)) lane.releases.delete(release);
	}
}

/** The releases that a region has to know for it. */
export function namedIn({ run, pointer }: Want): number[] {
	return [...run.map(({ release }) => release), ...(pointer.primary === null ? [] : [pointer.primary])];
}

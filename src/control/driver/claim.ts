import type { Rollout } from '#rollout/rollout.ts';
import type { Event } from '#wire/api.ts';
import { compareVersions } from '#wire/region.ts';
import type { Held } from '../ports.ts';
import type { Lane, Walk } from './lane.ts';
import { writtenBy } from './written.ts';

/** Whose a lane is, where several control processes share a database. */

/** From whom a lane may be taken: from whoever has it (a person asked), from those that are gone, or, null, only what is its own. */
export type Seize = typeof ANYBODY | readonly string[] | null;
export const ANYBODY = 'anybody';

export class TakenOver extends Error {
	readonly code = 'fenced';
}

/** Owners from whom it may be taken; null: whoever they are. */
export function takenFrom(seize: Seize, owner: string): string[] | null {
	return seize === ANYBODY ? null : [...(seize ?? []), owner];
}

/** Another living process drives it, or has written in it last. */
export async function isOthers({ app, environment, settings: { store, owner, others } }: Lane): Promise<boolean> {
	if (!others || others().size === 0) return false;
	const [lane] = await store.lanes({ app, environment });
	return lane !== undefined && lane.owners.some((one) => one !== owner);
}

/** Whether what an event tells of is part of what the lane holds. */
export function knows({ history, wants }: Lane, { type, deployment, data }: Event): boolean {
	if (type === 'deployment.state') {
		const known = history.find((one) => one.id === deployment);
		return known?.stages.some((stage) => stage.state === data['state']) === true;
	}
	return writtenBy(type, data).every((version) => {
		const want = wants.get(version.region);
		return want !== undefined && compareVersions(want, version) >= 0;
	});
}

/** No write of it is accepted: fences begin at 1. */
const NO_FENCE = 0;

/** For who asks: as it is, but not to be written. */
export function asRead({ deployment, version, rollout }: Held): Walk {
	return { deployment, fence: NO_FENCE, version, rollout: rollout as Rollout };
}

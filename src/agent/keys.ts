import { wantKey } from '#wire/region.ts';
import type { Place } from './layout.ts';

/** Keys of the agent's tables. */

export function keyOf({ region, spec }: { region: string; spec: Place }): string {
	return wantKey({ region, app: spec.app, environment: spec.environment });
}

export function releaseKey(app: string, release: number): string {
	return `${app}/${release}`;
}

export function placeKey({ app, environment }: Place): string {
	return `${app}/${environment}`;
}

import type { Readiness, RunEntry, Wanted } from './rollout.ts';

/** Run lists: which releases a region keeps running, and as what. */

/** An edge obeys a pointer once this share of the wanted instances is healthy; a region counts as prepared by the same rule. */
export const ENOUGH_SHARE = 0.8;

export interface SeenInstance {
	release: number;
	state: 'starting' | 'prepared' | 'serving' | 'warm' | 'draining' | 'failed';
	healthy: boolean;
	reason: string | null;
	detail: string | null;
}

/** How a release is doing in one region, of which `wanted` instances should run. */
export function readiness(instances: readonly SeenInstance[], release: number, wanted: number): Readiness {
	const mine = instances.filter((instance) => instance.release === release);
	const needed = enough(wanted);
	const healthy = mine.filter((instance) => instance.healthy && (instance.state === 'prepared' || instance.state === 'serving')).length;
	if (healthy >= needed) return { state: 'ready' };
	const failed = mine.filter((instance) => instance.state === 'failed');
	const worst = failed[0];
	if (!worst || failed.length <= wanted - needed) return { state: 'starting' };
	return { state: 'failed', reason: worst.reason ?? 'start', detail: worst.detail };
}

/** What could serve without a start. A drain is called off at once, and may take as long as the longest stream. */
const STANDING: readonly SeenInstance['state'][] = ['warm', 'prepared', 'serving', 'draining'];

/** Instances of the release stand by, frozen or running: it could serve without a start. */
export function isWarm(instances: readonly SeenInstance[], release: number, wanted: number): boolean {
	const standing = instances.filter((instance) => instance.release === release && instance.healthy && STANDING.includes(instance.state));
	return standing.length >= enough(wanted);
}

function enough(wanted: number): number {
	return Math.max(1, Math.ceil(ENOUGH_SHARE * wanted));
}

export const NOTHING: Wanted = { primary: null, candidate: null, run: [] };

/** The same, with `release` started and checked but without traffic. What serves stays as it is. */
export function prepared(wanted: Wanted, release: number, instances: number): Wanted {
	if (serves(wanted, release)) return wanted;
	return { ...wanted, run: [...others(wanted.run, release), { release, instances, as: 'prepared' }] };
}

/** The same, without `release`, unless it serves. */
export function dropped(wanted: Wanted, release: number): Wanted {
	return serves(wanted, release) ? wanted : { ...wanted, run: others(wanted.run, release) };
}

/** `release` serves at this weight; what served before goes on running, for the rest of the traffic and for the way back. */
export function moved(wanted: Wanted, release: number, instances: number, weightBp: number): Wanted {
	const run: RunEntry[] = [...others(wanted.run, release), { release, instances, as: 'serving' }];
	return weightBp < 10_000 && wanted.primary !== null && wanted.primary !== release
		? { primary: wanted.primary, candidate: { release, weightBp }, run }
		: { primary: release, candidate: null, run };
}

/** `release` alone serves; `warm` stands by; of the rest only `keep` goes on. */
export function settled(wanted: Wanted, warm: number | null, keep: readonly number[]): Wanted {
	const run = wanted.run.flatMap((entry): RunEntry[] => {
		if (serves(wanted, entry.release)) return [{ ...entry, as: 'serving' }];
		if (entry.release === warm) return [{ ...entry, as: 'warm' }];
		return keep.includes(entry.release) ? [entry] : [];
	});
	return { ...wanted, run };
}

/** `before` serves again and `release` is gone; nothing serves when there was nothing before. */
export function swungBack(wanted: Wanted, release: number, before: number | null, instances: number): Wanted {
	const run = others(wanted.run, release);
	if (before === null) return { primary: null, candidate: null, run };
	const old = wanted.run.find((entry) => entry.release === before);
	return {
		primary: before,
		candidate: null,
		run: [...others(run, before), { release: before, instances: old?.instances ?? instances, as: 'serving' }],
	};
}

export function serves(wanted: Wanted, release: number): boolean {
	return wanted.primary === release || wanted.candidate?.release === release;
}

export function sameWanted(a: Wanted, b: Wanted): boolean {
	return (
		a.primary === b.primary &&
		a.candidate?.release === b.candidate?.release &&
		a.candidate?.weightBp === b.candidate?.weightBp &&
		a.run.length === b.run.length &&
		a.run.every((entry) =>
			b.run.some((other) => other.release === entry.release && other.as === entry.as && other.instances === entry.instances),
		)
	);
}

function others(run: readonly RunEntry[], release: number): RunEntry[] {
	return run.filter((entry) => entry.release !== release);
}

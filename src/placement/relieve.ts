import type { Placed } from './place.ts';

/**
 * Off a crowded server onto an empty one, an instance at a time: instances of one release may stand well apart while all
 * apps together crowd one server, as they do when a second one joins.
 */

/** So much more of its memory must be taken than of the other's, or nothing is worth a move. */
export const CROWDED_SHARE = 0.25;

export interface Load {
	name: string;
	/** It may be given an instance, or have one taken. */
	open: boolean;
	budgetMiB: number;
	/** By all but this release. */
	othersMiB: number;
	/** What one instance of it takes there. */
	instanceMiB: number;
}

/** The placing with one instance moved, or the same. Each move makes the fuller emptier than it was and leaves it the fuller: no two apps swap. */
export function relieve(loads: readonly Load[], placed: Placed): Placed {
	const open = loads.filter((load) => load.open && Number.isFinite(load.budgetMiB) && load.budgetMiB > 0);
	const holders = open.filter(({ name }) => (placed[name] ?? 0) > 0);
	const full = least(holders, (load) => load.budgetMiB - load.othersMiB);
	const others = open.filter(({ name }) => full && (placed[name] ?? 0) < placed[full.name]!);
	const empty = least(others, (load) => load.othersMiB - load.budgetMiB);
	if (!full || !empty || !isWorthIt(full, empty, placed)) return placed;
	const { [full.name]: held = 0, ...rest } = placed;
	const left = held > 1 ? { [full.name]: held - 1 } : {};
	return { ...rest, ...left, [empty.name]: (placed[empty.name] ?? 0) + 1 };
}

function isWorthIt(full: Load, empty: Load, placed: Placed): boolean {
	const share = (load: Load, more: number) => (load.othersMiB + ((placed[load.name] ?? 0) + more) * load.instanceMiB) / load.budgetMiB;
	return (
		share(full, 0) - share(empty, 0) > CROWDED_SHARE &&
		share(full, -1) >= share(empty, 1) &&
		empty.budgetMiB - empty.othersMiB > full.budgetMiB - full.othersMiB
	);
}

/** Ties go by name. */
function least(loads: readonly Load[], value: (load: Load) => number): Load | null {
	return loads.reduce<Load | null>((best, load) => {
		if (!best) return load;
		const difference = value(load) - value(best);
		return difference < 0 || (difference === 0 && load.name < best.name) ? load : best;
	}, null);
}

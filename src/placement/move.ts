import { count, samePlaced, type Placed } from './place.ts';

/**
 * The way from where instances are to where they are to be, one write at a time: what is new starts first, and what it
 * takes the place of goes once all of it is healthy. Of a server that is gone nothing is waited for.
 */
export function nextPlaced(of: {
	current: Placed;
	target: Placed;
	/** Servers that are lost: what they had is not there to go on with. */
	gone: ReadonlySet<string>;
	/** Healthy instances, as agents said that know `current`. */
	healthy: Placed;
}): Placed {
	const { current, target, gone, healthy } = of;
	if (samePlaced(current, target)) return target;
	const arrived = Object.entries(target).reduce((sum, [server, wanted]) => sum + Math.min(wanted, healthy[server] ?? 0), 0);
	const told = Object.entries(target).every(([server, wanted]) => (current[server] ?? 0) >= wanted);
	if (told && arrived >= count(target)) return target;
	const next: Record<string, number> = { ...target };
	for (const [server, instances] of Object.entries(current)) {
		if (!gone.has(server)) next[server] = Math.max(instances, next[server] ?? 0);
	}
	return next;
}

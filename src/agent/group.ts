import { compareVersions, instancesOn, wantKey, type Known, type Want } from '#wire/region.ts';
import type { Place } from './layout.ts';
import type { Seat } from './seat.ts';

/** What is wanted of one (region, app, environment), and the seats that are moved towards it. */
export interface Group {
	want: Want;
	/** The newest version that every edge obeys. */
	settled: Known | null;
	seats: Seat[];
	/** Those that take requests, in the order in which they began to. */
	used?: Seat[];
	/** The app has files in its data directory. */
	keeps?: boolean;
}

/** Apps that keep files of their own on this server. */
export function keeping(groups: Iterable<Group>): string[] {
	const apps = new Set<string>();
	for (const { want, keeps } of groups) if (keeps) apps.add(want.app);
	return [...apps].toSorted();
}

/** Releases that run on this server, or are to. */
export function placedOn(server: string, groups: Iterable<Group>): Set<string> {
	const keys = new Set<string>();
	for (const { want, seats } of groups) {
		for (const { spec } of seats) keys.add(releaseKey(spec.app, spec.release));
		for (const run of want.run) if (instancesOn(server, run) > 0) keys.add(releaseKey(want.app, run.release));
	}
	return keys;
}

/**
 * Releases that were not to run here in the meantime, although it may look as if nothing had changed: those that left, and
 * those that are prepared anew, which never happens to one that stands by.
 */
export function leftBehind(before: Want | undefined, { run }: Want): number[] {
	if (!before) return [];
	const gone = before.run.filter(({ release }) => !run.some((one) => one.release === release));
	const anew = run.filter(({ as, since }) => as === 'prepared' && since && compareVersions(since, before) > 0);
	return [...gone, ...anew].map(({ release }) => release);
}

/**
 * Those that take requests first, and of these first who began first: what edges know of it may be old, but never another
 * order. Of more than `placed` of a release both they and the agent go on with the first ones (`Serving`).
 */
export function inOrder(group: Group): readonly Seat[] {
	if (group.seats.length < 2) return group.seats;
	const isUsed = (seat: Seat) => {
		const { address, state } = seat.view();
		return address !== null && state !== 'draining';
	};
	const used = group.seats.filter(isUsed);
	const before = (group.used ?? []).filter((seat) => used.includes(seat));
	group.used = [...before, ...used.filter((seat) => !before.includes(seat))];
	return [...group.used, ...group.seats.filter((seat) => !used.includes(seat))];
}

export function keyOf(seat: Seat): string {
	return wantKey({ region: seat.region, app: seat.spec.app, environment: seat.spec.environment });
}

export function releaseKey(app: string, release: number): string {
	return `${app}/${release}`;
}

export function placeKey({ app, environment }: Place): string {
	return `${app}/${environment}`;
}

export function isSettled(group: Group | undefined): boolean {
	return group?.settled != null && compareVersions(group.settled, group.want) >= 0;
}

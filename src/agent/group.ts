import { compareVersions, instancesOn, wantKey, type Known, type Want } from '#wire/region.ts';
import type { Place } from './layout.ts';
import type { Seat } from './seat.ts';

/** What is wanted of one (region, app, environment), and the seats that are moved towards it. */
export interface Group {
	want: Want;
	/** The newest version that every edge obeys. */
	settled: Known | null;
	seats: Seat[];
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

/** Those of a release that stay. Of more than `count`, edges go on using the first that can be reached (`Serving`): so do we. */
export function staying(seats: readonly Seat[], count: number): Seat[] {
	if (seats.length <= count) return [...seats];
	const isUsed = (seat: Seat) => {
		const { address, state } = seat.view();
		return address !== null && state !== 'draining';
	};
	return [...seats.filter(isUsed), ...seats.filter((seat) => !isUsed(seat))].slice(0, count);
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

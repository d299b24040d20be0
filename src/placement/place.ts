/**
 * Which server of a region runs how many instances of a release. Servers that run it already keep what they have, so that
 * nothing moves without need; the rest is spread so that the loss of one server costs as little as possible.
 */

export interface Server {
	name: string;
	/** Memory that may still be reserved there, beside what `running` counts. */
	freeMiB: number;
	/** Instances of this very release that it runs now; their memory is reserved already. */
	running: number;
	/** Instances of the app's other releases: most of its blobs are there, and an idle process may be. */
	home: number;
	/** Labels that an app may ask for. */
	labels: readonly string[];
	/** `kept`: nothing new, what it runs stays. `none`: it keeps nothing either. */
	takes: 'any' | 'kept' | 'none';
}

export interface Placing {
	instances: number;
	/** What one instance is reserved on this server: the app's measured memory, not its limit. */
	instanceMiB: (server: string) => number;
	/** Only servers that have all of these. */
	labels: readonly string[];
}

/** Server → instances; servers without any are left out. */
export type Placed = Readonly<Record<string, number>>;

export type Placement =
	| { placed: Placed; refused: null }
	/** `room`: the server that comes nearest, and what it lacks for the first instance that has none. `closed`: none takes anything. */
	| { placed: Placed; refused: { reason: 'room'; server: string; missingMiB: number } | { reason: 'no_server' | 'closed' } };

/** Same input, same answer: ties go by name, so that two processes that decide agree. Refused, `placed` is what there is room for. */
export function place(servers: readonly Server[], placing: Placing): Placement {
	const labelled = servers.filter((server) => placing.labels.every((label) => server.labels.includes(label)));
	const open = labelled.filter((server) => server.takes !== 'none');
	const seats = open.map((server) => ({ server, instances: 0 })).toSorted((a, b) => compareNames(a.server.name, b.server.name));
	for (let placed = 0; placed < placing.instances; placed++) {
		const next = best(seats, placing);
		if (!next) return { placed: placedOn(seats), refused: refusal(seats, placing, labelled.length) };
		next.instances++;
	}
	return { placed: placedOn(seats), refused: null };
}

export function count(placed: Placed): number {
	return Object.values(placed).reduce((sum, instances) => sum + instances, 0);
}

export function samePlaced(a: Placed, b: Placed): boolean {
	return [a, b].every((one) => Object.keys(one).every((server) => (a[server] ?? 0) === (b[server] ?? 0)));
}

interface Seat {
	server: Server;
	instances: number;
}

function placedOn(seats: readonly Seat[]): Placed {
	return Object.fromEntries(seats.filter((seat) => seat.instances > 0).map(({ server, instances }) => [server.name, instances]));
}

/** The fewest instances first; among those one that runs it already, then one that knows the app, then the most room. */
function best(seats: readonly Seat[], placing: Placing): Seat | null {
	let found: Seat | null = null;
	for (const seat of seats) {
		if (missing(seat, placing) > 0) continue;
		if (!found || compare(seat, found, placing) < 0) found = seat;
	}
	return found;
}

function compare(a: Seat, b: Seat, placing: Placing): number {
	const kept = Number(keeps(b)) - Number(keeps(a));
	const home = Number(b.instances < b.server.home) - Number(a.instances < a.server.home);
	return a.instances - b.instances || kept || home || leftover(b, placing) - leftover(a, placing);
}

function keeps(seat: Seat): boolean {
	return seat.instances < seat.server.running;
}

function leftover({ server, instances }: Seat, { instanceMiB }: Placing): number {
	return server.freeMiB - Math.max(0, instances - server.running) * instanceMiB(server.name);
}

/** How much memory one more instance lacks there; 0: it fits. */
function missing(seat: Seat, placing: Placing): number {
	if (keeps(seat)) return 0;
	if (seat.server.takes === 'kept') return Number.POSITIVE_INFINITY;
	const lacks = placing.instanceMiB(seat.server.name) - leftover(seat, placing);
	return Math.max(0, lacks);
}

function refusal(seats: readonly Seat[], placing: Placing, labelled: number): NonNullable<Placement['refused']> {
	if (labelled === 0) return { reason: 'no_server' };
	const taking = seats.filter(({ server }) => server.takes === 'any');
	if (taking.length === 0) return { reason: 'closed' };
	const nearest = taking.reduce((least, seat) => (missing(seat, placing) < missing(least, placing) ? seat : least));
	return { reason: 'room', server: nearest.server.name, missingMiB: Math.ceil(missing(nearest, placing)) };
}

function compareNames(a: string, b: string): number {
	return a < b ? -1 : a > b ? 1 : 0;
}

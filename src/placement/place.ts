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
	/** Labels that an app may ask for. */
	labels: readonly string[];
}

export interface Placing {
	instances: number;
	/** What one instance is reserved: the app's measured memory, not its limit. */
	instanceMiB: number;
	/** Only servers that have all of these. */
	labels: readonly string[];
}

export type Placement =
	| { placed: true; servers: { name: string; instances: number }[] }
	/** The server that comes nearest, and what it lacks for the first instance that has no room. */
	| { placed: false; reason: 'room'; server: string; missingMiB: number; room: number }
	| { placed: false; reason: 'no_server'; room: 0 };

/** Same input, same answer: ties go by name, so that two processes that decide agree. */
export function place(servers: readonly Server[], placing: Placing): Placement {
	const fitting = servers
		.filter((server) => placing.labels.every((label) => server.labels.includes(label)))
		.map((server) => ({ server, instances: 0 }))
		.toSorted((a, b) => compareNames(a.server.name, b.server.name));
	if (fitting.length === 0) return { placed: false, reason: 'no_server', room: 0 };
	for (let placed = 0; placed < placing.instances; placed++) {
		const next = best(fitting, placing);
		if (!next) return refusal(fitting, placing, placed);
		next.instances++;
	}
	return {
		placed: true,
		servers: fitting.filter((seat) => seat.instances > 0).map(({ server, instances }) => ({ name: server.name, instances })),
	};
}

interface Seat {
	server: Server;
	instances: number;
}

/** The fewest instances first; among those one that runs it already, then the most room. */
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
	return a.instances - b.instances || kept || leftover(b, placing) - leftover(a, placing);
}

function keeps(seat: Seat): boolean {
	return seat.instances < seat.server.running;
}

function leftover({ server, instances }: Seat, { instanceMiB }: Placing): number {
	return server.freeMiB - Math.max(0, instances - server.running) * instanceMiB;
}

/** How much memory one more instance lacks there; 0: it fits. */
function missing(seat: Seat, placing: Placing): number {
	if (keeps(seat)) return 0;
	return Math.max(0, placing.instanceMiB - leftover(seat, placing));
}

function refusal(seats: readonly Seat[], placing: Placing, room: number): Placement {
	const nearest = seats.reduce((least, seat) => (missing(seat, placing) < missing(least, placing) ? seat : least));
	return { placed: false, reason: 'room', server: nearest.server.name, missingMiB: Math.ceil(missing(nearest, placing)), room };
}

function compareNames(a: string, b: string): number {
	return a < b ? -1 : a > b ? 1 : 0;
}

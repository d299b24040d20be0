import { place, type Placed, type Placement } from '#placement/place.ts';
import { relieve } from '#placement/relieve.ts';
import type { Run } from '#wire/region.ts';
import type { Candidate } from './candidates.ts';

export interface Ask {
	/** What the server is known to run of it now; its memory is not taken from the room. */
	running: Placed;
	/** Where other releases of the app are. */
	home: Placed;
	labels: readonly string[];
	/** Nothing goes to a server that came back only now. */
	steady: boolean;
	/** Nor to these. */
	refusing?: readonly string[];
	/** Only to these. */
	only?: readonly string[];
}

/** The servers of one region while a decision is made: what is placed is taken from their room. */
export class Table {
	readonly candidates: readonly Candidate[];
	readonly #need: (server: string) => number;
	readonly #freeMiB: Map<string, number>;

	/** `need`: what one instance takes there. `reservedMiB`: what all other apps take. */
	constructor(candidates: readonly Candidate[], need: (server: string) => number, reservedMiB: (server: string) => number) {
		this.candidates = candidates;
		this.#need = need;
		this.#freeMiB = new Map(candidates.map(({ name, budgetMiB }) => [name, budgetMiB - reservedMiB(name)]));
	}

	place(run: Run, { running, home, labels, steady, refusing = [], only }: Ask): Placement {
		const open = only ? this.candidates.filter(({ name }) => only.includes(name)) : this.candidates;
		const servers = open.map((one) => ({
			name: one.name,
			labels: one.labels,
			takes: one.takes === 'any' && ((steady && one.unsteady) || refusing.includes(one.name)) ? ('kept' as const) : one.takes,
			freeMiB: this.#freeMiB.get(one.name)! - (run.as === 'warm' ? 0 : (running[one.name] ?? 0) * this.#need(one.name)),
			running: running[one.name] ?? 0,
			home: home[one.name] ?? 0,
		}));
		return place(servers, { instances: run.instances, instanceMiB: (server) => this.#need(server), labels });
	}

	/** Where there is room or not: on whoever can be reached, else on whoever may come back. The servers' own word is the last. */
	placeAnyhow(run: Run, { running, labels }: Pick<Ask, 'running' | 'labels'>): Placed {
		const takes = (['any', 'kept', 'none'] as const).find((one) =>
			this.candidates.some((server) => server.takes === one && fits(server, labels)),
		);
		const servers = this.candidates
			.filter((one) => one.takes === takes)
			.map(({ name, labels: all }) => ({
				name,
				labels: all,
				takes: 'any' as const,
				freeMiB: run.instances,
				running: running[name] ?? 0,
				home: 0,
			}));
		return place(servers, { instances: run.instances, instanceMiB: () => 1, labels }).placed;
	}

	/** The same, or with one instance on a server that is much emptier. */
	relieve(placed: Placed, { labels, refusing = [] }: Pick<Ask, 'labels' | 'refusing'>): Placed {
		const loads = this.candidates.map((one) => ({
			name: one.name,
			open: one.takes === 'any' && !one.unsteady && fits(one, labels) && !refusing.includes(one.name),
			budgetMiB: one.budgetMiB,
			othersMiB: one.budgetMiB - this.#freeMiB.get(one.name)!,
			instanceMiB: this.#need(one.name),
		}));
		return relieve(loads, placed);
	}

	take({ as }: Run, placed: Placed): void {
		if (as !== 'warm') for (const [server, instances] of Object.entries(placed)) this.#add(server, -instances);
	}

	giveBack({ as }: Run, placed: Placed): void {
		if (as !== 'warm') for (const [server, instances] of Object.entries(placed)) this.#add(server, instances);
	}

	#add(server: string, instances: number): void {
		const free = this.#freeMiB.get(server);
		if (free !== undefined) this.#freeMiB.set(server, free + instances * this.#need(server));
	}
}

function fits(server: Candidate, labels: readonly string[]): boolean {
	return labels.every((label) => server.labels.includes(label));
}

import { compareVersions, upToDate, wantKey, type Instance, type Known, type Version, type Want } from '#wire/region.ts';
import type { FleetServer, FleetWorld, Seat } from './fleet-server.ts';
import { Link } from './region.ts';

/** A region with several servers: what its depot passes on, and an edge that sends requests to instances on all of them. */

export interface Said {
	instances: Instance[];
	obeys: Version | undefined;
}

const ENOUGH_SHARE = 0.8;
/** After an accident nobody is held to anything for so long. */
const AFTERMATH_MS = 10_000;

export class FleetRegion {
	readonly name: string;
	readonly servers: FleetServer[] = [];
	readonly wants = new Map<string, Want>();
	/** Key → server → what its agent last said. */
	readonly said = new Map<string, Map<string, Said>>();
	/** What the edge was told, by a link of its own, and what of it it obeys. */
	readonly #heardWants = new Map<string, Want>();
	readonly #heardSaid = new Map<string, Map<string, Said>>();
	readonly obeyed = new Map<string, Want>();
	readonly #spare = new Map<string, Set<string>>();
	readonly #edge: Link;
	readonly #world: FleetWorld;
	readonly #up: (message: Up) => void;
	/** When somebody last came or went. */
	accidentAt = 0;

	constructor(name: string, world: FleetWorld, up: (message: Up) => void) {
		this.name = name;
		this.#world = world;
		this.#up = up;
		this.#edge = new Link(world);
	}

	join(server: FleetServer): void {
		this.servers.push(server);
		this.back(server);
	}

	/** It connected: it is told all that is wanted, and says all it has. */
	back(server: FleetServer): void {
		this.accidentAt = this.#world.clock.now();
		for (const [key, want] of this.wants) {
			server.link.send(() => server.told(want));
			const obeyed = this.obeyed.get(key);
			if (obeyed) server.link.send(() => server.settled(key, obeyed));
			this.tell(server, key);
		}
		this.#up({ type: 'presence' });
	}

	lost(server: FleetServer): void {
		this.accidentAt = this.#world.clock.now();
		this.#world.clock.after(this.#world.random.between(5, 15_000), () => {
			if (!server.connected) this.#up({ type: 'presence' });
		});
	}

	/** Told by control. */
	told(want: Want): void {
		const key = wantKey(want);
		const known = this.wants.get(key);
		if (known && compareVersions(want, known) <= 0) return;
		this.wants.set(key, want);
		for (const server of this.servers) server.link.send(() => server.told(want));
		this.#edge.send(() => {
			this.#heardWants.set(key, want);
			this.#obey(key);
		});
	}

	tell(server: FleetServer, key: string): void {
		const { want } = server.groups.get(key) ?? {};
		const said = { instances: server.instances(key), obeys: want && { epoch: want.epoch, version: want.version } };
		server.link.send(() => {
			if (server.removed) return;
			const servers = this.said.get(key) ?? new Map<string, Said>();
			this.said.set(key, servers);
			servers.set(server.name, said);
			this.#edge.send(() => {
				this.#heardSaid.set(key, (this.#heardSaid.get(key) ?? new Map<string, Said>()).set(server.name, said));
				this.#obey(key);
			});
			this.#up({ type: 'instances', key, server: server.name, said });
		});
	}

	removed(server: FleetServer): void {
		this.accidentAt = this.#world.clock.now();
		this.servers.splice(this.servers.indexOf(server), 1);
		for (const servers of [...this.said.values(), ...this.#heardSaid.values()]) servers.delete(server.name);
		this.#up({ type: 'presence' });
	}

	/** What goes by the wish of control must cost nothing. */
	leaves(server: FleetServer, key: string, seat: Seat): void {
		const obeyed = this.obeyed.get(key);
		if (!obeyed || obeyed.pointer.primary !== seat.release) return;
		// One that has just come back hears of several versions at once, and is called back by the next.
		if (this.#world.clock.now() - server.backAt < AFTERMATH_MS) return;
		if (this.#routed(key).some((one) => one.server === server.name && one.instance.id === seat.id))
			this.#world.broken(`${seat.id} leaves while requests are sent to it`);
		if (this.#world.clock.now() - this.accidentAt < AFTERMATH_MS || this.servers.some((one) => !one.connected)) return;
		const wanted = obeyed.run.find((run) => run.release === seat.release)?.instances ?? 1;
		const others = this.servers.flatMap((one) => one.groups.get(key)?.seats ?? []);
		const healthy = others.filter((one) => one !== seat && one.release === seat.release && one.healthy && one.state !== 'draining').length;
		if (healthy < Math.ceil(ENOUGH_SHARE * wanted)) {
			this.#world.broken(`${seat.id} leaves, and only ${healthy} of ${wanted} are left`);
		}
	}

	/** What was spare may be leaving, until its agent has said that it knows better. */
	#markSpare(key: string): void {
		const obeyed = this.obeyed.get(key);
		if (!obeyed) return;
		const before = this.#spare.get(key) ?? new Set<string>();
		const spare = new Set<string>();
		for (const [server, { instances, obeys }] of this.#heardSaid.get(key) ?? []) {
			const old = obeys !== undefined && compareVersions(obeys, obeyed) < 0;
			const placed = obeyed.run.find((one) => one.release === obeyed.pointer.primary)?.placed;
			const mine = instances.filter((one) => one.release === obeyed.pointer.primary && one.address !== null && one.state !== 'draining');
			for (const [i, { id }] of mine.entries())
				if (i >= (placed?.[server] ?? (placed ? 0 : mine.length)) || (old && before.has(id))) spare.add(id);
		}
		this.#spare.set(key, spare);
	}

	#routed(key: string): { server: string; instance: Instance }[] {
		const { pointer } = this.obeyed.get(key)!;
		const spare = this.#spare.get(key);
		return [...(this.#heardSaid.get(key) ?? [])].flatMap(([server, { instances }]) => {
			const mine = instances.filter((one) => one.release === pointer.primary && one.address !== null && one.state !== 'draining');
			return mine.filter(({ id }) => !spare?.has(id)).map((instance) => ({ server, instance }));
		});
	}

	#obey(key: string): void {
		this.#markSpare(key);
		const want = this.#heardWants.get(key);
		const now = this.obeyed.get(key);
		if (!want || (now && compareVersions(want, now) <= 0)) return;
		const { primary } = want.pointer;
		if (primary !== null && now?.pointer.primary !== primary && !this.#enough(key, want, primary)) return;
		this.obeyed.set(key, want);
		this.#markSpare(key);
		const { region, app, environment, epoch, version } = want;
		this.#edge.send(() => {
			for (const server of this.servers) server.link.send(() => server.settled(key, want));
			this.#up({ type: 'applied', item: { region, app, environment, epoch, version } });
		});
	}

	#enough(key: string, want: Want, release: number): boolean {
		const known = [...(this.#heardSaid.get(key)?.values() ?? [])].flatMap((said) => upToDate(said, want.run));
		const there = known.filter((one) => one.release === release && one.healthy && (one.state === 'prepared' || one.state === 'serving'));
		const wanted = want.run.find((run) => run.release === release)?.instances ?? 1;
		return there.length >= Math.max(1, Math.ceil(ENOUGH_SHARE * wanted));
	}
}

export type Up = { type: 'presence' } | { type: 'instances'; key: string; server: string; said: Said } | { type: 'applied'; item: Known };

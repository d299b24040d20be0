import type { ServerState } from '#wire/region.ts';
import { compareVersions, instancesOn, wantKey, type Instance, type Run, type Version, type Want } from '#wire/region.ts';
import type { Random } from './random.ts';
import { Link } from './region.ts';
import type { VirtualClock } from './virtual-clock.ts';

/** A server of a fleet: its agent on a link that is slow and breaks, and the instances that it runs within its memory. */

export interface FleetWorld {
	clock: VirtualClock;
	random: Random;
	broken: (what: string) => void;
	/** Starts of this app's release never work. */
	isBad(app: string, release: number): boolean;
	/** The server has something to tell its region. */
	said(server: FleetServer, key: string): void;
	/** It stops a healthy instance because nobody wants it there any more. */
	leaves(server: FleetServer, key: string, seat: Seat): void;
	fault: FleetFault | null;
}

export type FleetFault =
	| 'agent-ignores-placing'
	| 'agent-leaves-at-once'
	| 'blind-to-labels'
	| 'blind-to-room'
	| 'hasty-control'
	| 'credulous-control';

export const INSTANCE_MIB = 100;
const RETRY_MS = 5_000;

export interface Seat {
	id: string;
	release: number;
	state: Instance['state'];
	healthy: boolean;
	goal: Run['as'] | 'gone';
	/** For room. */
	waiting: boolean;
	/** The pointer has named its release while it was there. */
	named: boolean;
}

interface Group {
	want: Want;
	settled: Version | null;
	seats: Seat[];
	used: Seat[];
}

export class FleetServer {
	readonly name: string;
	readonly region: string;
	readonly labels: readonly string[];
	readonly budgetMiB: number;
	readonly link: Link;
	readonly groups = new Map<string, Group>();
	diskFreeMiB = 10_000;
	draining = false;
	removed = false;
	/** The machine runs. */
	powered = true;
	downSince: number | null = null;
	backAt = 0;
	/** When it was last told to drain, or not to. */
	drainedAt = 0;
	#life = 0;
	#ids = 0;
	readonly #world: FleetWorld;

	constructor(of: { name: string; region: string; labels: readonly string[]; budgetMiB: number; world: FleetWorld }) {
		this.name = of.name;
		this.region = of.region;
		this.labels = of.labels;
		this.budgetMiB = of.budgetMiB;
		this.#world = of.world;
		this.link = new Link(of.world);
	}

	get connected(): boolean {
		return this.powered && this.link.up && !this.removed;
	}

	state(): ServerState {
		const { name, region, budgetMiB, diskFreeMiB } = this;
		return {
			type: 'serverState',
			server: name,
			regions: [region],
			version: '0',
			platform: 'linux-x64-glibc',
			cpus: 2,
			budgetMiB,
			reservedMiB: this.usedMiB(),
			appsMiB: Object.fromEntries(APPS.map((app) => [app, INSTANCE_MIB])),
			diskMiB: 10_000,
			diskFreeMiB,
			at: 0,
		};
	}

	usedMiB(): number {
		const there = [...this.groups.values()].flatMap(({ seats }) => seats.filter(({ state }) => state !== 'failed'));
		return there.length * INSTANCE_MIB;
	}

	/** Everything it runs ends; it starts them again from what it remembers, once it is back. */
	lose(forMs: number, power: boolean): void {
		if (!this.link.up || !this.powered) return;
		const { clock } = this.#world;
		this.link.cut();
		this.downSince = clock.now();
		if (power) {
			this.powered = false;
			this.#life++;
			for (const group of this.groups.values()) group.seats = [];
		}
		clock.after(forMs, () => {
			this.link.mend();
			this.powered = true;
			this.downSince = null;
			this.backAt = clock.now();
			for (const key of this.groups.keys()) this.#reconcile(key);
			this.#world.said(this, '');
		});
	}

	told(want: Want): void {
		const key = wantKey(want);
		const group = this.groups.get(key) ?? { want, settled: null, seats: [], used: [] };
		if (compareVersions(want, group.want) < 0) return;
		group.want = want;
		this.groups.set(key, group);
		this.#reconcile(key);
		this.#world.said(this, key);
	}

	settled(key: string, version: Version): void {
		const group = this.groups.get(key);
		if (!group) return;
		group.settled = version;
		this.#reconcile(key);
	}

	instances(key: string): Instance[] {
		const group = this.groups.get(key);
		return (group ? this.#inOrder(group) : []).map(({ id, release, state, healthy, waiting }) => ({
			id,
			release,
			state,
			healthy,
			address: healthy ? `unix:/${id}` : null,
			pid: 1,
			reason: state === 'failed' ? (waiting ? 'room' : 'unhealthy') : null,
			detail: null,
			restarts: 0,
			cold: false,
			timings: null,
		}));
	}

	#reconcile(key: string): void {
		const group = this.groups.get(key)!;
		const { want } = group;
		const wanted = new Set<Seat>();
		for (const run of want.run) {
			const count = this.#world.fault === 'agent-ignores-placing' ? run.instances : instancesOn(this.name, run);
			const staying = this.#inOrder(group).filter((seat) => seat.release === run.release).slice(0, count); // prettier-ignore
			while (staying.length < count) staying.push(this.#seat(key, group, run));
			for (const seat of staying) {
				seat.goal = run.as;
				wanted.add(seat);
			}
		}
		for (const seat of group.seats) {
			if (!wanted.has(seat)) seat.goal = 'gone';
			if (want.pointer.primary === seat.release) seat.named = true;
			this.#move(key, group, seat);
		}
	}

	/** Those that take requests first, as they began to. */
	#inOrder(group: Group): Seat[] {
		const used = group.seats.filter((seat) => seat.healthy && seat.state !== 'draining');
		const before = group.used.filter((seat) => used.includes(seat));
		group.used = [...before, ...used.filter((seat) => !before.includes(seat))];
		return [...group.used, ...group.seats.filter((seat) => !used.includes(seat))];
	}

	#seat(key: string, group: Group, run: Run): Seat {
		const seat: Seat = {
			id: `${this.name}-${group.want.app}-${run.release}-${this.#ids++}`,
			release: run.release,
			state: 'failed',
			healthy: false,
			goal: run.as,
			waiting: false,
			named: false,
		};
		group.seats.push(seat);
		this.#start(key, group, seat);
		return seat;
	}

	/** Its own reserve is the last word: what stands by gives way, else it tries again later. */
	#start(key: string, group: Group, seat: Seat): void {
		if (this.usedMiB() + INSTANCE_MIB > this.budgetMiB) this.#evictWarm();
		if (this.usedMiB() + INSTANCE_MIB > this.budgetMiB) {
			seat.waiting = true;
			this.#world.said(this, key);
			return this.#later(RETRY_MS, group, seat, () => this.#start(key, group, seat));
		}
		Object.assign(seat, { state: 'starting', waiting: false });
		this.#later(this.#world.random.between(20, 800), group, seat, () => {
			const bad = this.#world.isBad(group.want.app, seat.release);
			if (bad) seat.state = 'failed';
			else Object.assign(seat, { state: 'prepared', healthy: true });
			this.#move(key, group, seat);
			this.#world.said(this, key);
		});
	}

	#evictWarm(): void {
		for (const [key, group] of this.groups) {
			const warm = group.seats.filter((seat) => seat.state === 'warm');
			if (warm.length === 0) continue;
			group.seats = group.seats.filter((seat) => !warm.includes(seat));
			this.#world.said(this, key);
		}
	}

	#move(key: string, group: Group, seat: Seat): void {
		const isSettled = group.settled !== null && compareVersions(group.settled, group.want) >= 0;
		if (seat.goal === 'gone') return this.#leave(key, group, seat, isSettled);
		if (!seat.healthy || seat.state === seat.goal) return;
		if (seat.goal === 'warm') {
			if (!isSettled) return;
			this.#later(this.#world.random.between(1, 400), group, seat, () => {
				if (seat.goal !== 'warm') return;
				seat.state = 'warm';
				this.#world.said(this, key);
			});
			return;
		}
		seat.state = seat.goal;
		this.#world.said(this, key);
	}

	#leave(key: string, group: Group, seat: Seat, isSettled: boolean): void {
		if (seat.named && seat.healthy && !isSettled && this.#world.fault !== 'agent-leaves-at-once') return;
		if (seat.state === 'draining') return;
		if (seat.healthy && seat.state !== 'warm') {
			this.#world.leaves(this, key, seat);
			seat.state = 'draining';
			this.#world.said(this, key);
			this.#later(this.#world.random.between(1, 2000), group, seat, () => this.#end(key, group, seat));
			return;
		}
		this.#end(key, group, seat);
	}

	#end(key: string, group: Group, seat: Seat): void {
		if (seat.goal !== 'gone') {
			seat.state = seat.goal === 'warm' ? 'prepared' : seat.goal;
			return this.#world.said(this, key);
		}
		group.seats = group.seats.filter((one) => one !== seat);
		this.#world.said(this, key);
	}

	/** Not if the machine or the seat is gone by then. */
	#later(delayMs: number, group: Group, seat: Seat, task: () => void): void {
		const life = this.#life;
		this.#world.clock.after(delayMs, () => {
			if (life === this.#life && group.seats.includes(seat)) task();
		});
	}
}

export const APPS: readonly string[] = ['notes', 'mail', 'chat'];

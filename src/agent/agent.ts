import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock, Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import {
	compareVersions,
	instancesOn,
	wantKey,
	WIRE_VERSION,
	type DownMessage,
	type Hello,
	type Known,
	type ReleaseSpec,
	type UpMessage,
	type Want,
} from '#wire/region.ts';
import type { DepotClient } from './depot-client.ts';
import { adopt, cleanUp, type InstanceProcess, type ProcessSurroundings } from './instance-process.ts';
import { cacheDirectory, type Layout, type Place } from './layout.ts';
import { collect, emptyDirectory, judgeDisk, MAX_DATA_MIB, type DiskUse, type StoredBlobs } from './housekeeping.ts';
import { inOrder, isSettled, keeping, keyOf, leftBehind, placedOn, placeKey, releaseKey, type Group } from './group.ts';
import { createLibrary, type Library } from './library.ts';
import { createLogs, type Logs } from './logs.ts';
import { createPool, type Pool } from './pool.ts';
import { createQuiet, type Quiet } from './quiet.ts';
import { openRecords, type InstanceRecord, type Records } from './records.ts';
import { createShelf, type ReleaseFiles, type Shelf } from './release-files.ts';
import { createRoom, type Room } from './room.ts';
import type { Secrets } from './secrets.ts';
import { Seat, type SeatParts } from './seat.ts';
import { refuseUnsupported, StartFailed, type StartOrder } from './start.ts';
import { createStateTeller, type Checkup, type StateTeller } from './server-state.ts';
import { createTeller, type Teller } from './teller.ts';
import { templateOf, variablesOf } from './template.ts';

/**
 * The agent: holds what is wanted of each (region, app, environment) against the processes that there are, and moves
 * these. Level-triggered: a want is the whole truth of its key, and a restart of the agent changes nothing.
 */
export interface Agent {
	receive(message: DownMessage): void;
	hello(): Hello;
	/** The link is up: say everything again. */
	connected(): void;
	/** Stops looking; instances go on. */
	close(): void;
	/** How many idle processes are ready. */
	idle(): number;
	/** Where releases lie. */
	readonly shelf: Shelf;
	readonly room: Pick<Room, 'reserve'>;
}

export interface AgentOptions {
	/** The installation's data directory, and this agent's name in it. */
	data: string;
	name: string;
	server: string;
	regions: readonly string[];
	layout: Layout;
	/** Name of the cgroup that instances get theirs below. */
	cgroups: string;
	store: StoredBlobs;
	depot: DepotClient;
	secrets: Secrets;
	/** Null where apps run under Jibe's own uid. */
	uid: (place: Place) => number | null;
	budgetMiB?: number;
	/** What one app may keep in one region; MAX_DATA_MIB unless given. */
	dataMiB?: number;
	checkup?: Checkup;
	clock: Clock;
	log: Log;
	/** False: nobody heard it; it is said again when the link is back. */
	send(message: UpMessage): boolean;
}

/** Takes up what already runs before it returns. */
export async function createAgent(options: AgentOptions): Promise<Agent> {
	const agent = new LiveAgent(options);
	await agent.resume();
	return agent;
}

/** The first requests to what the pointers name now go before what becomes of the rest. */
const AFTER_SETTLED_MS = 100;
const TIDY_PERIOD_MS = 5_000;
const COLLECT_PERIOD_MS = 60 * 60_000;

class LiveAgent implements Agent {
	private readonly options: AgentOptions;
	private readonly around: ProcessSurroundings;
	private readonly records: Records;
	private readonly library: Library;
	readonly shelf: Shelf;
	private readonly pool: Pool;
	readonly room: Room;
	private readonly quiet: Quiet;
	private readonly logs: Logs;
	private readonly parts: SeatParts;
	private readonly timers: Timer[];
	/** Keys whose data is beyond its limit. */
	private readonly full = new Map<string, string>();
	private measuring = false;
	private readonly groups = new Map<string, Group>();
	/** By app and number: what wants and instances name. */
	private readonly releases = new Map<string, ReleaseSpec>();
	/** Packages that the last release of an app imported. */
	private readonly preimports = new Map<string, string[]>();
	/** Starts that are about to take an idle process, by app and environment. */
	private readonly promised = new Map<string, number>();
	/** The newest release of each app that has begun to rest. */
	private readonly rested = new Map<string, number>();
	private readonly teller: Teller;
	private readonly server: StateTeller;
	private readonly memory: Teller;

	constructor(options: AgentOptions) {
		const { clock, log, layout, data, uid, cgroups, depot, secrets } = options;
		this.options = options;
		this.records = openRecords(layout.home, log);
		this.library = createLibrary({ directory: layout.home, store: options.store, depot, log });
		this.shelf = createShelf({ layout, library: this.library, depot });
		this.around = { layout, data, records: this.records, clock, log, uid, cgroups, scrub: (place) => secrets.scrub(place) };
		this.pool = createPool({ around: this.around, clock, log });
		this.quiet = createQuiet(clock, this.pool);
		this.teller = createTeller(clock, (keys) => this.say(keys));
		this.memory = createTeller(clock, () => this.remember());
		this.logs = createLogs({ ...options, directory: join(layout.home, 'logs'), scrub: (place) => secrets.scrub(place) });
		this.room = createRoom({
			server: options.server,
			...(options.budgetMiB === undefined ? {} : { budgetMiB: options.budgetMiB }),
			processes: () => [...this.pool.idle().map(({ record }) => record), ...this.seats().flatMap(({ instance }) => instance?.record ?? [])],
			giveWay: [() => this.pool.drop(), () => this.stopWarm()],
		});
		this.server = createStateTeller({ ...options, room: this.room, directory: layout.home, keeps: () => keeping(this.groups.values()) });
		this.parts = this.partsOfSeats();
		this.timers = [clock.every(TIDY_PERIOD_MS, () => this.tidy()), clock.every(COLLECT_PERIOD_MS, () => void this.collect())];
	}

	private partsOfSeats(): SeatParts {
		return {
			clock: this.options.clock,
			log: this.options.log,
			records: this.records,
			fetch: async (spec) => {
				refuseUnsupported(spec);
				const files = await this.shelf.place(spec);
				this.preimports.set(placeKey(spec), files.preimport);
				return files;
			},
			reserve: (spec) => this.reserve(spec),
			take: (order, files) => this.take(order, files),
			environment: (order) => variablesOf(order, this.options.layout, this.options.uid(order.spec)),
			changed: (seat, pressing) => this.teller.tell(keyOf(seat), pressing),
			firstToRest: (spec) => this.firstToRest(spec),
			gone: (seat) => this.gone(seat),
			settled: (seat) => isSettled(this.groups.get(keyOf(seat))),
			later: (task) => this.quiet.later(task),
			scrub: (spec, text) => this.options.secrets.scrub(spec)(text),
		};
	}

	receive(message: DownMessage): void {
		switch (message.type) {
			case 'wants':
				return this.receiveWants(message);
			case 'settled':
				return this.receiveSettled(message.items);
			case 'logsWanted':
				return this.logs.wanted(message);
			case 'logsDone':
				return this.logs.done(message.id);
			case 'welcome':
			case 'instances':
			case 'servers':
			case 'heldWanted':
			case 'probe':
			case 'task':
			case 'taskStop':
				return;
		}
	}

	hello(): Hello {
		const { server, name, regions } = this.options;
		const known = [...this.groups.values()].map(({ want: { region, app, environment, epoch, version } }) => ({
			region,
			app,
			environment,
			epoch,
			version,
		}));
		return { type: 'hello', wire: WIRE_VERSION, role: 'agent', server, name, regions: [...regions], known };
	}

	connected(): void {
		this.server.again();
		this.say(this.groups.keys());
	}

	idle(): number {
		return this.pool.idle().length;
	}

	close(): void {
		for (const timer of this.timers) timer.cancel();
		this.memory.now();
		this.teller.now();
		this.records.retry();
		this.pool.close();
		this.quiet.close();
		this.logs.close();
		for (const seat of this.seats()) seat.close();
	}

	// What is wanted

	private receiveWants(message: Extract<DownMessage, { type: 'wants' }>): void {
		for (const spec of message.releases) this.releases.set(releaseKey(spec.app, spec.release), spec);
		const fresh = message.wants.filter((want) => this.isNews(want));
		if (fresh.length > 0 && message.gift) this.library.accept(message.gift);
		this.quiet.busy();
		for (const want of fresh) {
			const known = this.groups.get(wantKey(want));
			const before = known?.want;
			const group = known ?? { want, settled: null, seats: [] };
			group.want = want;
			this.partWith(group, leftBehind(before, want));
			this.groups.set(wantKey(want), group);
			// Even where nothing changes: what is to run since a version counts once that version is obeyed. What starts tells so itself.
			const there = new Set(group.seats.map(({ spec }) => spec.release));
			const waited = want.run.some(({ release, since }) => there.has(release) && since && (!before || compareVersions(since, before) > 0));
			this.reconcile(group);
			this.teller.tell(wantKey(want), waited);
		}
		this.plan(fresh);
		this.forgetReleases();
		// Before edges can have obeyed it: an agent that is killed and knows an older one would drain what they route to.
		this.memory.tell('', true);
	}

	/** What ran of these releases had secrets that may be revoked by now: none of it is used again. */
	private partWith({ want: { app, environment }, seats }: Group, releases: readonly number[]): void {
		for (const release of releases) this.options.secrets.renew({ app, environment, release });
		for (const seat of seats) if (seat.spec.secrets && releases.includes(seat.spec.release)) seat.parted = true;
	}

	private isNews(want: Want): boolean {
		if (!this.options.regions.includes(want.region)) return false;
		const known = this.groups.get(wantKey(want))?.want;
		return !known || compareVersions(want, known) > 0;
	}

	private receiveSettled(items: readonly Known[]): void {
		const settled: Group[] = [];
		for (const item of items) {
			const group = this.groups.get(wantKey(item));
			if (!group || (group.settled && compareVersions(item, group.settled) <= 0)) continue;
			group.settled = item;
			settled.push(group);
		}
		this.options.clock.after(AFTER_SETTLED_MS, () => settled.forEach(({ seats }) => seats.forEach((seat) => seat.wake())), { idle: true });
		if ([...this.groups.values()].every(isSettled)) this.quiet.over();
		this.memory.tell('', false);
	}

	private reconcile(group: Group): void {
		const { want } = group;
		const kept = new Set<Seat>();
		for (const run of want.run) {
			const count = instancesOn(this.options.server, run);
			const spec = this.releases.get(releaseKey(want.app, run.release));
			if (!spec) {
				// A depot tells an agent only of releases that are placed on its server.
				if (count > 0) this.options.log.error('want.unknown_release', { app: want.app, release: run.release });
				continue;
			}
			const seats = inOrder(group).filter((seat) => seat.spec.release === run.release && !seat.leaving && !seat.parted).slice(0, count); // prettier-ignore
			while (seats.length < count) {
				const seat = new Seat(this.parts, { region: want.region, spec, goal: run.as });
				group.seats.push(seat);
				seats.push(seat);
			}
			for (const seat of seats) {
				seat.goal = run.as;
				kept.add(seat);
			}
		}
		for (const seat of group.seats) {
			if (!kept.has(seat)) seat.goal = 'gone';
			if (want.pointer.primary === seat.spec.release || want.pointer.candidate?.release === seat.spec.release) seat.named = true;
			seat.wake();
		}
		if (want.removed && group.seats.length === 0) this.groups.delete(wantKey(want));
	}

	private gone(seat: Seat): void {
		const group = this.groups.get(keyOf(seat));
		if (!group) return;
		group.seats = group.seats.filter((other) => other !== seat);
		this.teller.tell(keyOf(seat), false);
		this.reconcile(group);
		this.forgetReleases();
		this.memory.tell('', false);
	}

	// What a start needs

	/** Nothing for one that will take an idle process: it has its memory already. */
	private async reserve(spec: ReleaseSpec): Promise<() => void> {
		const key = placeKey(spec);
		const promised = this.promised.get(key) ?? 0;
		const idle = this.pool.idle().filter(({ record }) => placeKey(record) === key).length;
		if (promised >= idle) return this.room.reserve(spec.app);
		this.promised.set(key, promised + 1);
		return () => void this.promised.set(key, (this.promised.get(key) ?? 1) - 1);
	}

	private firstToRest({ app, release }: ReleaseSpec): boolean {
		const first = (this.rested.get(app) ?? 0) < release;
		if (first) this.rested.set(app, release);
		return first;
	}

	private async take(order: StartOrder, files: ReleaseFiles) {
		const { spec, region } = order;
		const full = this.full.get(wantKey({ region, app: spec.app, environment: spec.environment }));
		if (full !== undefined) throw new StartFailed('disk', full);
		const taken = await this.pool.take(templateOf(spec, files.preimport, await this.options.secrets.of(spec)));
		const { record } = taken.process;
		const startedAt = this.options.clock.now();
		record.bound = { region, release: spec.release, slot: files.slot, cold: taken.cold, state: 'starting', startedAt };
		this.records.update(record);
		this.logs.bind(record.id, { region, app: spec.app, environment: spec.environment, release: spec.release });
		return taken;
	}

	/** As many idle processes as there are instances that serve, like those of the newest release that does. */
	private plan(places: readonly Place[]): void {
		for (const place of new Map(places.map((one) => [placeKey(one), one])).values()) {
			let newest: ReleaseSpec | null = null;
			let count = 0;
			for (const { want } of this.groups.values()) {
				if (placeKey(want) !== placeKey(place) || want.removed) continue;
				for (const run of want.run) {
					const spec = this.releases.get(releaseKey(want.app, run.release));
					const here = instancesOn(this.options.server, run);
					if (run.as !== 'serving' || here === 0 || spec?.runtime.kind !== 'fetch') continue;
					count += here;
					if (!newest || spec.release > newest.release) newest = spec;
				}
			}
			// Where its secrets are still on their way, it has not started here yet.
			const secrets = newest && this.options.secrets.known(newest);
			if (newest && secrets) this.pool.want(templateOf(newest, this.preimports.get(placeKey(place)) ?? [], secrets), count);
			else if (!newest) void this.pool.drop(place);
		}
	}

	/** Frozen instances of former releases: they make rollback quick, and memory is wanted more. */
	private stopWarm(): Promise<number> {
		const warm = this.seats().filter((seat) => seat.goal === 'warm' && !seat.leaving);
		return Promise.all(warm.map((seat) => seat.giveUp())).then(() => warm.length);
	}

	private tidy(): void {
		const processes = [...this.pool.idle(), ...this.seats().flatMap(({ instance }) => instance ?? [])];
		void this.server.look();
		this.records.retry();
		this.logs.tidy(new Set(processes.map(({ record }) => record.id)));
		for (const seat of this.seats()) if (seat.instance) this.room.measureOnce(seat.spec.app, seat.instance);
		if (!this.measuring && !this.quiet.isBusy) void this.measureData();
	}

	/** An app that fills its data directory is stopped, and stays so until somebody makes room. */
	private async measureData(): Promise<void> {
		this.measuring = true;
		try {
			const caches = new Map<string, DiskUse>();
			for (const [key, group] of this.groups) if (!(await this.measureGroup(key, group, caches))) return;
		} catch (error) {
			this.options.log.warn('measure.failed', { error });
		} finally {
			this.measuring = false;
		}
	}

	/** false: something is being deployed, which goes before; the next round comes soon. */
	private async measureGroup(key: string, group: Group, caches: Map<string, DiskUse>): Promise<boolean> {
		const { want, seats } = group;
		const { layout, dataMiB = MAX_DATA_MIB } = this.options;
		const judged = await judgeDisk(layout, want, dataMiB, caches, () => this.quiet.isBusy);
		if (judged === null) return false;
		const { data, cache, keeps } = judged;
		group.keeps = keeps;
		if (data === null) this.full.delete(key);
		else this.full.set(key, data);
		const detail = data ?? cache;
		if (detail !== null) await Promise.all(seats.map((seat) => seat.stopFor('disk', detail)));
		if (cache !== null) await emptyDirectory(cacheDirectory(layout, want));
		return true;
	}

	private async collect(): Promise<void> {
		const { layout, store, log } = this.options;
		if (!this.seats().every((seat) => seat.instance)) return; // something starts, or can't: what it needs is not certain
		await collect({ layout, store, library: this.library, releases: this.placedHere() }).catch((error: unknown) =>
			log.warn('collect.failed', { error }),
		);
	}

	private placedHere(): ReleaseSpec[] {
		const keys = placedOn(this.options.server, this.groups.values());
		return [...keys].flatMap((key) => this.releases.get(key) ?? []);
	}

	// What others are told, and what is remembered

	private say(keys: Iterable<string>): void {
		const groups = [...keys].map((key) => {
			const [region, app, environment] = key.split('/') as [string, string, string];
			const group = this.groups.get(key);
			const obeys = group && { epoch: group.want.epoch, version: group.want.version };
			return { region, app, environment, ...(obeys ? { obeys } : {}), instances: group ? inOrder(group).map((seat) => seat.view()) : [] };
		});
		if (groups.length > 0) this.options.send({ type: 'instances', server: this.options.server, groups });
	}

	private forgetReleases(): void {
		const used = new Set(this.seats().map(({ spec }) => releaseKey(spec.app, spec.release)));
		for (const { want } of this.groups.values()) for (const { release } of want.run) used.add(releaseKey(want.app, release));
		for (const key of this.releases.keys()) if (!used.has(key)) this.releases.delete(key);
		const placed = () => placedOn(this.options.server, this.groups.values());
		this.options.secrets.keep(placed, (of, scrub) => this.logs.clean(of, scrub));
	}

	/** Once for all that happens in a turn: a wave says the same of many regions. */
	private remember(): void {
		const groups = [...this.groups.values()];
		this.records.remember({
			wants: groups.map(({ want }) => want),
			releases: [...this.releases.values()],
			settled: groups.flatMap(({ settled }) => settled ?? []),
		});
	}

	private seats(): Seat[] {
		return [...this.groups.values()].flatMap(({ seats }) => seats);
	}

	// After a restart

	async resume(): Promise<void> {
		const memory = this.records.memory();
		for (const spec of memory.releases) {
			this.releases.set(releaseKey(spec.app, spec.release), spec);
			const preimport = this.shelf.preimport(spec);
			if (preimport.length > 0) this.preimports.set(placeKey(spec), preimport);
		}
		for (const want of memory.wants) this.groups.set(wantKey(want), { want, settled: null, seats: [] });
		for (const settled of memory.settled) {
			const group = this.groups.get(wantKey(settled));
			if (group) group.settled = settled;
		}
		const records = this.records.instances();
		await Promise.all(records.map((record) => this.adoptOne(record)));
		this.sweep(new Set(records.map(({ id }) => id)));
		for (const group of this.groups.values()) this.reconcile(group);
		this.plan(memory.wants);
	}

	private async adoptOne(record: InstanceRecord): Promise<void> {
		const process = await adopt(this.around, record);
		if (!process) return cleanUp(this.around, record);
		const spec = record.bound && this.releases.get(releaseKey(record.app, record.bound.release));
		if (!record.bound) this.pool.adopt(process);
		else if (!spec || !this.seat(process, record.bound, spec)) await process.stop(0);
	}

	private seat(process: InstanceProcess, bound: NonNullable<InstanceRecord['bound']>, spec: ReleaseSpec): boolean {
		const group = this.groups.get(wantKey({ region: bound.region, app: spec.app, environment: spec.environment }));
		if (!group || bound.state === 'starting') return false;
		const seat = new Seat(this.parts, { region: bound.region, spec, goal: 'gone' });
		seat.named = true; // it may have been while there was nobody to note it
		seat.adopt(process, bound, this.shelf.adopt(spec, bound.slot));
		group.seats.push(seat);
		return true;
	}

	/** Socket directories of processes that an agent was killed while making. */
	private sweep(known: ReadonlySet<string>): void {
		const directory = join(this.options.layout.run, 's');
		for (const id of readdirSync(directory)) if (!known.has(id)) rmSync(join(directory, id), { recursive: true, force: true });
	}
}

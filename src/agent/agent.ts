import { chownSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock, Timer } from '#clock/clock.ts';
import { canonicalJson, sha256 } from '#digest/digest.ts';
import type { Log } from '#log/log.ts';
import type { BlobStore } from '#store/blob-store.ts';
import {
	compareVersions,
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
import { adopt, cleanUp, type ProcessSurroundings, type Template } from './instance-process.ts';
import { filesDirectory, viewOf, type Layout, type Place } from './layout.ts';
import { createLibrary } from './library.ts';
import { createPool, type Pool } from './pool.ts';
import { openRecords, type InstanceRecord } from './records.ts';
import { createShelf, type ReleaseFiles } from './release-files.ts';
import { createRoom } from './room.ts';
import { Seat, type SeatParts } from './seat.ts';
import { StartFailed, type StartOrder } from './start.ts';

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
	/** Everything it has, for tests and diagnosis. */
	idle(): number;
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
	store: BlobStore;
	depot: DepotClient;
	/** Null where apps run under Jibe's own uid. */
	uid: (place: Place) => number | null;
	budgetMiB?: number;
	clock: Clock;
	log: Log;
	/** False: nobody heard it; it is said again when the link is back. */
	send(message: UpMessage): boolean;
}

interface Group {
	want: Want;
	settled: Known | null;
	seats: Seat[];
}

/** While a want has not settled the pool isn't filled, but no longer than this. */
const BUSY_LIMIT_MS = 10_000;

export async function createAgent(options: AgentOptions): Promise<Agent> {
	const { clock, log, layout } = options;
	const records = openRecords(layout.home, log);
	const library = createLibrary({ directory: layout.home, store: options.store, depot: options.depot, log });
	const shelf = createShelf({ layout, library, depot: options.depot });
	const around: ProcessSurroundings = { layout, data: options.data, records, clock, log, uid: options.uid, cgroups: options.cgroups };
	const pool = createPool({ around, clock, log });
	const groups = new Map<string, Group>();
	const releases = new Map<string, ReleaseSpec>();
	const preimports = new Map<string, string[]>();
	const processes = () => [
		...pool.idle().map(({ record }) => record),
		...[...groups.values()].flatMap(({ seats }) => seats.map(({ spec }) => spec)),
	];
	const room = createRoom({
		server: options.server,
		...(options.budgetMiB === undefined ? {} : { budgetMiB: options.budgetMiB }),
		processes,
		giveWay: [() => pool.drop(), stopWarm],
	});
	const tell = createTeller();
	const quiet = createQuiet(clock, pool);

	const parts: SeatParts = {
		clock,
		log,
		records,
		async fetch(spec) {
			const files = await shelf.place(spec);
			preimports.set(`${spec.app}/${spec.environment}`, files.preimport);
			return files;
		},
		reserve: (spec) => room.reserve(spec.app),
		take,
		environment,
		changed: (seat) => tell(wantKey({ region: seat.region, ...seat.spec })),
		gone(seat) {
			const key = wantKey({ region: seat.region, ...seat.spec });
			const group = groups.get(key);
			if (!group) return;
			group.seats = group.seats.filter((other) => other !== seat);
			tell(key);
			reconcile(group);
		},
		settled(seat) {
			const group = groups.get(wantKey({ region: seat.region, ...seat.spec }));
			return group?.settled != null && compareVersions(group.settled, group.want) >= 0;
		},
	};

	async function take(order: StartOrder, files: ReleaseFiles) {
		const { spec } = order;
		if (spec.runtime.kind !== 'fetch')
			throw new StartFailed('runtime_unsupported', `this agent runs "fetch" apps; it has no runtime "${spec.runtime.kind}"`);
		const taken = await pool.take(templateOf(spec, files.preimport));
		const { record } = taken.process;
		record.bound = {
			region: order.region,
			release: spec.release,
			slot: files.slot,
			cold: taken.cold,
			state: 'starting',
			startedAt: clock.now(),
		};
		records.save(record);
		return taken;
	}

	function environment({ region, spec }: StartOrder): Record<string, string> {
		const uid = options.uid(spec);
		const directory = join(filesDirectory(layout, spec), region);
		mkdirSync(directory, { recursive: true, mode: 0o700 });
		if (uid !== null) chownSync(directory, uid, uid);
		return {
			JIBE_REGION: region,
			JIBE_RELEASE: `v${spec.release}`,
			JIBE_DEPLOYMENT: spec.deployment,
			JIBE_DATA_DIR: join(viewOf(layout, spec, spec.vendor).files, region),
		};
	}

	function receiveWants(message: Extract<DownMessage, { type: 'wants' }>): void {
		for (const spec of message.releases) releases.set(releaseKey(spec.app, spec.release), spec);
		const fresh = message.wants.filter(isNews);
		if (fresh.length > 0 && message.gift) library.accept(message.gift);
		const touched = fresh.map((want) => {
			const key = wantKey(want);
			const group: Group = groups.get(key) ?? { want, settled: null, seats: [] };
			group.want = want;
			groups.set(key, group);
			return group;
		});
		quiet.busy();
		for (const group of touched) reconcile(group);
		forgetReleases();
		remember();
	}

	function isNews(want: Want): boolean {
		if (!options.regions.includes(want.region)) return false;
		const known = groups.get(wantKey(want))?.want;
		return !known || compareVersions(want, known) > 0;
	}

	function reconcile(group: Group): void {
		const { want } = group;
		const kept = new Set<Seat>();
		for (const run of want.run) {
			const spec = releases.get(releaseKey(want.app, run.release));
			if (!spec) {
				log.error('want.unknown_release', { app: want.app, release: run.release });
				continue;
			}
			const seats = group.seats.filter((seat) => seat.spec.release === run.release && !seat.leaving).slice(0, run.instances);
			while (seats.length < run.instances) {
				const seat = new Seat(parts, { region: want.region, spec, goal: run.as });
				group.seats.push(seat);
				seats.push(seat);
			}
			for (const seat of seats) kept.add(Object.assign(seat, { goal: run.as }));
		}
		for (const seat of group.seats) {
			if (!kept.has(seat)) seat.goal = 'gone';
			if (want.pointer.primary === seat.spec.release || want.pointer.candidate?.release === seat.spec.release) seat.named = true;
			seat.wake();
		}
		if (want.removed && group.seats.length === 0) groups.delete(wantKey(want));
		fillPool(want);
	}

	function receiveSettled(items: readonly Known[]): void {
		for (const item of items) {
			const group = groups.get(wantKey(item));
			if (!group || (group.settled && compareVersions(item, group.settled) <= 0)) continue;
			group.settled = item;
			for (const seat of group.seats) seat.wake();
		}
		if ([...groups.values()].every((group) => group.settled !== null && compareVersions(group.settled, group.want) >= 0)) quiet.over();
		remember();
	}

	/** As many idle processes as there are instances that serve, like those of the newest release that does. */
	function fillPool(place: Place): void {
		let newest: ReleaseSpec | null = null;
		let count = 0;
		for (const { want } of groups.values()) {
			if (want.app !== place.app || want.environment !== place.environment || want.removed) continue;
			for (const run of want.run) {
				const spec = releases.get(releaseKey(want.app, run.release));
				if (run.as !== 'serving' || spec?.runtime.kind !== 'fetch') continue;
				count += run.instances;
				if (!newest || spec.release > newest.release) newest = spec;
			}
		}
		const preimport = preimports.get(`${place.app}/${place.environment}`) ?? [];
		if (newest) pool.want(templateOf(newest, preimport), count);
		else void pool.drop(place);
	}

	/** Frozen instances of former releases: they make rollback quick, and memory is wanted more. */
	async function stopWarm(): Promise<number> {
		const warm = [...groups.values()].flatMap(({ seats }) => seats).filter((seat) => seat.goal === 'warm' && !seat.leaving);
		for (const seat of warm) {
			seat.goal = 'gone';
			seat.wake();
		}
		return Promise.resolve(warm.length);
	}

	function forgetReleases(): void {
		const used = new Set<string>();
		for (const { want, seats } of groups.values()) {
			for (const { release } of want.run) used.add(releaseKey(want.app, release));
			for (const { spec } of seats) used.add(releaseKey(spec.app, spec.release));
		}
		for (const key of releases.keys()) if (!used.has(key)) releases.delete(key);
	}

	function remember(): void {
		const all = [...groups.values()];
		records.remember({
			wants: all.map(({ want }) => want),
			releases: [...releases.values()],
			settled: all.flatMap(({ settled }) => settled ?? []),
		});
	}

	function createTeller(): (key: string) => void {
		let dirty = new Set<string>();
		return (key) => {
			if (dirty.size === 0) queueMicrotask(() => (say(dirty), (dirty = new Set())));
			dirty.add(key);
		};
	}

	function say(keys: Iterable<string>): void {
		const said = [...keys].flatMap((key) => {
			const [region, app, environment] = key.split('/') as [string, string, string];
			return { region, app, environment, instances: groups.get(key)?.seats.map((seat) => seat.view()) ?? [] };
		});
		if (said.length > 0) options.send({ type: 'instances', server: options.server, groups: said });
	}

	async function resume(): Promise<void> {
		const memory = records.memory();
		for (const spec of memory.releases) releases.set(releaseKey(spec.app, spec.release), spec);
		for (const want of memory.wants) groups.set(wantKey(want), { want, settled: null, seats: [] });
		for (const settled of memory.settled) {
			const group = groups.get(wantKey(settled));
			if (group) group.settled = settled;
		}
		await Promise.all(records.instances().map(adoptOne));
		for (const group of groups.values()) reconcile(group);
	}

	async function adoptOne(record: InstanceRecord): Promise<void> {
		const process = await adopt(around, record);
		if (!process) return cleanUp(around, record);
		const { bound } = record;
		if (!bound) return pool.adopt(process);
		const group = groups.get(wantKey({ region: bound.region, app: record.app, environment: record.environment }));
		const spec = releases.get(releaseKey(record.app, bound.release));
		if (!group || !spec || bound.state === 'starting') return process.stop(0);
		const seat = new Seat(parts, { region: bound.region, spec, goal: 'gone' });
		seat.named = true;
		seat.adopt(process, bound, shelf.adopt(record, bound.slot));
		group.seats.push(seat);
	}

	await resume();
	return {
		receive(message) {
			switch (message.type) {
				case 'wants':
					return receiveWants(message);
				case 'settled':
					return receiveSettled(message.items);
				case 'welcome':
				case 'instances':
				case 'probe':
				case 'logsWanted':
				case 'logsDone':
					return;
			}
		},
		hello: () => ({
			type: 'hello',
			wire: WIRE_VERSION,
			role: 'agent',
			server: options.server,
			name: options.name,
			regions: [...options.regions],
			known: [...groups.values()].map(({ want: { region, app, environment, epoch, version } }) => ({
				region,
				app,
				environment,
				epoch,
				version,
			})),
		}),
		connected: () => say(groups.keys()),
		close() {
			pool.close();
			quiet.close();
			for (const { seats } of groups.values()) for (const seat of seats) seat.close();
		},
		idle: () => pool.idle().length,
	};
}

function releaseKey(app: string, release: number): string {
	return `${app}/${release}`;
}

/** Everything that a process must be born with to run this release. */
function templateOf(spec: ReleaseSpec, preimport: string[]): Template {
	const { app, environment, vendor, memoryMiB, cpuMillis } = spec;
	const env = { NODE_ENV: 'production', JIBE_APP: app, JIBE_ENVIRONMENT: environment, ...spec.env };
	const key = sha256(canonicalJson({ app, environment, vendor, memoryMiB, cpuMillis, env, node: spec.runtime.node ?? null }));
	return { key, app, environment, vendor, preimport, env, memoryMiB, cpuMillis };
}

/** Between a want and its settling something is being deployed, and idle processes are not made. */
function createQuiet(clock: Clock, pool: Pool): { busy(): void; over(): void; close(): void } {
	let letGo: (() => void) | null = null;
	let limit: Timer | null = null;
	const over = () => {
		limit?.cancel();
		letGo?.();
		letGo = null;
	};
	return {
		busy() {
			letGo ??= pool.hold();
			limit?.cancel();
			limit = clock.after(BUSY_LIMIT_MS, over, { idle: true });
		},
		over,
		close: () => limit?.cancel(),
	};
}

import { chmodSync, chownSync, existsSync, lstatSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { pause, type Clock } from '#clock/clock.ts';
import { randomId } from '#digest/digest.ts';
import type { Log } from '#log/log.ts';
import { cgroupOomKills, createCgroup, removeCgroup, type Cgroup } from '#process/cgroup.ts';
import { freeze, killTree, setNiceness, signalGroup, thaw } from '#process/control.ts';
import { isAlive } from '#process/identity.ts';
import { isolation } from '#process/isolation.ts';
import { removePidFile, writePidFile } from '#process/pid-file.ts';
import { spawnDetached } from '#process/spawn.ts';
import { programTitle } from '#process/title.ts';
import { logFile, makePlaces, socketDirectory, viewOf, type Layout, type Place } from './layout.ts';
import { receiveLines, sendLine } from './lines.ts';
import { lastLines, scrubFile } from './log-file.ts';
import { readReport } from './report.ts';
import type { Birth, Order, Report } from './runtimes/fetch/messages.ts';
import type { InstanceRecord, Records } from './records.ts';
import type { Scrub } from '#log/scrub.ts';

/** A process that runs, or will run, one instance of a `fetch` app; what the rest of the agent may do with it. */
export interface InstanceProcess {
	readonly record: InstanceRecord;
	/** Of its HTTP socket. */
	readonly address: string;
	tell(order: Order): void;
	/** The next report of one of these types, for which `is` holds. @throws ProcessEnded, or StartTimeout when there is a limit */
	hear<T extends Report['type']>(
		types: readonly T[],
		limitMs?: number,
		is?: (report: Extract<Report, { type: T }>) => boolean,
	): Promise<Extract<Report, { type: T }>>;
	/** Nobody can connect to it from now on, and it stands still. */
	freeze(): void;
	thaw(): void;
	hurry(): void;
	/** SIGTERM, 5 s, SIGKILL to all of it; resolves once it is gone and cleaned up. */
	stop(graceMs?: number): Promise<void>;
	readonly ended: Promise<Ending>;
	readonly over: boolean;
}

export interface Ending {
	reason: 'memory' | 'exited' | 'disk';
	/** For a person, with the last lines of its output. */
	detail: string;
}

export class ProcessEnded extends Error {
	readonly code: Ending['reason'];
	constructor(ending: Ending) {
		super(ending.detail);
		this.code = ending.reason;
	}
}

export class StartTimeout extends Error {
	readonly code = 'start';
}

/** No module of the release had its turn yet: that it took so long is not for its author to mend. */
export class WarmUpTimeout extends Error {
	readonly code = 'platform';
}

/** What an idle process is born with; processes of the same template are alike. */
export interface Template extends Place {
	key: string;
	vendor: string | null;
	preimport: string[];
	env: Record<string, string>;
	/** On top of `env`; the key tells their versions, never their values. */
	secrets: readonly { name: string; value: string }[];
	memoryMiB: number;
	cpuMillis: number | null;
}

export const STOP_GRACE_MS = 5_000;
export const START_LIMIT_MS = 30_000;
const BIRTH_POLL_MS = 5;
const LIFE_POLL_MS = 1_000;
const TMP_MIB = 64;
const MAX_PROCESSES = 256;
/** A heap at three quarters of the limit leaves room for buffers and code. */
const HEAP_SHARE = 0.75;
/**
 * Node's default where memory is not limited. With a limit V8 takes a share of it, and loading an app costs twice the
 * time in collections of the young generation (measured for 217 modules: 34 ms of CPU against 17).
 */
const SEMI_SPACE_MIB = 16;
/** A collection before the rest would throw away what functions were compiled to: waking up would compile them again. */
const KEEP_BYTECODE = '--no-flush-bytecode';
/** Node's diagnostic reports would hold every secret, and lie where the app writes them. */
const REPORT_WITHOUT_ENV = '--report-exclude-env';
const IDLE_NICENESS = 10;
const LAST_LINES = 20;

export interface ProcessSurroundings {
	layout: Layout;
	data: string;
	records: Records;
	clock: Clock;
	log: Log;
	uid: (place: Place) => number | null;
	/** Takes secrets out of what processes of an app wrote. */
	scrub: (place: Place) => Scrub;
	/** Name of the cgroup that all groups of this agent are in. */
	cgroups: string;
}

/** Starts an idle process. Resolves once it has warmed up. `hurried`: somebody waits for it. */
export async function bear(around: ProcessSurroundings, template: Template, hurried: () => boolean): Promise<InstanceProcess> {
	const { layout, data, records } = around;
	const id = randomId(8);
	const uid = around.uid(template);
	const sockets = socketDirectory(layout, id);
	const view = viewOf(layout, template, template.vendor);
	const give = (directory: string) => uid !== null && chownSync(directory, uid, uid);
	makePlaces(layout, template, view, give);
	mkdirSync(sockets, { recursive: true, mode: 0o700 });
	give(sockets);
	mkdirSync(join(layout.home, 'logs'), { recursive: true, mode: 0o700 });
	const limits = { memoryMiB: template.memoryMiB, pids: MAX_PROCESSES, cpuMillis: template.cpuMillis };
	const cgroup = isolation().cgroup ? createCgroup(`${around.cgroups}/${id}`, limits) : null;
	const birth: Birth = {
		sockets,
		vendor: view.vendor && join(view.vendor, 'node_modules'),
		preimport: template.preimport,
		compileCache: view.cache,
		hurried: hurried(),
		env: { ...template.env, ...Object.fromEntries(template.secrets.map(({ name, value }) => [name, value])) },
		secrets: template.secrets.map(({ name }) => name),
	};
	const { identity, child } = await spawnDetached({
		argv0: programTitle('instance'),
		command: view.node,
		args: [...heapOptions(template.memoryMiB), view.program, template.app, template.environment, data],
		input: JSON.stringify(birth),
		env: { PATH: template.env['PATH'] ?? '/usr/local/bin:/usr/bin:/bin' },
		cwd: '/',
		stdout: logFile(layout, id),
		stderr: logFile(layout, id),
		...(uid === null ? {} : { uid }),
		binds: [...view.binds, { from: sockets, to: sockets, readonly: false }],
		privateTmp: { sizeMiB: TMP_MIB },
		...(cgroup ? { cgroup } : {}),
	});
	const record: InstanceRecord = {
		id,
		app: template.app,
		environment: template.environment,
		identity,
		cgroup,
		uid,
		pool: template.key,
		bound: null,
	};
	try {
		records.save(record);
	} catch (error) {
		// One that nobody knows of would run for ever.
		cleanUp(around, record);
		throw error;
	}
	writePidFile(data, `instance-${id}`, identity, cgroup ?? undefined);
	// The socket of one that dies closes before its parent hears how it ended.
	let code: string | null = null;
	child.once('exit', (status, signal) => (code = signal ?? `code ${status}`));
	const life = watchLife(around, record, () => code);
	child.once('exit', life.look);
	await warmUp(around, record, life, hurried);
	const process = await attach(around, record, life);
	await process.hear(['idle'], START_LIMIT_MS).catch((error: unknown) => {
		throw error instanceof StartTimeout ? notWarm(around, record) : error;
	});
	return process;
}

/** Resolves once it listens to agents: that is the last thing it does before it is idle. */
async function warmUp(around: ProcessSurroundings, record: InstanceRecord, life: LifeWatch, hurried: () => boolean): Promise<void> {
	const { clock, layout } = around;
	let patient = !hurried();
	if (patient) setNiceness(record.identity, IDLE_NICENESS);
	const control = join(socketDirectory(layout, record.id), 'control');
	const until = clock.monotonic() + START_LIMIT_MS;
	while (!existsSync(control)) {
		if (life.over()) throw new ProcessEnded(await life.ended);
		if (patient && hurried()) {
			patient = false;
			setNiceness(record.identity, 0);
		}
		if (clock.monotonic() > until) throw notWarm(around, record);
		await pause(BIRTH_POLL_MS, clock);
	}
}

function notWarm({ layout, scrub }: ProcessSurroundings, record: InstanceRecord): WarmUpTimeout {
	killTree(record.identity, record.cgroup ?? undefined);
	const said = scrub(record)(lastLines(logFile(layout, record.id), LAST_LINES));
	const why = `a process did not warm up within ${START_LIMIT_MS / 1000} s: this server is overloaded, or one of the app's packages never ends`;
	return new WarmUpTimeout(said === '' ? why : `${why}; its last output:\n${said}`);
}

function heapOptions(memoryMiB: number): string[] {
	return [
		`--max-old-space-size=${Math.round(memoryMiB * HEAP_SHARE)}`,
		`--max-semi-space-size=${SEMI_SPACE_MIB}`,
		KEEP_BYTECODE,
		REPORT_WITHOUT_ENV,
	];
}

/** Takes over a process that an earlier agent started. Null when it is not alive or not to be trusted. */
export async function adopt(around: ProcessSurroundings, record: InstanceRecord): Promise<InstanceProcess | null> {
	const life = watchLife(around, record, () => '');
	if (life.over()) return null;
	try {
		openDoor(socketDirectory(around.layout, record.id));
		// Whatever its record says: an agent may have been killed between freezing it and writing that down.
		thaw(record.identity, record.cgroup ?? undefined);
		const process = await attach(around, record, life);
		await process.hear(['idle', 'loaded', 'drained', 'rested'], ADOPT_LIMIT_MS);
		if (record.bound?.state === 'warm') process.freeze();
		return process;
	} catch (error) {
		around.log.warn('instance.not_adopted', { id: record.id, error });
		killTree(record.identity, record.cgroup ?? undefined);
		return null;
	}
}

const ADOPT_LIMIT_MS = 2_000;

interface LifeWatch {
	ended: Promise<Ending>;
	over: () => boolean;
	/** Looks now whether it still lives. */
	look: () => void;
}

function watchLife(around: ProcessSurroundings, record: InstanceRecord, code: () => string | null): LifeWatch {
	let over = false;
	let end: (ending: Ending) => void = () => {};
	const ended = new Promise<Ending>((resolve) => (end = resolve));
	const look = () => {
		const how = code();
		if (over || how === null || isAlive(record.identity)) return;
		over = true;
		timer.cancel();
		const ending = endingOf(around, record, how);
		cleanUp(around, record);
		end(ending);
	};
	const timer = around.clock.every(LIFE_POLL_MS, look);
	look();
	return { ended, over: () => over, look };
}

function endingOf(around: ProcessSurroundings, record: InstanceRecord, code: string): Ending {
	const output = around.scrub(record)(lastLines(logFile(around.layout, record.id), LAST_LINES));
	const memory = (record.cgroup !== null && cgroupOomKills(record.cgroup) > 0) || output.includes('JavaScript heap out of memory');
	const what = memory ? 'used more memory than its limit and was killed' : `ended${code && ` with ${code}`}`;
	return { reason: memory ? 'memory' : 'exited', detail: output === '' ? `it ${what}` : `it ${what}; its last output:\n${output}` };
}

/** What is left of a process that has ended. */
export function cleanUp(around: ProcessSurroundings, record: InstanceRecord): void {
	killTree(record.identity, record.cgroup ?? undefined);
	rmSync(socketDirectory(around.layout, record.id), { recursive: true, force: true });
	cleanLog(around, record);
	removePidFile(around.data, `instance-${record.id}`);
	around.records.forget(record.id);
	if (record.cgroup) removeSoon(around.clock, record.cgroup, CGROUP_REMOVALS);
}

/** A crash's last words are Node's own: they came past all that looks for secrets. */
function cleanLog({ layout, scrub, log }: ProcessSurroundings, record: InstanceRecord): void {
	try {
		scrubFile(logFile(layout, record.id), scrub(record));
	} catch (error) {
		log.warn('log.not_cleaned', { id: record.id, error });
	}
}

const CGROUP_REMOVALS = 50;
const CGROUP_REMOVAL_DELAY_MS = 20;

/** The kernel lets a group go a little after its last process. */
function removeSoon(clock: Clock, cgroup: Cgroup, tries: number): void {
	if (removeCgroup(cgroup) || tries === 0) return;
	clock.after(CGROUP_REMOVAL_DELAY_MS, () => removeSoon(clock, cgroup, tries - 1), { idle: true });
}

async function attach(around: ProcessSurroundings, record: InstanceRecord, life: LifeWatch): Promise<InstanceProcess> {
	const sockets = socketDirectory(around.layout, record.id);
	sealSockets(sockets, record.uid);
	const socket = await reach(around.clock, join(sockets, 'control'));
	return control(around, record, life, socket);
}

/**
 * The edge connects to this socket as root: an app that could put another in its place (or a link to Docker's) would
 * have its users talk to that. So the directory is taken away from it once the sockets are there, and then checked.
 */
function sealSockets(directory: string, uid: number | null): void {
	if (uid === null) return;
	chownSync(directory, 0, uid);
	chmodSync(directory, 0o710);
	for (const name of ['http', 'control']) {
		const found = lstatSync(join(directory, name));
		if (!found.isSocket() || found.uid !== uid) throw new Error(`${join(directory, name)} is not a socket of uid ${uid}`);
	}
}

/**
 * A process that stands still answers nobody, but the kernel would still take connections for it, and whoever made one
 * would wait for ever: an edge that has not heard yet. With the socket's name gone an edge is told at once that there
 * is nobody, before it has sent anything, and asks another. A bound socket can be renamed and stays what it is.
 */
function shutDoor(directory: string): void {
	move(join(directory, 'http'), join(directory, 'http.shut'));
}

function openDoor(directory: string): void {
	move(join(directory, 'http.shut'), join(directory, 'http'));
}

function move(from: string, to: string): void {
	try {
		renameSync(from, to);
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error; // it is there already, or its process has ended
	}
}

/** A socket's file is there a moment before its program listens. */
async function reach(clock: Clock, path: string): Promise<Socket> {
	const until = clock.monotonic() + REACH_LIMIT_MS;
	for (;;) {
		try {
			return await connectTo(path);
		} catch (error) {
			if ((error as NodeJS.ErrnoException).code !== 'ECONNREFUSED' || clock.monotonic() > until) throw error;
		}
		await pause(BIRTH_POLL_MS, clock);
	}
}

const REACH_LIMIT_MS = 1_000;

function connectTo(path: string): Promise<Socket> {
	return new Promise((resolve, reject) => {
		const socket = connect(path, () => resolve(socket.off('error', reject)));
		socket.once('error', reject);
	});
}

interface Waiter {
	takes(report: Report): boolean;
	resolve(report: Report): void;
	reject(error: Error): void;
}

function control(around: ProcessSurroundings, record: InstanceRecord, life: LifeWatch, socket: Socket): InstanceProcess {
	const waiters = new Set<Waiter>();
	let unheard: Report | null = null;
	const { identity } = record;
	const sockets = socketDirectory(around.layout, record.id);
	const cgroup = record.cgroup ?? undefined;
	receiveLines(socket, (message) => {
		const report = readReport(message);
		if (!report) return around.log.warn('instance.odd_report', { id: record.id });
		unheard = report;
		for (const waiter of waiters) if (waiter.takes(report)) waiter.resolve(report);
	});
	socket.on('error', () => {}); // `close` follows
	socket.on('close', life.look);
	void life.ended.then((ending) => {
		socket.destroy();
		for (const waiter of waiters) waiter.reject(new ProcessEnded(ending));
	});
	const self: InstanceProcess = {
		record,
		address: `unix:${join(sockets, 'http')}`,
		ended: life.ended,
		get over() {
			return life.over();
		},
		tell(order) {
			unheard = null;
			sendLine(socket, order);
		},
		hear<T extends Report['type']>(
			types: readonly T[],
			limitMs?: number,
			is: (report: Extract<Report, { type: T }>) => boolean = () => true,
		) {
			return new Promise<Extract<Report, { type: T }>>((resolve, reject) => {
				const limit =
					limitMs === undefined
						? null
						: around.clock.after(limitMs, () => waiter.reject(new StartTimeout(`no answer within ${limitMs / 1000} s`)));
				const settle = (work: () => void) => {
					limit?.cancel();
					waiters.delete(waiter);
					work();
				};
				const waiter: Waiter = {
					takes: (report) => (types as readonly string[]).includes(report.type) && is(report as Extract<Report, { type: T }>),
					resolve: (report) => settle(() => resolve(report as Extract<Report, { type: T }>)),
					reject: (error) => settle(() => reject(error)),
				};
				waiters.add(waiter);
				if (unheard && waiter.takes(unheard)) waiter.resolve(unheard);
				else if (life.over()) void life.ended.then((ending) => waiter.reject(new ProcessEnded(ending)));
			});
		},
		freeze() {
			shutDoor(sockets);
			freeze(identity, cgroup);
		},
		thaw() {
			openDoor(sockets);
			thaw(identity, cgroup);
		},
		hurry: () => setNiceness(identity, 0),
		async stop(graceMs = STOP_GRACE_MS) {
			if (life.over()) return;
			thaw(identity, cgroup);
			if (graceMs > 0) signalGroup(identity, 'SIGTERM');
			const kill = around.clock.after(graceMs, () => killTree(identity, cgroup));
			const look = around.clock.every(STOP_POLL_MS, life.look);
			await life.ended;
			kill.cancel();
			look.cancel();
		},
	};
	return self;
}

const STOP_POLL_MS = 20;

import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock, Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { killTree } from '#process/control.ts';
import { readPidFiles, removePidFile } from '#process/pid-file.ts';
import { wantKey, type TaskOrder, type TaskSaid, type UpMessage } from '#wire/region.ts';
import type { Layout, Place } from './layout.ts';
import type { Shelf } from './release-files.ts';
import { scrubber } from '#log/scrub.ts';
import type { Secrets } from './secrets.ts';
import { openTaskAddress, type Behind, type TaskAddress } from './task-address.ts';
import { layCommands, taskPlace } from './task-place.ts';
import { runTask, type TaskEnding, type TaskRun } from './task-run.ts';
import { variablesOf } from './template.ts';

/**
 * Tasks that control gives to this server. One is run once for as long as this agent lives: asked again, it says how far
 * it is. Whose question does not come any more is ended: another server may have been given it.
 */
export interface Tasks {
	ordered(order: TaskOrder): void;
	stop(id: string): void;
	/** What the agent says: which instances there are, and where. */
	note(message: UpMessage): void;
	close(): Promise<void>;
}

export interface TasksOptions {
	data: string;
	server: string;
	layout: Layout;
	cgroups: string;
	shelf: Shelf;
	secrets: Secrets;
	uid: (place: Place) => number | null;
	/** Memory as for an instance; resolves with what gives it back. @throws NoRoom */
	reserve: (app: string, what: string) => Promise<() => void>;
	clock: Clock;
	log: Log;
	send(message: UpMessage): boolean;
}

const LEASE_LOOK_MS = 1_000;
/** What has ended is remembered for who has not heard of it. */
const REMEMBERED_MS = 10 * 60_000;
const MAX_TASKS = 20;
const PID_FILES = /^instance-task-/;

interface Running {
	order: TaskOrder;
	beganAt: number;
	heardAt: number;
	said: Omit<TaskSaid, 'ms'> & { ms: number | null };
	run: TaskRun | null;
	/** Why it is to end, as soon as it has begun. */
	stopped: string | null;
	over: Promise<void>;
}

export function createTasks(of: TasksOptions): Tasks {
	const { clock, log } = of;
	const tasks = new Map<string, Running>();
	const addresses = new Map<string, Map<number, string>>();
	endLeftovers(of);
	const timer: Timer = clock.every(LEASE_LOOK_MS, look);

	function look(): void {
		const now = clock.monotonic();
		for (const [id, task] of tasks) {
			if (task.said.state === 'running' && now - task.heardAt > task.order.leaseMs)
				end(task, 'was ended: control did not ask for it any more');
			else if (task.said.state !== 'running' && now - task.heardAt > REMEMBERED_MS) tasks.delete(id);
		}
	}

	function end(task: Running, why: string): void {
		task.stopped ??= why;
		task.run?.stop(why);
	}

	function say({ beganAt, said }: Running): void {
		of.send({ ...said, ms: said.ms ?? clock.monotonic() - beganAt });
	}

	function begin(order: TaskOrder): Running {
		const { id, region, app, environment } = order;
		const now = clock.monotonic();
		const said = {
			type: 'taskSaid' as const,
			id,
			region,
			app,
			environment,
			server: of.server,
			state: 'running' as const,
			detail: '',
			ms: null,
		};
		const task: Running = { order, beganAt: now, heardAt: now, said, run: null, stopped: null, over: Promise.resolve() };
		task.over = carryOut(task).then(
			(ending) => conclude(task, ending),
			(error: unknown) => {
				log.warn('task.not_run', { id, error });
				conclude(task, { passed: false, detail: error instanceof Error ? error.message : String(error) });
			},
		);
		return task;
	}

	function conclude(task: Running, { passed, detail }: TaskEnding): void {
		const { id } = task.order;
		task.said = { ...task.said, state: passed ? 'passed' : 'failed', detail, ms: clock.monotonic() - task.beganAt };
		log.info('task.ended', { id, passed, ms: task.said.ms });
		say(task);
	}

	async function carryOut(task: Running): Promise<TaskEnding> {
		const { order } = task;
		const name = nameOf(order.id);
		const place = taskPlace(of.layout, order.release, name);
		let address: TaskAddress | null = null;
		const release = await of.reserve(order.release.app, `"${order.command}"`);
		log.info('task.begins', { id: order.id, kind: order.kind, release: order.release.release });
		try {
			rmSync(place.directory, { recursive: true, force: true });
			mkdirSync(place.directory, { recursive: true });
			await of.shelf.lay(order.release, join(place.directory, 'root'));
			layCommands(of.layout, order.release, place);
			const secrets = order.secrets ? (await of.secrets.of(order.release)).list : [];
			address = await addressFor(order);
			const env = environmentOf(order, place.path, secrets, address);
			if (task.stopped !== null) return { passed: false, detail: `${order.command} ${task.stopped}` };
			const { region, release: spec, command, timeoutMs } = order;
			const around = { ...of, uid: of.uid(spec) };
			task.run = await runTask(around, { name, region, spec, command, env, place, scrub: scrubber(secrets), timeoutMs });
			if (task.stopped !== null) task.run.stop(task.stopped);
			return await task.run.ended;
		} finally {
			release();
			address?.close();
			rmSync(place.directory, { recursive: true, force: true });
		}
	}

	/** null: it asks nobody. @throws when there is nobody to ask */
	function addressFor(order: TaskOrder): Promise<TaskAddress> | null {
		if (order.kind !== 'smoke-prepared' && order.kind !== 'smoke-live') return null;
		const behind: Behind | null = order.edge ?? instanceOf(order);
		if (behind) return openTaskAddress(behind);
		throw new Error(`no instance of v${order.release.release} that could be asked runs on ${of.server}`);
	}

	function instanceOf(order: TaskOrder): Behind | null {
		const socketPath = addresses.get(wantKey(order))?.get(order.release.release);
		return socketPath === undefined ? null : { socketPath };
	}

	function environmentOf(
		{ release: spec, region, kind, env }: TaskOrder,
		path: readonly string[],
		secrets: readonly { name: string; value: string }[],
		address: TaskAddress | null,
	): Record<string, string> {
		return {
			HOME: '/tmp',
			NODE_ENV: 'production',
			...spec.env,
			...env,
			...Object.fromEntries(secrets.map(({ name, value }) => [name, value])),
			PATH: path.join(':'),
			JIBE_APP: spec.app,
			JIBE_ENVIRONMENT: spec.environment,
			JIBE_TASK: kind,
			...(address ? { JIBE_URL: address.url } : {}),
			...variablesOf({ region, spec }, of.layout, of.uid(spec)),
		};
	}

	return {
		ordered(order) {
			if (order.server !== of.server) return;
			let task = tasks.get(order.id);
			if (!task) {
				if (tasks.size >= MAX_TASKS) look();
				task = begin(order);
				tasks.set(order.id, task);
			}
			task.heardAt = clock.monotonic();
			say(task);
		},
		stop(id) {
			const task = tasks.get(id);
			if (task) end(task, 'was ended: the deployment does not wait for it any more');
		},
		note(message) {
			if (message.type !== 'instances') return;
			for (const group of message.groups) {
				const able = group.instances.filter(({ healthy, state }) => healthy && (state === 'prepared' || state === 'serving'));
				addresses.set(
					wantKey(group),
					new Map(
						able.flatMap(({ release, address }): [number, string][] =>
							address?.startsWith('unix:') ? [[release, address.slice('unix:'.length)]] : [],
						),
					),
				);
			}
		},
		async close() {
			timer.cancel();
			for (const task of tasks.values()) end(task, 'was ended: the agent of its server stopped');
			await Promise.all([...tasks.values()].map(({ over }) => over));
		},
	};
}

/** Of its process, directory, cgroup and log: `task-migrate-before-7m4k92xy-1`. */
function nameOf(id: string): string {
	const [deployment = '', kind = '', attempt = ''] = id.replaceAll('dpl_', '').split('/');
	return `task-${kind}-${deployment}-${attempt}`.replace(/[^a-z0-9-]/g, '-');
}

/** Of an agent that was killed: nobody reads what they print, nor hears how they end. */
function endLeftovers({ data, layout, log }: TasksOptions): void {
	for (const { name, alive, cgroup, ...identity } of readPidFiles(data)) {
		if (!PID_FILES.test(name)) continue;
		if (alive) log.warn('task.interrupted', { name });
		killTree(identity, cgroup);
		removePidFile(data, name);
	}
	const apps = join(layout.home, 'apps');
	for (const app of namesIn(apps))
		for (const environment of namesIn(join(apps, app))) rmSync(join(apps, app, environment, 'tasks'), { recursive: true, force: true });
}

function namesIn(directory: string): string[] {
	try {
		return readdirSync(directory);
	} catch {
		return []; // nothing has run here yet
	}
}

import { copyFileSync, renameSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock, type MonotonicMs, type Timer } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { signalProcess } from '#process/control.ts';
import { isAlive, type Identity } from '#process/identity.ts';
import { readPidFile, removePidFile, writeStarting } from '#process/pid-file.ts';
import { spawnDetached } from '#process/spawn.ts';
import { programTitle } from '#process/title.ts';
import type { Found } from './processes.ts';
import { nodeOptions, programEnvironment, scriptOf, type Program } from './programs.ts';

/** Keeps one program alive: adopts the one that runs, starts the one that is missing, starts again what died. */

/** How often an adopted program, which is nobody's child, is looked at. */
const LOOK_MS = 250;
const BACKOFF_FIRST_MS = 100;
const BACKOFF_LONGEST_MS = 10_000;
/** Having lived this long, it starts again at once when it dies. */
const GOOD_LIFE_MS = 30_000;
const OLD_LOG_BYTES = 32 * 1024 * 1024;
const STOP_WITHIN_MS = 5_000;
const CLEAN = 'exit code 0';
/** An edge lets requests end that are in flight (30 s); the others are gone at once. */
const REPLACE_WITHIN_MS = 35_000;

export interface KeeperEvents {
	/** It ended without being told to; `inMs`: when it is started again. */
	ended(program: Program, how: string, inMs: number): void;
	/** False: it stays as it is until it is begun again. Absent: it is started again, whatever it ended of. */
	again?(program: Program): boolean;
}

export class Keeper {
	readonly program: Program;
	/** The living process, as far as is known. */
	identity: Identity | null = null;
	startedAt: MonotonicMs = 0;
	/** Ends since it last lived long. */
	failures = 0;
	readonly #data: string;
	readonly #log: Log;
	readonly #events: KeeperEvents;
	#stopping = false;
	readonly #logFile: string;
	#timer: Timer | null = null;

	constructor(program: Program, data: string, log: Log, events: KeeperEvents) {
		this.program = program;
		this.#data = data;
		this.#log = log.with({ name: program.name });
		this.#events = events;
		this.#logFile = join(data, 'logs', `${program.name}.log`);
	}

	/** Takes over the one that runs, whatever it was started with, or starts it. `found`: what runs of this installation. */
	async begin(found: readonly Found[]): Promise<'adopted' | 'started'> {
		const running = found.find((one) => one.name === this.program.name && isAlive(one));
		if (running !== undefined) {
			this.identity = { pid: running.pid, start: running.start };
			this.startedAt = systemClock.monotonic();
			this.#log.info('adopted', { pid: running.pid });
			this.#lookLater();
			return 'adopted';
		}
		await this.#start();
		return 'started';
	}

	/** Ends the one that runs, which has time to finish what it has in flight, and starts today's. */
	async replace(): Promise<void> {
		const running = this.identity;
		// So that its end is not taken for one that nobody wanted.
		this.identity = null;
		this.#timer?.cancel();
		if (running !== null) await endProcess(running, REPLACE_WITHIN_MS);
		if (!this.#stopping) await this.#start();
	}

	/** It lives and has said that it is ready, which it does by writing its pid file itself. */
	get ready(): boolean {
		const file = readPidFile(this.#data, this.program.name);
		return file !== null && file.alive && !file.starting && file.pid === this.identity?.pid;
	}

	/** From now on it stays dead when it dies. */
	release(): void {
		this.#stopping = true;
		this.#timer?.cancel();
	}

	/** Between starts; the programs append, so that the file may be cut under them. */
	trimLog(): void {
		setAside(this.#logFile, 'copy');
	}

	/** Kills a process that is frozen; it is started again like one that died. */
	kill(why: string): void {
		if (this.identity === null) return;
		this.#log.warn('killed', { pid: this.identity.pid, why });
		signalProcess(this.identity, 'SIGKILL');
	}

	async #start(): Promise<void> {
		const { role, name, label, settings } = this.program;
		setAside(this.#logFile, 'move');
		removePidFile(this.#data, name);
		const { identity, child } = await spawnDetached({
			argv0: programTitle(role),
			command: process.execPath,
			args: [...nodeOptions(role), ...scriptOf(role), ...(label === null ? [] : [label]), this.#data],
			env: programEnvironment(this.#data, role, settings),
			cwd: this.#data,
			stderr: this.#logFile,
		});
		// At once, so that it is found when this process is killed before the program writes the file itself.
		if (!writeStarting(this.#data, name, identity)) this.#log.warn('pid_file.not_written', { pid: identity.pid, why: 'the disk is full' });
		this.identity = identity;
		this.startedAt = systemClock.monotonic();
		this.#log.info('started', { pid: identity.pid });
		child.once('exit', (code, signal) => this.#ended(identity, signal ?? `exit code ${code}`));
	}

	#lookLater(): void {
		this.#timer = systemClock.after(LOOK_MS, () => {
			if (this.#stopping || this.identity === null) return;
			if (isAlive(this.identity)) this.#lookLater();
			else this.#ended(this.identity, 'gone');
		});
	}

	#ended(identity: Identity, how: string): void {
		if (this.#stopping || this.identity?.pid !== identity.pid) return;
		this.identity = null;
		if (systemClock.monotonic() - this.startedAt > GOOD_LIFE_MS) this.failures = 0;
		const delayMs = this.failures === 0 ? 0 : Math.min(BACKOFF_FIRST_MS * 2 ** (this.failures - 1), BACKOFF_LONGEST_MS);
		if (this.#events.again?.(this.program) === false) {
			this.failures = how === CLEAN ? 0 : this.failures + 1;
			this.#log.info('ended', { pid: identity.pid, how });
			return;
		}
		this.failures++;
		this.#log.warn('ended', { pid: identity.pid, how, againInMs: delayMs });
		this.#events.ended(this.program, how, delayMs);
		this.#startLater(delayMs);
	}

	#startLater(delayMs: number): void {
		this.#timer = systemClock.after(delayMs, () => {
			if (this.#stopping) return;
			this.#start().catch((error: unknown) => {
				const againInMs = Math.min(BACKOFF_FIRST_MS * 2 ** this.failures++, BACKOFF_LONGEST_MS);
				this.#log.error('start_failed', { error, againInMs });
				this.#startLater(againInMs);
			});
		});
	}
}

/** SIGTERM, and SIGKILL when it takes too long. */
export async function endProcess(identity: Identity, withinMs: number = STOP_WITHIN_MS): Promise<void> {
	if (!signalProcess(identity, 'SIGTERM')) return;
	if (await hasEnded(identity, withinMs)) return;
	signalProcess(identity, 'SIGKILL');
	await hasEnded(identity, STOP_WITHIN_MS);
}

const ENDED_LOOK_MS = 5;

export async function hasEnded(identity: Identity, withinMs: number): Promise<boolean> {
	const deadline = systemClock.monotonic() + withinMs;
	while (isAlive(identity)) {
		if (systemClock.monotonic() > deadline) return false;
		await new Promise<void>((resolve) => systemClock.after(ENDED_LOOK_MS, resolve));
	}
	return true;
}

/** A log that has grown large begins anew; the one before is kept. */
function setAside(file: string, how: 'move' | 'copy'): void {
	const size = statSync(file, { throwIfNoEntry: false })?.size ?? 0;
	if (size <= OLD_LOG_BYTES) return;
	if (how === 'move') return renameSync(file, `${file}.1`);
	copyFileSync(file, `${file}.1`);
	truncateSync(file);
}

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import { createLog, type Log } from '#log/log.ts';
import { isolation } from '#process/isolation.ts';
import { readPidFile, removePidFile } from '#process/pid-file.ts';
import { EXIT, Failure } from '../failure.ts';
import { claim, takeOver } from './claim.ts';
import { programReady } from './control.ts';
import { watchFrozen } from './frozen.ts';
import type { Ground } from './ground.ts';
import { chooseLayout, openData, remembered, type UpSettings } from './installation.ts';
import { endProcess, Keeper } from './keeper.ts';
import { LocalGround } from './local.ts';
import { programDigest, type Program } from './programs.ts';
import { findProcesses, type Found } from './processes.ts';
import { oneServes, serves, sharesPorts } from './serving.ts';
import { tellParent, type Ready } from './told.ts';

/** The program `up`: starts the others, and keeps them alive until it is told to stop. */
export async function main(settings: UpSettings): Promise<void> {
	const log = createLog({ role: 'up' });
	let house: House | null = null;
	try {
		openData(settings.data);
		if (settings.takeOver) await takeOver(settings.data);
		claim(settings.data);
		for (const line of isolation().missing) tellParent({ warning: line });
		const ground = await groundOf(settings, log);
		house = new House(ground, log);
		stopOnSignals(house, log);
		await house.open();
		tellParent({ ready: house.describe() });
		house.watch();
		stopping ??= import('./stop.ts');
	} catch (error) {
		log.error('failed', { error });
		house?.release();
		// What was taken over goes on serving; what only this attempt started would be in nobody's hands.
		if (house?.began) await stopEverything(settings.data).catch((cause: unknown) => log.error('stop', { error: cause }));
		tellParent({ failed: told(error) });
		removeOwnClaim(settings.data);
		process.exit(EXIT.jibe);
	}
}

/** What a server needs is loaded where there is one: control's own machine has no use for it. */
async function groundOf(settings: UpSettings, log: Log): Promise<Ground> {
	if (!existsSync(join(settings.data, 'server', 'server.json'))) return new LocalGround(await chooseLayout(settings), log);
	const { JoinedGround } = await import('./joined.ts');
	return new JoinedGround(settings.data, log);
}

/** A program that ends this often before everything is ready will not get any better. */
const HOPELESS_AFTER_FAILURES = 4;
const LOG_TAIL_LINES = 40;
const SHOWN_LINES = 5;
const SHOWN_CHARS = 300;
/** Of a program, what it was started with. */
const UNKNOWN = '';

class House {
	readonly ground: Ground;
	readonly #log: Log;
	readonly #keepers: Keeper[];
	/** Programs that ran before and were taken over. */
	adopted = 0;
	/** Nothing of this installation ran before. */
	began = false;
	/** Of these, those that were not started as they are wanted now: replaced one after the other. */
	readonly #stale = new Set<Keeper>();
	/** What each program was started with. */
	#runs: Record<string, string> = {};

	constructor(ground: Ground, log: Log) {
		this.ground = ground;
		this.#log = log;
		const events = {
			ended: (program: Program, how: string) => tellParent({ said: `${program.name} ended (${how}) and is started again` }),
		};
		this.#keepers = ground.programs.map((program) => new Keeper(program, ground.data, log, events));
	}

	/** Everything runs and is connected once this resolves. */
	async open(): Promise<void> {
		const { ground } = this;
		const before = remembered(ground.data)?.programs;
		const found = before === undefined ? [] : findProcesses(ground.data);
		this.began = found.every(({ role }) => role === 'up');
		await this.#endOthers(Object.keys(before ?? {}).filter((name) => !this.#keepers.some(({ program }) => program.name === name)));
		this.#runs = Object.fromEntries(this.#keepers.map(({ program: { name } }) => [name, before?.[name] ?? UNKNOWN]));
		ground.remember(this.#runs);
		const given = () => this.#giveUpWhenHopeless();
		await ground.open({
			keepers: this.#keepers,
			given,
			begin: (keeper) => this.#begin(keeper, found),
			replaceStale: () => this.#replaceStale(given),
		});
	}

	/**
	 * What runs as it is wanted, or of another version or with other settings, is taken over: nothing ends before everything
	 * runs. But for control, which the others can do without.
	 */
	async #begin(keeper: Keeper, found: readonly Found[]): Promise<void> {
		const { role, name } = keeper.program;
		if ((await keeper.begin(found)) === 'started') return this.#note(keeper, programDigest(keeper.program));
		this.adopted++;
		if (this.#runs[name] === programDigest(keeper.program)) return;
		if (role === 'control') await this.#replace(keeper);
		else this.#stale.add(keeper);
	}

	/** One after the other; of the edges that share ports never the last one that serves. */
	async #replaceStale(given: () => void): Promise<void> {
		const edges = this.#keepers.filter(({ program }) => program.role === 'edge');
		for (const keeper of this.#keepers.filter((one) => this.#stale.has(one) && !edges.includes(one))) {
			await this.#replace(keeper);
			await programReady(keeper, given);
		}
		for (;;) {
			const stale = edges.filter((one) => this.#stale.has(one));
			if (stale.length === 0) return;
			// An upgrade that was interrupted may have left one that is about to end, or has only begun.
			const serving = await Promise.all(stale.map(({ program }) => serves(this.ground, program)));
			const next = stale[Math.max(0, serving.indexOf(false))]!;
			const beside = edges.filter((one) => one !== next && sharesPorts(one.program, next.program));
			await oneServes(this.ground, beside.map(({ program }) => program), given); // prettier-ignore
			await this.#replace(next);
			await programReady(next, given);
		}
	}

	async #replace(keeper: Keeper): Promise<void> {
		tellParent({ said: `Replacing ${keeper.program.name}…` });
		// What is killed meanwhile is followed by a supervisor that replaces it again, to whichever version that one goes.
		this.#note(keeper, UNKNOWN);
		await keeper.replace();
		this.#stale.delete(keeper);
		this.#note(keeper, programDigest(keeper.program));
	}

	#note({ program }: Keeper, digest: string): void {
		this.#runs[program.name] = digest;
		this.ground.remember(this.#runs);
	}

	/** Kills what is frozen, for as long as this process lives. */
	watch(): void {
		const { ground } = this;
		watchFrozen(
			this.#keepers.map((keeper) => ({
				identity: () => keeper.identity,
				...ground.health(keeper.program),
				frozen: (why) => {
					tellParent({ said: `${keeper.program.name} is frozen (${why}) and is replaced` });
					keeper.kill(why);
				},
			})),
		);
		// The one timer that keeps this process alive when all programs were adopted.
		const look = () => {
			for (const keeper of this.#keepers) keeper.trimLog();
			ground.look().catch((error: unknown) => this.#log.warn('look', { error }));
			systemClock.after(ground.lookEachMs, look);
		};
		look();
	}

	release(): void {
		this.ground.release?.();
		for (const keeper of this.#keepers) keeper.release();
	}

	describe(): Ready {
		return { ...this.ground.describe(), pid: process.pid, adopted: this.adopted, programs: this.#keepers.length };
	}

	/** Programs of an earlier layout, such as the depot of a region that is gone. */
	async #endOthers(names: readonly string[]): Promise<void> {
		await Promise.all(
			names.map(async (name) => {
				const running = readPidFile(this.ground.data, name);
				if (running?.alive) await endProcess(running);
				removePidFile(this.ground.data, name);
			}),
		);
	}

	#giveUpWhenHopeless(): void {
		const hopeless = this.#keepers.find((keeper) => keeper.failures >= HOPELESS_AFTER_FAILURES);
		if (hopeless === undefined) return;
		const { name } = hopeless.program;
		const file = join(this.ground.data, 'logs', `${name}.log`);
		this.release();
		throw new Failure('program_fails', EXIT.jibe, `${name} ends as soon as it is started; the last it said:\n${tail(file)}`, {
			hint: `all of it is in ${file}`,
		});
	}
}

function stopOnSignals(house: House, log: Log): void {
	let stopped = false;
	const leave = (code: number) => {
		removePidFile(house.ground.data, 'up');
		tellParent({ stopped: true });
		process.exit(code);
	};
	const stop = (signal: string) => {
		if (stopped) return;
		stopped = true;
		log.info('stopping', { signal });
		house.release();
		stopEverything(house.ground.data).then(
			() => leave(EXIT.done),
			(error: unknown) => {
				log.error('stop', { error });
				leave(EXIT.jibe);
			},
		);
	};
	for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop(signal));
	// From `jibe down`, which ends the others itself.
	process.on('SIGUSR2', () => leave(EXIT.done));
}

/** Loaded after everything runs, and before an upgrade may have taken the file away. */
let stopping: Promise<{ stopInstallation: (data: string, tell: (line: string) => void) => Promise<number> }> | null = null;

async function stopEverything(data: string): Promise<void> {
	stopping ??= import('./stop.ts');
	const { stopInstallation } = await stopping;
	await stopInstallation(data, (line) => tellParent({ now: line }));
}

function removeOwnClaim(data: string): void {
	if (readPidFile(data, 'up')?.pid === process.pid) removePidFile(data, 'up');
}

function told(error: unknown): { code: string; exit: 0 | 1 | 2 | 3 | 4 | 5; message: string; hint: string | null } {
	if (error instanceof Failure) return { code: error.code, exit: error.exit, message: error.message, hint: error.hint };
	const message = error instanceof Error ? error.message : String(error);
	return { code: 'internal', exit: EXIT.jibe, message: `jibe up failed: ${message}`, hint: null };
}

/** The error that Node printed as the last thing, without its stack; else the last lines. */
function tail(file: string): string {
	const lines = readFileSync(file, 'utf8').trimEnd().split('\n').slice(-LOG_TAIL_LINES);
	const error = lines.findLast((line) => /^(\w*Error\b.*: |\w+(?: \[\w+\])?: )/.test(line));
	return (error === undefined ? lines.slice(-SHOWN_LINES) : [error]).map((line) => `  ${line.slice(0, SHOWN_CHARS)}`).join('\n');
}

import { pause } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { signalProcess } from '#process/control.ts';
import { findProcesses, type Found } from './processes.ts';
import { watchFrozen } from './frozen.ts';
import { endProcess, Keeper } from './keeper.ts';
import { programReady } from './control.ts';
import type { Program } from './programs.ts';
import { tellParent } from './told.ts';

/**
 * The builders of control's own machine: as many as there is work for. Those up to `min` run always; the others are started when
 * more waits in the queue than waiting builders can take, and end by themselves when nothing came for a while.
 */
export interface PoolOptions {
	data: string;
	/** In the order in which they are started. */
	programs: readonly Program[];
	min: number;
	/** Answers as soon as more can be begun than builders wait, or after a while. */
	demand: () => Promise<{ claimable: number; idle: number }>;
	/** Its credential is there, and will last. */
	admit: (program: Program) => Promise<void>;
	log: Log;
}

/** To connect and ask for a job, before it is judged whether another one is needed. */
const SETTLE_MS = 500;
const AGAIN_MS = 1_000;
const LONGEST_PAUSE_MS = 30_000;
/** Only one that is stopped is found so; whatever it was building is given to another. */
const FROZEN_AFTER_MS = 5_000;

export class BuilderPool {
	readonly #of: PoolOptions;
	readonly #keepers: Keeper[];
	#released = false;

	constructor(of: PoolOptions) {
		this.#of = of;
		const ended = (program: Program, how: string) => tellParent({ said: `${program.name} ended (${how}) and is started again` });
		this.#keepers = of.programs.map(
			(program, n) => new Keeper(program, of.data, of.log, n < of.min ? { ended } : { ended, again: () => false }),
		);
	}

	/** Resolves once those that always run were started; what is needed beyond them comes and goes from then on. */
	async open(): Promise<void> {
		const found = findProcesses(this.#of.data).filter(({ role }) => role === 'builder');
		await this.#endOthers(found);
		for (const [n, keeper] of this.#keepers.entries()) {
			const runs = found.some(({ name }) => name === keeper.program.name);
			if (!runs && n >= this.#of.min) continue;
			await this.#of.admit(keeper.program);
			// It may be of another version, or have other settings: it leaves after its job.
			if ((await keeper.begin(found)) === 'adopted' && keeper.identity) signalProcess(keeper.identity, 'SIGUSR2');
		}
		watchFrozen(
			this.#keepers.map((keeper) => ({
				identity: () => keeper.identity,
				target: null,
				limitMs: FROZEN_AFTER_MS,
				frozen: (why) => keeper.kill(why),
			})),
		);
		if (this.#keepers.length > this.#of.min) void this.#grow();
	}

	release(): void {
		this.#released = true;
		for (const keeper of this.#keepers) keeper.release();
	}

	trimLogs(): void {
		for (const keeper of this.#keepers) keeper.trimLog();
	}

	async #grow(): Promise<void> {
		while (!this.#released) {
			try {
				const { claimable, idle } = await this.#of.demand();
				const asleep = this.#keepers.filter((keeper) => keeper.identity === null);
				const needed = asleep.slice(0, Math.max(0, claimable - idle));
				if (this.#released) return;
				await Promise.all(needed.map((keeper) => this.#start(keeper)));
				if (needed.length > 0)
					await pause(Math.min(SETTLE_MS * 2 ** Math.max(...needed.map(({ failures }) => failures)), LONGEST_PAUSE_MS));
				// All there may be are at work: the answer would come at once again.
				else if (claimable > idle) await pause(AGAIN_MS);
			} catch (error) {
				this.#of.log.warn('builders.demand', { error });
				await pause(AGAIN_MS);
			}
		}
	}

	async #start(keeper: Keeper): Promise<void> {
		await this.#of.admit(keeper.program);
		if (this.#released) return;
		await keeper.begin([]);
		await programReady(keeper, () => {});
	}

	/** Of an earlier pool that was larger. */
	async #endOthers(found: readonly Found[]): Promise<void> {
		const own = new Set(this.#of.programs.map(({ name }) => name));
		await Promise.all(found.filter(({ name }) => !own.has(name)).map((one) => endProcess(one)));
	}
}

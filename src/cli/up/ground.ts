import type { Keeper } from './keeper.ts';
import type { Program } from './programs.ts';
import type { Target } from './frozen.ts';
import type { Ready } from './told.ts';

/** What a supervisor keeps running, and how that gets going: the programs of control's own machine, or of a joined server. */
export interface Ground {
	readonly data: string;
	readonly programs: readonly Program[];
	/** Writes what `jibe up` finds the next time; `runs`: what each program was started with. */
	remember(runs: Record<string, string>): void;
	/** Has everything started, in the order that it needs; resolves once all of it runs and is connected. */
	open(starting: Starting): Promise<void>;
	/** How a program is asked whether it is alive. */
	health(program: Program): { target: Target | null; limitMs: number };
	/** Renews what is about to expire; asked again after `lookEachMs`. */
	look(): Promise<void>;
	readonly lookEachMs: number;
	/** What it keeps besides its programs is kept no more. */
	release?(): void;
	describe(): Omit<Ready, 'pid' | 'adopted' | 'programs'>;
}

export interface Starting {
	keepers: readonly Keeper[];
	/** Starts it, or takes over the one that runs. */
	begin: (keeper: Keeper) => Promise<void>;
	/** Replaces, one after the other, what runs but not as it is wanted. */
	replaceStale: () => Promise<void>;
	/** Throws when waiting has no point any more. */
	given: () => void;
}

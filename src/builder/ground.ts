import type { Digest } from '#digest/digest.ts';
import type { Log } from '#log/log.ts';
import type { BuildJob, StepReport } from '#wire/builds.ts';
import type { AppConfig } from '#wire/config.ts';
import type { PlannedStep } from '#wire/steps.ts';
import type { Attempt } from './attempt.ts';
import type { Mount, OutputFile, Reach, Sandboxes } from './sandbox/sandbox.ts';

/** All that the steps of one build stand on: its source with its dependencies, and what a builder has for all builds. */
export interface Ground {
	/** Says how it goes, and is stopped by whoever stops the build. */
	attempt: Attempt;
	job: BuildJob;
	config: AppConfig;
	/** The whole source on disk: not to be written to. */
	checkout: string;
	/** Of the app inside it, '' for its root. */
	directory: string;
	/** Laid over the source in every sandbox: installed dependencies. */
	layers: readonly string[];
	/** Shown read-only in every sandbox. */
	mounts: readonly Mount[];
	/** Shown in every sandbox, and kept: what compilers made before. */
	caches: readonly Mount[];
	/** Of every step: what finds the dependencies. `path` comes before the toolchains' own. */
	env: Readonly<Record<string, string>>;
	path: readonly string[];
	/** Digest of the keys of all installed dependencies; null: there are none. */
	dependencies: Digest | null;
	/** @throws BuildFault where this machine has none and running without was not allowed. */
	sandboxes: () => Promise<Sandboxes>;
	/** Where steps that may use the network may connect to. */
	reach: () => Promise<Reach>;
	/** Of this machine's tools: part of a step's key. */
	toolchain: Digest;
	/** Of the commit, wall seconds; 0 where there is none. */
	commitTimeS: number;
	/** A directory of this build alone, removed after it. */
	temporary: string;
	log: Log;
}

/** How the steps of one kind ended. */
export interface Ran {
	/** What they made, `path` relative to the source; readable until `StepRunner.close`. */
	outputs: OutputFile[];
	reports: StepReport[];
	savedBytes: number;
	savedMs: number;
}

/** Runs what is planned, what does not need one another side by side, from the cache where that has it. */
export interface StepRunner {
	/** Those of one kind, after those that were run before. @throws BuildFault when one fails, Stopped */
	run(steps: readonly PlannedStep[]): Promise<Ran>;
	close(): Promise<void>;
}

export type OpenSteps = (ground: Ground) => Promise<StepRunner>;

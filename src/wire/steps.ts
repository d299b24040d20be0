import { z } from 'zod';
import { digest, environmentName } from './names.ts';
import { attemptOf } from './builds.ts';
import { durationMs, stepName, type AppConfig, type StepConfig } from './config.ts';

/** The steps of `build` and `test` as they are run, and what builders and control say to each other of those that were run before. */

export interface PlannedStep {
	name: string;
	/** gate: a test that holds back only promotion. */
	kind: 'build' | 'test' | 'gate';
	run: string;
	/** Globs below the app's directory; null: everything. */
	inputs: string[] | null;
	/** Globs below the app's directory; null: whatever it wrote. */
	outputs: string[] | null;
	env: Record<string, string>;
	secrets: string[];
	network: boolean;
	timeoutMs: number;
	/** Those that come right before it, also those that the file does not name. */
	needs: string[];
	commitTime: boolean;
	strip: boolean;
}

/** Tests come after all of `build`; everything else is ready to run unless it says what it needs. */
export function planSteps({ build, test, types }: Pick<AppConfig, 'build' | 'test' | 'types'>): PlannedStep[] {
	const builds = named('build', build).map(([name, step]) => planned(name, 'build', step, []));
	const names = builds.map(({ name }) => name);
	const tests = named('test', test).map(([name, step]) =>
		planned(name, typeof step === 'object' && step.gate ? 'gate' : 'test', step, names),
	);
	return [...builds, ...tests, ...(types ? [planned('types', 'gate', TYPES_COMMAND, names)] : [])];
}

const TYPES_COMMAND = 'tsc --noEmit';
const BARE_TIMEOUT_MS = 30 * 60_000;

function named(key: string, steps: AppConfig['test']): [string, StepConfig | string][] {
	return steps === undefined ? [] : typeof steps === 'string' ? [[key, steps]] : Object.entries(steps);
}

function planned(name: string, kind: PlannedStep['kind'], step: StepConfig | string, after: string[]): PlannedStep {
	const said = typeof step === 'string' ? { run: step } : step;
	const {
		inputs = null,
		outputs,
		env = {},
		secrets = [],
		network = false,
		timeout,
		needs = [],
		commitTime = false,
		strip = false,
	} = said as Partial<StepConfig>;
	return {
		name,
		kind,
		run: said.run,
		inputs,
		outputs: outputs ?? (kind === 'build' ? null : []),
		env,
		secrets,
		network,
		timeoutMs: timeout === undefined ? BARE_TIMEOUT_MS : durationMs(timeout),
		needs: [...new Set([...after, ...needs])],
		commitTime,
		strip,
	};
}

const MAX_INPUT_BYTES = 64 * 1024;
const shortText = z.string().max(MAX_INPUT_BYTES);

/** All that a step's result depends on: its digest is the step's key (`#build/steps/key.ts`). */
export const stepParts = z.strictObject({
	format: z.literal(1),
	run: shortText,
	env: z.record(z.string(), shortText),
	/** Names: a value must not be told by what it is digested to. */
	secrets: z.array(z.string()),
	network: z.boolean(),
	outputs: z.array(z.string()).nullable(),
	strip: z.boolean(),
	/** Of the app within the source. */
	directory: z.string(),
	/** Seconds: what SOURCE_DATE_EPOCH says. */
	epoch: z.int(),
	platform: z.string(),
	/** Digest of what the builder's machine offers; `isolated` or `open`. */
	toolchain: z.string(),
	sandbox: z.enum(['isolated', 'open']),
	/** Digest of the installed dependencies. */
	dependencies: digest.nullable(),
	/** Digests of what the steps before it made, by their names. */
	needs: z.record(stepName, digest),
	/** Digest of the list of files it sees. */
	inputs: digest,
});
export type StepParts = z.infer<typeof stepParts>;

/** What is kept of a step that was run. */
export const stepEntry = z.object({
	key: digest,
	exitCode: z.int(),
	/** Of what it made, as a chain's next link; null: it made nothing. */
	outputs: digest.nullable(),
	outputBytes: z.int(),
	/** Blobs, zstd: the tar of what it made, and its log. */
	archive: digest.nullable(),
	log: digest.nullable(),
	/** How long it took. */
	ms: z.number(),
	summary: z.string().max(8_000).nullable(),
	savedBytes: z.int(),
	builder: z.string(),
	/** Wall ms. */
	at: z.number(),
});
export type StepEntry = z.infer<typeof stepEntry>;

/** `POST …/builds/{id}/steps/find`: notes that the step is run with these, and answers what is known of it. */
export const stepQuery = attemptOf.extend({ name: stepName, key: digest, parts: stepParts });
/** `inputs`: control does not have the list of files yet. */
export const stepAnswer = z.object({
	entry: stepEntry.nullable(),
	inputs: z.boolean(),
	/** Small blobs of the entry, base64: they need not be asked for. */
	blobs: z.record(z.string(), z.string()).default({}),
});

/**
 * Header of `PUT …/builds/{id}/steps`, an upload whose blobs are the archive, the log and the list of inputs, as far as there are
 * any. `stored`: others see it; a step that failed is kept for `jibe why` alone.
 */
export const stepUpload = attemptOf.extend({ name: stepName, entry: stepEntry, parts: stepParts });
export const stepStored = z.object({ stored: z.boolean() });

/** `POST …/builds/{id}/steps/corrupt`: what was read under this key is not what was stored. It is forgotten. */
export const stepCorrupt = attemptOf.extend({ key: digest });

/** `GET /api/v1/apps/{app}/steps/{step}/why?environment=` */
export const whyQuery = z.object({ environment: environmentName, deployment: z.string().optional() });
export const whyAnswer = z.object({
	step: z.string(),
	run: z.object({ deployment: z.string(), at: z.number(), cached: z.boolean(), key: digest }),
	/** The run before that it is compared with; null: there was none. */
	before: z.object({ deployment: z.string(), at: z.number(), key: digest }).nullable(),
	changes: z.array(z.object({ part: z.string(), name: z.string().nullable(), before: z.string().nullable(), now: z.string().nullable() })),
	/** Changes beyond those listed. */
	more: z.int(),
});
export type WhyAnswer = z.infer<typeof whyAnswer>;

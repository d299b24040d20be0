import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import { sha256, type Digest } from '#digest/digest.ts';
import { encodeInputs, keyOf, type Input } from '#build/steps/key.ts';
import type { StepReport } from '#wire/builds.ts';
import type { PlannedStep, StepEntry, StepParts } from '#wire/steps.ts';
import { BuildFault } from '../fault.ts';
import type { Ground, OpenSteps, Ran, StepRunner } from '../ground.ts';
import type { OutputFile } from '../sandbox/sandbox.ts';
import { Damaged, unpack } from './archive.ts';
import { StepCache, type Blobs } from './cache.ts';
import { execute, type Executed } from './execute.ts';
import { describe, faultOf, type Failure } from './fault.ts';
import { Places } from './places.ts';
import { Printed } from './printed.ts';
import { readSource, select, type SourceFiles } from './source.ts';

export const openSteps: OpenSteps = async (ground) => new Steps(ground, readSource(ground.checkout));

/** A step that has ended well. */
interface Done {
	step: PlannedStep;
	/** Of what it made. */
	digest: Digest | null;
	/** What it made, as a directory to lay over the source. */
	directory: string;
	files: OutputFile[];
	savedBytes: number;
	savedMs: number;
	report: StepReport;
}

type Outcome = { done: Done } | { failure: Failure };

/** What a step's run is called by, and what it saw. */
interface Keyed {
	key: Digest;
	parts: StepParts;
	inputs: Input[];
	list: Buffer;
}

/** Each step waits for those it needs, and for its turn; then it is found in the cache, or run and kept there. */
class Steps implements StepRunner {
	readonly #ground: Ground;
	readonly #source: SourceFiles;
	readonly #cache: StepCache;
	readonly #places = new Places(Math.max(2, availableParallelism()));
	readonly #outcomes = new Map<string, Promise<Outcome>>();
	readonly #stop = new AbortController();
	#keeping: Promise<void>[] = [];

	constructor(ground: Ground, source: SourceFiles) {
		this.#ground = ground;
		this.#source = source;
		this.#cache = new StepCache(ground.attempt, ground.log);
		const { stopped } = ground.attempt;
		if (stopped.aborted) this.#stop.abort();
		else stopped.addEventListener('abort', () => this.#stop.abort(), { once: true });
	}

	async run(steps: readonly PlannedStep[]): Promise<Ran> {
		for (const step of inOrder(steps)) {
			if (this.#outcomes.has(step.name)) continue;
			const outcome = this.#start(step);
			outcome.catch(() => this.#stop.abort()); // thrown below; the others need not go on
			this.#outcomes.set(step.name, outcome);
		}
		const ended = await Promise.allSettled(steps.map((step) => this.#outcomes.get(step.name)!));
		await Promise.all(this.#keeping.splice(0));
		this.#ground.attempt.check();
		const outcomes = ended.map((one) => {
			if (one.status === 'rejected') throw one.reason;
			return one.value;
		});
		const failures = outcomes.flatMap((outcome) => ('failure' in outcome ? [outcome.failure] : []));
		if (failures.length > 0) throw faultOf(failures);
		return ranOf(outcomes.flatMap((outcome) => ('done' in outcome ? [outcome.done] : [])));
	}

	async close(): Promise<void> {
		this.#stop.abort();
		await Promise.allSettled([...this.#outcomes.values(), ...this.#keeping]);
	}

	async #start(step: PlannedStep): Promise<Outcome> {
		const before = new Map<string, Done>();
		for (const need of step.needs) {
			const outcome = await this.#outcomes.get(need);
			if (outcome === undefined || 'failure' in outcome) return { failure: this.#skipped(step, `${need} did not pass`) };
			for (const done of await this.#before(outcome.done)) before.set(done.step.name, done);
		}
		return this.#places.taken(() => this.#one(step, [...before.values()]));
	}

	/** With those that it needed itself, the first ones first. */
	async #before(done: Done): Promise<Done[]> {
		const all: Done[] = [];
		for (const need of done.step.needs) {
			const outcome = await this.#outcomes.get(need);
			if (outcome && 'done' in outcome) all.push(...(await this.#before(outcome.done)));
		}
		return [...new Set([...all, done])];
	}

	async #one(step: PlannedStep, before: readonly Done[]): Promise<Outcome> {
		if (this.#stop.signal.aborted) return { failure: this.#skipped(step, 'the build ended before it began') };
		const { attempt, job } = this.#ground;
		const startedAt = systemClock.now();
		const keyed = await this.#keyed(step, before);
		const report: StepReport = { ...reportOf(step, startedAt), state: 'running', endedAt: null, key: keyed.key };
		const printed = new Printed(({ stream, text }) => attempt.line(step.name, stream, text), job.secrets);
		attempt.step(report);
		const { entry, wantsInputs, blobs } = await this.#cache.find(step.name, keyed.key, keyed.parts);
		const replayed = entry === null ? null : await this.#replay(step, { entry, blobs }, report, printed);
		if (replayed !== null) return { done: replayed };
		const missing = step.secrets.filter((name) => job.secrets[name] === undefined);
		if (missing.length > 0) return { failure: this.#refused(step, report, this.#without(missing)) };
		const executed = await this.#execute(step, keyed, before, printed);
		if (executed === null) return { failure: this.#skipped(step, 'it was stopped') };
		if (executed instanceof BuildFault) return { failure: this.#refused(step, report, executed.detail()) };
		const ended: StepReport = { ...report, ...describe(step, executed, printed.text()), endedAt: systemClock.now() };
		attempt.step(ended);
		this.#keep({ step, keyed, executed, printed, summary: ended.summary, wantsInputs });
		if (ended.state === 'passed') return { done: madeBy(step, executed, ended, this.#madeIn(step)) };
		if (step.kind === 'build') this.#stop.abort();
		return { failure: { step, report: ended, tail: printed.tail() } };
	}

	async #keyed(step: PlannedStep, before: readonly Done[]): Promise<Keyed> {
		const { config, directory, job, toolchain, dependencies, commitTimeS, env, sandboxes } = this.#ground;
		const inputs = select(this.#source.files, { inputs: step.inputs, directory, watch: config.watch ?? [] });
		const list = encodeInputs(inputs);
		const parts: StepParts = {
			format: 1,
			run: step.run,
			env: { ...env, ...step.env },
			secrets: step.secrets,
			network: step.network,
			outputs: step.outputs,
			strip: step.strip,
			directory,
			epoch: step.commitTime ? commitTimeS : 0,
			platform: job.platform ?? `${process.platform}-${process.arch}`,
			toolchain,
			sandbox: (await sandboxes()).kind === 'none' ? 'open' : 'isolated',
			dependencies,
			needs: Object.fromEntries(before.flatMap(({ step: { name }, digest }) => (digest === null ? [] : [[name, digest]]))),
			inputs: sha256(list),
		};
		return { key: keyOf(parts), parts, inputs, list };
	}

	/** null: what the cache has is damaged, and forgotten. */
	async #replay(step: PlannedStep, known: { entry: StepEntry; blobs: Blobs }, report: StepReport, printed: Printed): Promise<Done | null> {
		const { entry, blobs } = known;
		const { attempt, log } = this.#ground;
		const { name } = step;
		try {
			const lines = await this.#cache.printed(entry, blobs);
			const directory = this.#madeIn(step);
			const { archive, outputs } = entry;
			if ((archive === null) !== (outputs === null)) throw new Damaged('what it made was not kept');
			const files = outputs === null ? [] : await unpack(await this.#cache.archive(entry, blobs), { digest: outputs, directory });
			printed.say(`taken from the cache: ${entry.builder} ran it in ${(entry.ms / 1000).toFixed(1)} s`);
			for (const { stream, text } of lines) attempt.line(name, stream, text);
			const { exitCode, summary } = entry;
			const ended: StepReport = { ...report, state: 'passed', cached: true, endedAt: systemClock.now(), exitCode, summary };
			attempt.step(ended);
			return { step, digest: outputs, directory, files, savedBytes: entry.savedBytes, savedMs: entry.ms, report: ended };
		} catch (error) {
			if (!(error instanceof Damaged)) throw error;
			printed.say(`what the cache has of this step is damaged (${error.message}): it is run again`);
			log.warn('step.damaged', { step: name, key: entry.key, error });
			await this.#cache.corrupt(entry.key);
			return null;
		}
	}

	/** null: it was stopped. */
	async #execute(step: PlannedStep, { inputs }: Keyed, before: readonly Done[], printed: Printed): Promise<Executed | BuildFault | null> {
		const { signal } = this.#stop;
		try {
			return await execute(step, {
				ground: this.#ground,
				sandboxes: await this.#ground.sandboxes(),
				source: this.#source,
				inputs,
				before: before.filter(({ digest }) => digest !== null),
				printed,
				signal,
				directory: join(this.#ground.temporary, 'steps', step.name),
			});
		} catch (error) {
			if (signal.aborted && error === signal.reason) return null;
			if (error instanceof BuildFault) return error;
			throw error;
		}
	}

	#keep(of: { step: PlannedStep; keyed: Keyed; executed: Executed; printed: Printed; summary: string | null; wantsInputs: boolean }): void {
		const { step, keyed, executed, printed, summary, wantsInputs } = of;
		const { result, made, strippedBytes } = executed;
		// Too large to be kept: whoever comes next makes it again.
		const whole = made.digest === null || made.packed !== null;
		if (!whole) printed.say('what it made is too large to be kept: it will be made again');
		this.#keeping.push(
			this.#cache.store(
				{
					name: step.name,
					key: keyed.key,
					parts: keyed.parts,
					inputs: keyed.list,
					exitCode: whole ? (result.exitCode ?? KILLED_EXIT) : KILLED_EXIT,
					outputs: made,
					printed: printed.kept(),
					ms: result.ms,
					summary,
					savedBytes: savedBytes(made, strippedBytes),
				},
				wantsInputs,
			),
		);
	}

	#madeIn(step: PlannedStep): string {
		return join(this.#ground.temporary, 'steps', step.name, 'made');
	}

	#skipped(step: PlannedStep, why: string): Failure {
		const now = systemClock.now();
		const report: StepReport = { ...reportOf(step, now), state: 'skipped', endedAt: now, key: null, summary: why };
		this.#ground.attempt.step(report);
		return { step, report, tail: '' };
	}

	/** For another reason than its command's. */
	#refused(step: PlannedStep, running: StepReport, summary: string): Failure {
		const report: StepReport = { ...running, state: 'failed', endedAt: systemClock.now(), summary };
		this.#ground.attempt.step(report);
		if (step.kind === 'build') this.#stop.abort();
		return { step, report, tail: '' };
	}

	#without(missing: readonly string[]): string {
		const { environment, trust } = this.#ground.job;
		const why = trust === 'fork' ? 'builds of forks get none' : `jibe secret set ${missing[0]} --env ${environment}`;
		return `it needs the secret ${missing.join(', ')}, which has no value here: ${why}`;
	}
}

/** Of what did not end by itself, or can't be kept: it is never taken for one that passed. */
const KILLED_EXIT = 137;

function reportOf({ name, kind }: PlannedStep, startedAt: number): Omit<StepReport, 'state' | 'endedAt' | 'key'> {
	return { name, kind, cached: false, startedAt, exitCode: null, summary: null };
}

function madeBy(step: PlannedStep, { made, strippedBytes }: Executed, report: StepReport, directory: string): Done {
	const saved = savedBytes(made, strippedBytes);
	return { step, digest: made.digest, directory, files: made.files, savedBytes: saved, savedMs: 0, report };
}

/** By stripping, and by what goes over the wire. */
function savedBytes({ bytes, packed }: Executed['made'], strippedBytes: number): number {
	return strippedBytes + (packed === null ? 0 : Math.max(0, bytes - packed.length));
}

function ranOf(done: readonly Done[]): Ran {
	return {
		outputs: done.flatMap(({ step, files }) => (step.kind === 'build' ? files : [])),
		reports: done.map(({ report }) => report),
		savedBytes: done.reduce((sum, one) => sum + one.savedBytes, 0),
		savedMs: done.reduce((sum, one) => sum + one.savedMs, 0),
	};
}

/** Those that others need come before them; the configuration has no circles. */
function inOrder(steps: readonly PlannedStep[]): PlannedStep[] {
	const ordered: PlannedStep[] = [];
	const add = (step: PlannedStep) => {
		if (ordered.includes(step)) return;
		for (const need of step.needs) {
			const needed = steps.find(({ name }) => name === need);
			if (needed) add(needed);
		}
		ordered.push(step);
	};
	for (const step of steps) add(step);
	return ordered;
}

import { rmSync } from 'node:fs';
import { systemClock } from '#clock/clock.ts';
import { canonicalJson, sha256 } from '#digest/digest.ts';
import type { DeploymentState, DeployRequest } from '#wire/api.ts';
import type { ArtifactMetadata, StepReport } from '#wire/builds.ts';
import type { AppConfig } from '#wire/config.ts';
import { planSteps, type PlannedStep } from '#wire/steps.ts';
import type { Attempt } from './attempt.ts';
import { Bringing, type Made } from './bring.ts';
import { compile } from './compile.ts';
import { BuildFault } from './fault.ts';
import type { Ground, OpenSteps, Ran, StepRunner } from './ground.ts';
import { compilerCaches, findInstalls, type Install } from './managers.ts';
import { packFiles } from './pack.ts';
import { reachOf } from './reach.ts';
import type { Reach } from './sandbox/sandbox.ts';
import type { Provided } from './dependencies.ts';
import { fetchSource, readConfig } from './source.ts';
import { compareWith } from './compare.ts';
import type { Workshop } from './workshop.ts';

/** The course of a build, from its source to a deployment. Nothing of the user's runs outside a sandbox. */
export async function build(attempt: Attempt, workshop: Workshop, openSteps: OpenSteps): Promise<void> {
	const { job } = attempt;
	const course = new Course(attempt, workshop);
	const temporary = workshop.temporary(job.id);
	let runner: StepRunner | null = null;
	try {
		await course.enter('Building');
		const source = await course.timed('source', 'source', () => fetchSource(attempt, workshop.checkouts), describeSource);
		const { config, assumed } = await readConfig(source.directory, job);
		for (const line of [...source.warnings, ...assumed]) attempt.line('source', 'jibe', line);
		const steps = planSteps(config);
		const installed = await course.install(source.directory, temporary, config.runtime === 'fetch' && steps.length === 0);
		const ground = course.ground(source, config, installed, temporary);
		runner = await openSteps(ground);
		const built = await runner.run(steps.filter(({ kind }) => kind === 'build'));
		const made = await course.timed('compile', 'compile', () => course.make(ground, built, steps), describeMade);
		if (job.kind === 'verify') return await compareWith(attempt, made);
		const bringing = new Bringing(attempt, made);
		await course.testBeside(runner, steps, bringing);
		await course.enter('Uploading');
		const gates = steps.filter(({ kind }) => kind === 'gate');
		const { already } = await bringing.bring(course.request(config), () => course.metadata(source.sentBytes, built), gates.length > 0);
		if (gates.length > 0 && !already) await course.gates(runner, gates);
	} finally {
		await runner?.close();
		rmSync(temporary, { recursive: true, force: true });
	}
}

class Course {
	readonly #attempt: Attempt;
	readonly #workshop: Workshop;
	readonly #startedAt = systemClock.now();
	/** Found out when a command asks for the network, once. */
	readonly #reach: () => Promise<Reach>;

	constructor(attempt: Attempt, workshop: Workshop) {
		this.#attempt = attempt;
		this.#workshop = workshop;
		let reach: Promise<Reach> | null = null;
		this.#reach = () => (reach ??= reachOf(attempt.job));
	}

	enter(state: DeploymentState): Promise<void> {
		return this.#attempt.enter(state);
	}

	/** What Jibe itself does, as a step among the others. */
	async timed<T>(name: string, kind: StepReport['kind'], work: () => Promise<T>, describe: (done: T) => string): Promise<T> {
		this.#attempt.check();
		const startedAt = systemClock.now();
		const report = { name, kind, cached: false, startedAt, exitCode: null, key: null };
		this.#attempt.step({ ...report, state: 'running', endedAt: null, summary: null });
		const ended = (state: 'passed' | 'failed', summary: string) =>
			this.#attempt.step({ ...report, state, endedAt: systemClock.now(), summary });
		try {
			const done = await work();
			ended('passed', describe(done));
			return done;
		} catch (error) {
			ended('failed', error instanceof BuildFault ? error.detail() : 'stopped');
			throw error;
		}
	}

	/** One kind after the other: they share the network, not the sandbox. `nodeOnly`: no command would see the others. */
	async install(checkout: string, temporary: string, nodeOnly: boolean): Promise<Provided[]> {
		const { job, stopped: signal } = this.#attempt;
		const found = findInstalls(checkout, job.directory).filter(({ use }) => !nodeOnly || use.kind === 'node');
		const installs = found.filter((install) => this.#canInstall(install));
		const provided: Provided[] = [];
		for (const install of installs) {
			const name = installs.length === 1 ? 'dependencies' : `dependencies-${install.manager}`;
			const startedAt = systemClock.now();
			const report = { name, kind: 'dependencies' as const, startedAt, exitCode: null, key: null };
			this.#attempt.step({ ...report, state: 'running', cached: false, endedAt: null, summary: null });
			const content = job.source.kind === 'git' ? job.source.commit : job.source.digest;
			const print = this.#attempt.printer(name);
			try {
				const of = { checkout, content, job, reach: this.#reach, temporary, signal, print: print.write };
				const one = await this.#workshop.dependencies().provide(install, of);
				provided.push(one);
				this.#attempt.step({ ...report, state: 'passed', cached: one.cached, endedAt: systemClock.now(), summary: one.summary });
			} catch (error) {
				const summary = error instanceof BuildFault ? error.detail() : 'stopped';
				this.#attempt.step({ ...report, state: 'failed', cached: false, endedAt: systemClock.now(), summary });
				throw error;
			} finally {
				print.end();
			}
		}
		return provided;
	}

	/** A lockfile of another language may lie there for no build's sake. */
	#canInstall({ files, tool, use }: Install): boolean {
		if (use.kind === 'node' || this.#workshop.toolchains.find(tool) !== null) return true;
		this.#attempt.line('dependencies', 'jibe', `what ${files[0]} names is not installed: there is no ${tool} on this builder`);
		return false;
	}

	ground(source: { directory: string; timeS: number }, config: AppConfig, installed: readonly Provided[], temporary: string): Ground {
		const { job } = this.#attempt;
		const keys = installed.map(({ key }) => key);
		return {
			attempt: this.#attempt,
			job,
			config,
			checkout: source.directory,
			directory: job.directory,
			layers: installed.flatMap(({ layer }) => (layer === null ? [] : [layer])),
			mounts: installed.flatMap(({ mounts }) => mounts),
			caches: this.#workshop.dependencies().caches(compilerCaches(source.directory, job.directory), { job, temporary }),
			env: Object.assign({}, ...installed.map(({ install }) => install.use.env)) as Record<string, string>,
			path: installed.flatMap(({ install }) => install.use.path),
			dependencies: keys.length === 0 ? null : sha256(canonicalJson(keys)),
			sandboxes: () => this.#workshop.sandboxes(),
			reach: this.#reach,
			toolchain: this.#workshop.toolchain,
			commitTimeS: source.timeS,
			temporary,
			log: this.#workshop.log,
		};
	}

	async make(ground: Ground, built: Ran, steps: readonly PlannedStep[]): Promise<Made> {
		const { config, checkout, directory, layers, job } = ground;
		const outputs = steps.filter(({ kind }) => kind === 'build');
		const target = `${job.app}/${job.trust}`;
		const { cache: cacheDir } = this.#workshop;
		if (config.runtime !== 'fetch') return packFiles({ checkout, directory, config, outputs: built.outputs });
		return compile({ checkout, directory, config, layers, cacheDir, target, steps: outputs, outputs: built.outputs });
	}

	/** Tests run while what is large goes ahead; what they gate is the artifact itself. */
	async testBeside(runner: StepRunner, steps: readonly PlannedStep[], bringing: Bringing): Promise<void> {
		const tests = steps.filter(({ kind }) => kind === 'test');
		if (tests.length > 0) await this.enter('Testing');
		const ahead = bringing.ahead();
		ahead.catch(() => {}); // heard below, unless a test fails before
		if (tests.length > 0) await runner.run(tests);
		await this.enter('Packaging');
		await ahead;
	}

	/** Beside the deployment, which waits in its first region for what they say. */
	async gates(runner: StepRunner, gates: readonly PlannedStep[]): Promise<void> {
		try {
			await runner.run(gates);
			await this.#attempt.end('gates-passed', null, null);
		} catch (error) {
			if (!(error instanceof BuildFault)) throw error;
			await this.#attempt.end('gates-failed', error.reason, error.detail());
		}
	}

	request(config: AppConfig): Omit<DeployRequest, 'artifact' | 'manifest' | 'vendor' | 'vendorManifest' | 'modules'> {
		const { environment, commit, branch, dirty = false, ancestors, force, now, why } = this.#attempt.job;
		const git = commit === null ? null : { commit, branch, dirty, ancestors };
		return { environment, config, git, force, now, reason: why, stages: [] };
	}

	metadata(sourceBytes: number, { savedBytes, savedMs }: Ran): ArtifactMetadata {
		const { platform, server, toolchainText } = this.#workshop;
		const times = { startedAt: this.#startedAt, endedAt: systemClock.now() };
		return { builder: server, toolchain: toolchainText, platform, ...times, sourceBytes, savedBytes, savedMs: Math.round(savedMs) };
	}
}

function describeSource({ files, bytes, sentBytes }: { files: number; bytes: number; sentBytes: number }): string {
	return `${files} files, ${kib(bytes)} (${kib(sentBytes)} sent)`;
}

function describeMade({ modules, artifact }: Made): string {
	return `${modules.compiled} modules compiled, ${modules.cached} from cache: ${artifact}`;
}

function kib(bytes: number): string {
	return bytes < 1024 * 1024 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}

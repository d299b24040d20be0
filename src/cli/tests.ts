import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import type { BuildResult } from '#build/result.ts';
import { pause, systemClock } from '#clock/clock.ts';
import { sha256 } from '#digest/digest.ts';
import type { AppConfig } from '#wire/config.ts';
import { unsentFields } from './conclude.ts';
import { EXIT, Failure } from './failure.ts';
import { done, seconds } from './output.ts';
import type { Project } from './project.ts';
import { ApiFailure, ask, Interrupted, type Server } from './server.ts';
import type { Invocation } from './verbs.ts';

const TYPES_COMMAND = 'tsc --noEmit';
const KEPT_OUTPUT_CHARS = 16 * 1024;
const SHOWN_LINES = 30;
const MAX_SUMMARY_CHARS = 8_000;
const AGAIN_MS = 100;
/** As long as control waits. */
const LIMIT_MS = 30 * 60_000;

/** Tests hold every pointer; checks (`gate: "promotion"`) all but the first region's. */
export type Kind = 'tests' | 'checks';

/**
 * The app's tests and type check, beside the upload and the start of the release in every region. What passed before on
 * this very artifact with these packages is not run again. What they hold back waits until control has heard that they passed.
 */
export class Tests {
	running = true;
	/** Which they are. */
	get kind(): Kind {
		return this.#of.kind;
	}
	/** Rejects when control could not be told how they ended. */
	readonly untold: Promise<never>;
	readonly #ended: Promise<Verdict>;
	readonly #of: Of;
	#child: ChildProcess | null = null;
	#stopped = false;
	#fail: (error: unknown) => void = () => {};

	/** null: there are none of the kind, or all passed before. */
	static start(of: Of): Tests | null {
		const { project, built, kind } = of;
		const { cache, config } = project;
		const types = config.types && kind === 'checks' ? [{ command: TYPES_COMMAND, env: {} }] : [];
		const commands = [...types, ...commandsOf(config.test, kind)];
		const pending = commands
			.map(({ command, env }) => ({
				command,
				env,
				mark: join(
					cache,
					'passed',
					sha256(
						`${built.artifact}\0${built.vendor?.root ?? ''}\0${command}${Object.keys(env).length === 0 ? '' : JSON.stringify(env)}`,
					).slice(7, 39),
				),
			}))
			.filter(({ mark }) => !existsSync(mark));
		return pending.length === 0 ? null : new Tests(of, pending);
	}

	private constructor(of: Of, pending: readonly Pending[]) {
		this.#of = of;
		this.untold = new Promise((_, reject) => (this.#fail = reject));
		this.untold.catch(() => {}); // who waits for it hears of it
		this.#ended = this.#runAll(pending).finally(() => (this.running = false));
		this.#ended.catch((error: unknown) => this.#fail(error));
	}

	/** @throws Failure (TestFailed); nothing was sent */
	async passed(): Promise<void> {
		const { invocation, project, built, kind } = this.#of;
		const { passed, summary } = await this.#ended;
		if (passed) return;
		throw new Failure('tests', EXIT.app, `The ${kind} failed: ${summary}`, {
			hint: 'nothing was sent: what serves goes on serving',
			fields: unsentFields(
				{ app: project.config.app, environment: invocation.environment },
				{ state: 'TestFailed', reason: 'tests', ...built },
			),
		});
	}

	/** Tells control how they end, once they do. One that does not wait for them any more has ended, or is live already. */
	tell(server: Server, id: string): void {
		this.#tellEnd(server, id).catch((error: unknown) => this.#fail(error));
	}

	async #tellEnd(server: Server, id: string): Promise<void> {
		const json = await this.#ended;
		const { kind } = this.#of;
		while (!this.#stopped) {
			try {
				await ask(server, { method: 'POST', path: `/api/v1/deployments/${id}/${kind}`, json });
				return;
			} catch (error) {
				// Told once before a control that was killed could answer, or not needed any more.
				if (error instanceof ApiFailure && (error.code === 'not_testing' || error.code === 'not_checking')) return;
				if (!(error instanceof Interrupted)) throw error;
				await pause(AGAIN_MS);
			}
		}
	}

	/** Nobody waits for them any more. */
	stop(): void {
		this.#stopped = true;
		endGroup(this.#child);
	}

	async #runAll(pending: readonly Pending[]): Promise<Verdict> {
		const { kind } = this.#of;
		const { out } = this.#of.invocation;
		const [doing, did] = kind === 'tests' ? ['Testing', 'Tested'] : ['Checking', 'Checked'];
		for (const { command, env, mark } of pending) {
			out.now(`${doing}: ${command}…`);
			const startedAt = systemClock.monotonic();
			const { code, output } = await this.#run(command, env);
			if (code !== 0) {
				const tail = output.trimEnd().split('\n').slice(-SHOWN_LINES).join('\n');
				return { passed: false, summary: `${command} ended with ${code}\n${tail}`.slice(0, MAX_SUMMARY_CHARS) };
			}
			mkdirSync(dirname(mark), { recursive: true, mode: 0o700 });
			writeFileSync(mark, '');
			out.say(done(`${did} in ${seconds(systemClock.monotonic() - startedAt)}`, command));
		}
		return {
			passed: true,
			summary: pending
				.map(({ command }) => command)
				.join(', ')
				.slice(0, MAX_SUMMARY_CHARS),
		};
	}

	#run(command: string, own: Record<string, string>): Promise<{ code: number | string; output: string }> {
		const { directory } = this.#of.project;
		const path = [join(directory, 'node_modules', '.bin'), dirname(process.execPath), process.env['PATH'] ?? ''].join(delimiter);
		return new Promise((resolve, reject) => {
			if (this.#stopped) return resolve({ code: 'stopped', output: '' });
			// A group of its own: Ctrl-C is for this command to hear, and what ends the tests ends all that they started.
			const child = spawn('sh', ['-c', command], {
				cwd: directory,
				env: { ...process.env, ...own, PATH: path },
				stdio: ['ignore', 'pipe', 'pipe'],
				detached: true,
			});
			this.#child = child;
			const limit = systemClock.after(LIMIT_MS, () => endGroup(child), { idle: true });
			let output = '';
			const keep = (chunk: Buffer) => (output = (output + chunk.toString()).slice(-KEPT_OUTPUT_CHARS));
			child.stdout.on('data', keep);
			child.stderr.on('data', keep);
			child.once('error', reject);
			child.once('close', (code, signal) => {
				limit.cancel();
				resolve({ code: code ?? signal ?? 'nothing', output });
			});
		});
	}
}

/** Named steps run one after the other here, in the order of the file: the laptop is theirs who sit before it. */
function commandsOf(test: AppConfig['test'], kind: Kind): { command: string; env: Record<string, string> }[] {
	if (typeof test !== 'object') return test === undefined || kind === 'checks' ? [] : [{ command: test, env: {} }];
	const steps = Object.values(test).filter(({ gate }) => (gate === 'promotion') === (kind === 'checks'));
	return steps.map(({ run, env }) => ({ command: run, env }));
}

interface Of {
	invocation: Invocation;
	project: Project;
	built: BuildResult;
	kind: Kind;
}

interface Pending {
	command: string;
	env: Record<string, string>;
	/** A file that is there once it passed. */
	mark: string;
}

interface Verdict {
	passed: boolean;
	summary: string;
}

function endGroup(child: ChildProcess | null): void {
	if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
	try {
		process.kill(-child.pid, 'SIGTERM');
	} catch {
		// it has just ended
	}
}

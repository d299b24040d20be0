import { pause, systemClock } from '#clock/clock.ts';
import { exitCode } from '#pipeline/states.ts';
import type { Deployment, DeploymentState, ProgressLine, RampProgress } from '#wire/api.ts';
import { EXIT, Failure, type Exit } from './failure.ts';
import { hearBeside } from './besides.ts';
import type { Output } from './output.ts';
import { RampLine } from './ramp.ts';
import { ApiFailure, ask, askLines, Interrupted, type Ask, type Server } from './server.ts';

/** Follows a deployment from the request that makes it to its end, through restarts of control and through Ctrl-C. */
export interface Follow {
	server: Server;
	out: Output;
	request: Ask;
	/** App and environment, to find the deployment again when the connection broke before its id was known. */
	app: string;
	environment: string;
	/** Return once it exists. */
	detach: boolean;
	/** Called once, when the deployment's id is known. */
	named?: (id: string) => void;
	/** What goes on needs this command: a person who presses Ctrl-C cancels it. */
	needed?: () => boolean;
}

export interface Outcome {
	deployment: Deployment;
	/** It was live, or under way, before this request. */
	already: boolean;
	/** This command stopped looking; the deployment goes on. */
	detached: boolean;
	firstByteMs: number | null;
	/** Control asks for the source, to have it built once more. */
	sample?: boolean;
}

const AGAIN_MS = 100;
const RESUME_LIMIT_MS = 15 * 60_000;

export async function follow(of: Follow): Promise<Outcome> {
	const seen = new Seen(of);
	const unlisten = seen.listenToSignals();
	try {
		return await Promise.race([seen.requested(), seen.left]);
	} finally {
		unlisten();
		seen.stopTelling();
	}
}

class Seen {
	/** Resolves when a person presses Ctrl-C: the deployment goes on without us. */
	readonly left: Promise<Outcome>;
	readonly #of: Follow;
	readonly #startedAt = systemClock.now();
	#id: string | null = null;
	#already = false;
	#firstByteMs: number | null = null;
	#cancelling = false;
	readonly #ramp: RampLine;
	readonly #gone = new AbortController();
	#leave: (outcome: Outcome) => void = () => {};
	#fail: (error: unknown) => void = () => {};

	constructor(of: Follow) {
		this.#of = of;
		this.#ramp = new RampLine(of.out);
		this.left = new Promise((resolve, reject) => {
			this.#leave = resolve;
			this.#fail = reject;
		});
	}

	async requested(): Promise<Outcome> {
		const { server, request, detach } = this.#of;
		const deadline = systemClock.monotonic() + RESUME_LIMIT_MS;
		const asked = { ...request, path: detach ? `${request.path}?detach=1` : request.path, signal: this.#gone.signal };
		for (;;) {
			let outcome: Outcome | null = null;
			try {
				await askLines(server, asked, (line) => {
					outcome = this.#hear(line as ProgressLine);
					return outcome !== null;
				});
				if (outcome !== null) return outcome;
			} catch (error) {
				if (!(error instanceof Interrupted) || this.#gone.signal.aborted || systemClock.monotonic() > deadline) throw error;
				if (error.deployment !== null) this.#name(error.deployment);
				else await pause(AGAIN_MS);
			}
			const id = this.#id ?? (await this.#findOwn());
			if (id !== null) {
				this.#name(id);
				return this.#ended(id, deadline);
			}
			// The request never became a deployment, so it may be made again.
		}
	}

	stopTelling(): void {
		this.#ramp.end();
	}

	/** Asks until it has ended: its stream is gone with the control that was telling it. */
	async #ended(id: string, deadline: number): Promise<Outcome> {
		for (;;) {
			const { deployment } = (await ask(this.#of.server, { path: `/api/v1/deployments/${id}` })) as { deployment: Deployment };
			const over = deployment.endedAt !== null || FINAL.has(deployment.state);
			if (over || this.#of.detach) return this.#outcome(deployment, !over);
			if (systemClock.monotonic() > deadline) return this.#outcome(deployment, true);
			await pause(AGAIN_MS);
		}
	}

	#outcome(deployment: Deployment, detached: boolean): Outcome {
		return { deployment, already: this.#already, detached, firstByteMs: this.#firstByteMs };
	}

	#hear(line: ProgressLine): Outcome | null {
		this.#firstByteMs ??= systemClock.monotonic();
		if (!('error' in line || 'result' in line || 'event' in line)) throw new NoDeployment(line);
		if ('error' in line) throw new ApiFailure(statusOf(line.error.code), line.error);
		if ('result' in line) {
			this.#already ||= line.already;
			const { result } = line;
			// It was under way before we asked, and is not told twice: asking for it tells how it ends.
			if (!this.#of.detach && !FINAL.has(result.state)) throw new Interrupted(null, result.id);
			return { ...this.#outcome(result, !FINAL.has(result.state)), sample: line.sample === true };
		}
		const { event } = line;
		if (event.deployment !== null) this.#name(event.deployment);
		if (event.type === 'deployment.ramp') this.#ramp.hear(event.data as unknown as RampProgress);
		else if (event.type === 'deployment.state') this.#ramp.end();
		else hearBeside(this.#of.out, event.type, event.data);
		const words = wordsFor(event.type, event.data);
		if (words !== null) this.#of.out.now(words);
		return null;
	}

	#name(id: string): void {
		if (this.#id !== null) return;
		this.#id = id;
		this.#of.named?.(id);
	}

	/** Of this app, made since we asked: the answer was lost, the deployment was not. */
	async #findOwn(): Promise<string | null> {
		const { server, app, environment } = this.#of;
		const path = `/api/v1/deployments?app=${app}&environment=${environment}&limit=1`;
		const answer = (await ask(server, { path })) as { deployments: Deployment[] };
		const [newest] = answer.deployments;
		return newest !== undefined && newest.createdAt >= this.#startedAt ? newest.id : null;
	}

	listenToSignals(): () => void {
		const leave = () => (this.#of.needed?.() ? this.#cancel() : void this.#leaveIt());
		const cancel = () => this.#cancel();
		const inCi = Boolean(process.env['CI']);
		process.on('SIGINT', leave);
		process.on('SIGTERM', inCi ? cancel : leave);
		return () => process.off('SIGINT', leave).off('SIGTERM', cancel).off('SIGTERM', leave);
	}

	async #leaveIt(): Promise<void> {
		try {
			const { server, out } = this.#of;
			if (this.#id === null) {
				throw new Failure('interrupted', EXIT.notLive, 'stopped before control had said what the deployment is called', {
					hint: 'jibe history shows whether there is one, jibe cancel ends it',
				});
			}
			out.say(`Detached: ${this.#id} goes on. Stop it with: jibe cancel ${this.#id}`);
			const { deployment } = (await ask(server, { path: `/api/v1/deployments/${this.#id}` })) as { deployment: Deployment };
			this.#leave(this.#outcome(deployment, true));
			this.#gone.abort();
		} catch (error) {
			this.#fail(error);
		}
	}

	/** The stream goes on and tells how it ended. */
	#cancel(): void {
		const { server, out } = this.#of;
		if (this.#id === null) {
			void this.#leaveIt();
			return;
		}
		if (this.#cancelling) return;
		this.#cancelling = true;
		out.say(`Cancelling ${this.#id}…`);
		ask(server, { method: 'POST', path: `/api/v1/deployments/${this.#id}/cancel` }).catch((error: unknown) => this.#fail(error));
	}
}

/** What was asked for did not need one; `answer` says what happened instead. */
export class NoDeployment extends Error {
	readonly answer: object;
	constructor(answer: object) {
		super('no deployment came of it');
		this.answer = answer;
	}
}

const FINAL: ReadonlySet<DeploymentState> = new Set([
	'Deployed', 'RolledBack', 'BuildFailed', 'TestFailed', 'DeployFailed', 'Cancelled', 'Superseded', 'TimedOut',
]); // prettier-ignore

/** An error within a stream has no status of its own. */
function statusOf(code: string): number {
	if (['internal', 'platform', 'unavailable', 'read_only', 'timeout'].includes(code)) return 500;
	if (['forbidden', 'unauthorized', 'not_allowed'].includes(code)) return 403;
	return 409;
}

function wordsFor(type: string, data: Record<string, unknown>): string | null {
	if (type !== 'deployment.state') return null;
	const words: Partial<Record<DeploymentState, string>> = {
		Testing: 'Testing, and preparing in every region…',
		Deploying: 'Preparing in every region…',
		CanaryCheck: 'Checking the first region…',
		RollingOut: 'Moving the other regions…',
		RollingBack: 'Swinging back…',
	};
	return words[data['state'] as DeploymentState] ?? null;
}

/** Which exit code a deployment's state is. */
export function exitFor({ deployment, detached }: Outcome): Exit {
	return detached ? EXIT.done : (exitCode(deployment.state, deployment.reason) ?? EXIT.notLive);
}

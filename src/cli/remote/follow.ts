import { pause, systemClock } from '#clock/clock.ts';
import { exitCode } from '#pipeline/states.ts';
import type { BuildEnd, BuildNews, BuildView, StepReport } from '#wire/builds.ts';
import { EXIT, Failure } from '../failure.ts';
import { done, seconds, type Output } from '../output.ts';
import { ask, askLines, Interrupted, type Server } from '../server.ts';

/** Follows a build, and the deployment that it becomes, to its end: through restarts of control, and until Ctrl-C. */
export interface FollowedBuild {
	server: Server;
	out: Output;
	id: string;
	/** What its steps print is shown, too. */
	verbose: boolean;
}

const AGAIN_MS = 200;
const FOLLOW_LIMIT_MS = 45 * 60_000;

export class BuildFollower {
	readonly #of: FollowedBuild;
	/** What was told before a connection broke is not told again. */
	readonly #told = new Set<string>();
	#lines = 0;
	#leave: () => void = () => {};

	constructor(of: FollowedBuild) {
		this.#of = of;
	}

	/** `left`: a person pressed Ctrl-C, and it goes on. */
	async end(): Promise<BuildEnd | 'left'> {
		const left = new Promise<'left'>((resolve) => (this.#leave = () => resolve('left')));
		const gone = new AbortController();
		const { server, out, id } = this.#of;
		const detach = () => {
			out.say(`Detached: ${id} goes on. Stop it with: jibe cancel ${id}`);
			this.#leave();
			gone.abort();
		};
		const cancel = () => {
			out.say(`Cancelling ${id}…`);
			ask(server, { method: 'POST', path: `/api/v1/builds/${id}/cancel` }).catch((error: unknown) => out.say(`! ${String(error)}`));
		};
		const onTerm = process.env['CI'] ? cancel : detach;
		process.on('SIGINT', detach).on('SIGTERM', onTerm);
		try {
			return await Promise.race([this.#follow(gone.signal), left]);
		} finally {
			process.off('SIGINT', detach).off('SIGTERM', onTerm);
		}
	}

	async #follow(signal: AbortSignal): Promise<BuildEnd> {
		const { server, id } = this.#of;
		const deadline = systemClock.monotonic() + FOLLOW_LIMIT_MS;
		for (;;) {
			let end: BuildEnd | null = null;
			let lines = 0;
			try {
				await askLines(server, { path: `/api/v1/builds/${id}/progress`, signal }, (line) => {
					const news = line as BuildNews;
					if (news.type === 'end') end = news.end;
					else if (news.type === 'log') {
						const fresh = news.lines.slice(Math.max(0, this.#lines - lines));
						lines += news.lines.length;
						this.#lines = Math.max(this.#lines, lines);
						this.#hear({ ...news, lines: fresh });
					} else this.#hear(news);
					return end !== null;
				});
				if (end !== null) return end;
			} catch (error) {
				if (!(error instanceof Interrupted) || signal.aborted || systemClock.monotonic() > deadline) throw error;
				await pause(AGAIN_MS);
			}
		}
	}

	#hear(news: Exclude<BuildNews, { type: 'end' }>): void {
		const { out, verbose } = this.#of;
		switch (news.type) {
			case 'queued':
			case 'event':
				return;
			case 'stage':
				if (this.#once(`${news.attempt} ${news.state}`)) out.now(`${news.state}…`);
				return;
			case 'step':
				return this.#hearStep(news.step, news.attempt);
			case 'log':
				for (const { step, stream, text } of news.lines) if (verbose || stream === 'jibe') out.say(`  ${step}: ${text}`);
		}
	}

	#hearStep(step: StepReport, attempt: number): void {
		const { name, state, cached, startedAt, endedAt, summary } = step;
		if (!this.#once(`${attempt} ${name} ${state}`)) return;
		if (state === 'running') return this.#of.out.now(`${name}…`);
		const took = cached ? 'from the cache' : seconds((endedAt ?? startedAt) - startedAt);
		const [first = ''] = (summary ?? '').split('\n', 1);
		if (state === 'passed') this.#of.out.say(done(name, first === '' ? took : `${took}; ${first}`));
		else if (state === 'failed') this.#of.out.say(`✗ ${name} failed after ${took}`);
	}

	#once(what: string): boolean {
		if (this.#told.has(what)) return false;
		this.#told.add(what);
		return true;
	}
}

/** No deployment came of it. */
export function endedWithout(
	build: BuildView | null,
	{ app, environment }: { app: string; environment: string },
	totalMs: number,
): Failure {
	if (build === null) return new Failure('build_unknown', EXIT.jibe, 'control knows nothing of this build any more');
	const { id, state, reason, detail } = build;
	const words = STORY[state] ?? state;
	const fields = {
		deployment: id,
		kind: 'deploy',
		app,
		environment,
		release: null,
		artifact: null,
		commit: build.commit,
		state,
		reason,
		modules: { compiled: 0, cached: 0 },
		uploadedBytes: 0,
		regions: [],
		url: null,
		timings: { totalMs: Math.round(totalMs) },
	};
	const exit = build.dead ? EXIT.jibe : (exitCode(state, reason) ?? EXIT.notLive);
	const message = `${words}${reason === null ? '' : ` (${reason})`}${detail === null ? '' : `\n${detail}`}`;
	const again = build.dead ? `jibe retry ${id} queues it once more; ` : '';
	return new Failure(reason ?? state, exit, message, { hint: `${again}jibe logs --build ${id} shows all of it`, fields });
}

const STORY: Partial<Record<BuildView['state'], string>> = {
	BuildFailed: 'The build failed',
	TestFailed: 'The tests failed',
	DeployFailed: 'What was built was refused',
	Cancelled: 'Cancelled',
	Superseded: 'A newer one took its place',
	TimedOut: 'The build took too long',
};

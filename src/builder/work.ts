import { randomBytes } from 'node:crypto';
import { pause, systemClock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { CLAIM_WAIT_MS, claimAnswer, type BuildJob } from '#wire/builds.ts';
import { Attempt, Stopped, type EndState } from './attempt.ts';
import { Refused, Unreachable, type Control } from './control.ts';
import { BuildFault } from './fault.ts';
import type { OpenSteps } from './ground.ts';
import { build } from './job.ts';
import type { Workshop } from './workshop.ts';

/** Takes one job after the other until it is told to leave, or has had none for a while. */
export interface Working {
	control: Control;
	workshop: Workshop;
	openSteps: OpenSteps;
	server: string;
	/** Ends after so long without a job; null: never. */
	idleMs: number | null;
	leaving: AbortSignal;
	/** Leaves after its job. */
	retiring: AbortSignal;
	log: Log;
}

const CLAIM_SILENT_MS = CLAIM_WAIT_MS + 15_000;
const AGAIN_MS = 1_000;
const TIDY_EACH_MS = 3_600_000;
/** A machine that fails build after build leaves them to others for a while. */
const SICK_MS = 1_000;

export async function work(of: Working): Promise<void> {
	const { leaving, retiring, idleMs } = of;
	let worker = newWorker(of.server);
	let idleSince = systemClock.monotonic();
	let tidiedAt: number | null = null;
	let next: BuildJob | null = null;
	while (next !== null || (!leaving.aborted && !retiring.aborted)) {
		const restMs = idleMs === null ? null : Math.max(0, idleMs - (systemClock.monotonic() - idleSince));
		const job: BuildJob | null = next ?? (await claim(of, worker, restMs));
		if (job === null) {
			const now = systemClock.monotonic();
			if (idleMs !== null && now - idleSince >= idleMs) return;
			if (tidiedAt !== null && now - tidiedAt < TIDY_EACH_MS) continue;
			tidiedAt = now;
			await of.workshop.tidy(systemClock.now()).catch((error: unknown) => of.log.warn('builder.untidy', { error }));
			continue;
		}
		const done = await attempt(job, worker, of);
		next = done.next;
		idleSince = systemClock.monotonic();
		if (done.whole || next !== null || leaving.aborted) continue;
		// Under its old name it would be given the same attempt again; under another one it is a new attempt, of any builder.
		worker = newWorker(of.server);
		await pause(SICK_MS);
	}
}

/** One of its life, and of no other process or machine. */
function newWorker(server: string): string {
	return `${server}/${process.pid}-${randomBytes(6).toString('hex')}`;
}

/** `withinMs`: nobody waits for this builder any longer. */
async function claim(
	{ control, workshop, leaving, retiring, log }: Working,
	worker: string,
	withinMs: number | null,
): Promise<BuildJob | null> {
	const limits = withinMs === null ? [] : [AbortSignal.timeout(Math.ceil(withinMs) + 1)];
	const limit = AbortSignal.any([leaving, retiring, ...limits]);
	try {
		const body = { json: { worker, platform: workshop.platform } };
		const askedMs = systemClock.monotonic();
		const answer = await control.ask('POST', '/api/v1/builds/claim', body, { silentMs: CLAIM_SILENT_MS, signal: limit });
		if (answer !== null) return claimAnswer.parse(answer).job;
		// Control holds the question for a while; one that does not has too many who ask.
		if (systemClock.monotonic() - askedMs < AGAIN_MS) await paused(AGAIN_MS, limit);
		return null;
	} catch (error) {
		if (limit.aborted) return null;
		if (!(error instanceof Unreachable || error instanceof Refused)) throw error;
		log.warn('claim', { error });
		await pause(AGAIN_MS);
		return null;
	}
}

function paused(ms: number, signal: AbortSignal): Promise<void> {
	return new Promise((resolve) => {
		const timer = systemClock.after(ms, resolve);
		signal.addEventListener('abort', () => {
			timer.cancel();
			resolve();
		});
		if (signal.aborted) resolve();
	});
}

/** `whole`: this machine did not fail, whatever became of the source. `next`: what control had for it when it heard of the end. */
async function attempt(job: BuildJob, worker: string, of: Working): Promise<{ whole: boolean; next: BuildJob | null }> {
	const { control, workshop, openSteps, leaving, retiring } = of;
	const log = of.log.with({ build: job.id, attempt: job.attempt });
	const next = () => (leaving.aborted || retiring.aborted ? undefined : workshop.platform);
	const running = new Attempt(job, { worker, control, log, next });
	const leave = () => running.stop(new Stopped('leaving'));
	leaving.addEventListener('abort', leave);
	// Its connection ends then, and control gives the job to another.
	if (leaving.aborted) leave();
	log.info('build.began', { app: job.app, environment: job.environment, kind: job.kind });
	try {
		await build(running, workshop, openSteps);
		await running.flush();
		log.info('build.done', {});
		return { whole: true, next: running.next };
	} catch (error) {
		const whole = await ended(running, error, log);
		return { whole, next: running.next };
	} finally {
		leaving.removeEventListener('abort', leave);
		running.close();
	}
}

const STOPPED_AS: Partial<Record<Stopped['why'], EndState>> = { cancelled: 'Cancelled', superseded: 'Superseded', 'timed-out': 'TimedOut' };

/** Tells control, unless that has given the job to another. */
async function ended(attempt: Attempt, failure: unknown, log: Log): Promise<boolean> {
	const error = attempt.stopped.aborted ? (attempt.stopped.reason as unknown) : failure;
	try {
		if (error instanceof Stopped) {
			log.info('build.stopped', { why: error.why });
			const state = STOPPED_AS[error.why];
			if (state !== undefined) await attempt.end(state, error.why, null);
			return true;
		}
		if (error instanceof BuildFault) {
			log.info('build.failed', { state: error.state, reason: error.reason });
			await attempt.end(error.state, error.reason, error.detail());
			return true;
		}
		// Refused artifacts have ended: control has said so in the build itself.
		if (error instanceof Refused && error.status < 500 && error.status !== 401) {
			log.warn('build.refused', { code: error.code, error });
			return true;
		}
		log.error('build.broke', { error });
		attempt.line(
			'jibe',
			'jibe',
			`this builder failed, and another attempt is made: ${error instanceof Error ? error.message : String(error)}`,
		);
		await attempt.flush();
		return false;
	} catch (cause) {
		log.warn('build.end_untold', { error: cause });
		return cause instanceof Refused;
	}
}

import { systemClock } from '#clock/clock.ts';
import type { Deployment } from '#wire/api.ts';
import { reached } from '#wire/reached.ts';
import { EXIT, Failure, type Exit } from './failure.ts';
import { exitFor, type Outcome } from './follow.ts';
import { failureOf, isLive, tellOutcome } from './outcome.ts';
import type { Output } from './output.ts';

/** What this command knows of the deployment beyond what control says. */
export interface Known {
	uploadedBytes?: number;
	modules?: { compiled: number; cached: number };
	timings?: { bootMs?: number; scanMs?: number; compileMs?: number; uploadMs?: number };
}

/** The last words of a verb that made a deployment: for a person, for scripts, and as the exit code. */
export function conclude(out: Output, outcome: Outcome, known: Known): Exit {
	const { deployment, detached } = outcome;
	const totalMs = systemClock.monotonic();
	const exit = exitFor(outcome);
	tellOutcome(out, outcome, totalMs);
	const fields = outcomeFields(deployment, known, totalMs);
	if (exit !== EXIT.done) {
		const { code, message, hint } = failureOf(deployment);
		throw new Failure(code, exit, message, { hint, fields });
	}
	out.result(fields, lastLines(deployment, detached));
	return exit;
}

function lastLines(deployment: Deployment, detached: boolean): string[] {
	const { id, kind } = deployment;
	const where = `→ ${reached(deployment)}`;
	if (detached || !isLive(deployment)) return [`${id} is under way (${deployment.state}): jibe status ${deployment.app}`];
	return [kind === 'rollback' ? where : `${where}   (rollback: jibe rollback ${id})`];
}

/** The object that `--json` prints: a contract. */
function outcomeFields(deployment: Deployment, known: Known, totalMs: number): Record<string, unknown> {
	const { id, kind, app, environment, release, artifact, commit, state, reason, regions, url, host } = deployment;
	const { bootMs = 0, scanMs = 0, compileMs = 0, uploadMs = 0 } = known.timings ?? {};
	const { prepareMs, canaryMs, rolloutMs } = deployment.timings;
	return {
		deployment: id,
		kind,
		app,
		environment,
		release: `v${release}`,
		artifact,
		commit,
		state,
		reason,
		modules: known.modules ?? deployment.modules ?? { compiled: 0, cached: 0 },
		uploadedBytes: known.uploadedBytes ?? 0,
		regions: regions.map((region) => ({ name: region.name, state: region.state, ms: region.ms })),
		url,
		...(host ? { host } : {}),
		timings: rounded({ bootMs, scanMs, compileMs, uploadMs, prepareMs, canaryMs, rolloutMs, totalMs }),
	};
}

/** The same object for a deploy that ended before anything was sent: no deployment came of it. */
export function unsentFields(
	{ app, environment }: { app: string; environment: string },
	{ state, reason, ...known }: { state: 'BuildFailed' | 'TestFailed'; reason: string; artifact?: string; modules?: Known['modules'] },
): Record<string, unknown> {
	return {
		deployment: null,
		kind: 'deploy',
		app,
		environment,
		release: null,
		artifact: known.artifact ?? null,
		commit: null,
		state,
		reason,
		modules: known.modules ?? { compiled: 0, cached: 0 },
		uploadedBytes: 0,
		regions: [],
		url: null,
		timings: rounded({ totalMs: systemClock.monotonic() }),
	};
}

function rounded(timings: Record<string, number | null>): Record<string, number | null> {
	return Object.fromEntries(Object.entries(timings).map(([name, ms]) => [name, ms === null ? null : Math.round(ms * 10) / 10]));
}

import { isoTime, systemClock } from '#clock/clock.ts';
import type { Deployment } from '#wire/api.ts';
import type { BuildLogLine, BuildView, StatusAnswer } from '#wire/builds.ts';
import { ago, seconds } from './output.ts';

/** Builds in words. */

/** How long it was in each state, as far as that is over: `Queued 0.1s, Building 2.3s`. */
export function stageTimings(stages: Deployment['stages'], endedAt: number | null): string {
	const spans = stages.flatMap(({ state, at }, index) => {
		const next = stages[index + 1]?.at ?? (index === stages.length - 1 && !FINAL.has(state) ? (endedAt ?? systemClock.now()) : null);
		return next === null ? [] : [`${state} ${seconds(Math.max(0, next - at))}`];
	});
	return spans.join(', ');
}

const FINAL: ReadonlySet<string> = new Set([
	'Deployed', 'RolledBack', 'BuildFailed', 'TestFailed', 'DeployFailed', 'Cancelled', 'Superseded', 'TimedOut',
]); // prettier-ignore

/** What `status` says of builds. A control of the version before says nothing of them. */
export function buildLines({ build, built, verification, deployment }: Partial<StatusAnswer>): string[] {
	return [
		...(deployment ? [`  ${stageTimings(deployment.stages, deployment.endedAt)}`] : []),
		...(built?.metadata ? [`  built by ${built.metadata.builder} with ${built.metadata.toolchain} on ${built.metadata.platform}`] : []),
		...(verification?.state === 'unreproducible'
			? [`! unreproducible: ${verification.build} made something else of the same source`, ...indented(verification.detail)]
			: []),
		...(build ? newest(build) : []),
	];
}

function newest(build: BuildView): string[] {
	const { id, commit, branch, state, reason, detail, createdAt, endedAt, stages, steps, dead } = build;
	const of = `${commit === null ? 'a directory' : commit.slice(0, 10)}${branch === null ? '' : ` of ${branch}`}`;
	const running = steps.filter((step) => step.state === 'running').map(({ name }) => name);
	return [
		`build: ${id} of ${of}, ${state}${reason === null ? '' : ` (${reason})`}, ${ago(systemClock.now() - createdAt)}, by ${build.by}`,
		`  ${stageTimings(stages, endedAt)}`,
		...(running.length > 0 && endedAt === null ? [`  running: ${running.join(', ')} (jibe logs --build ${id} -f)`] : []),
		...indented(detail),
		...(dead ? [`! no builder got to its end: jibe retry ${id}`] : []),
	];
}

function indented(text: string | null): string[] {
	return text === null ? [] : text.split('\n').map((line) => `  ${line}`);
}

export function logWords({ at, step, stream, text }: BuildLogLine): string {
	return `${isoTime(at)} ${step}${stream === 'err' ? ' !' : stream === 'jibe' ? ' ·' : ''} ${text}`;
}

import { judgeProbes, PROBE_COUNT, PROBE_DISCARD, probeError, type ProbeVerdict } from '#canary/probe-gate.ts';
import type { Effect } from '#rollout/rollout.ts';
import type { Lane, Walk } from './lane.ts';

/** Has a region's edge ask the new release and the current one in turns, and tells the rollout how it came out. */
export function askProbes(lane: Lane, walk: Walk, { region, current, early }: Extract<Effect, { type: 'probe' }>): void {
	const { release, plan } = walk.rollout;
	const { app, environment } = lane;
	lane.hub
		.probe({
			region,
			app,
			environment,
			releases: current === null ? [release] : [release, current],
			discard: PROBE_DISCARD,
			count: PROBE_COUNT,
			...(early ? { whenReady: true } : {}),
		})
		.then(
			(probed) => {
				if (probed.error !== null) return failedToAsk(lane, probed.error);
				return told(judgeProbes(probed.samples, { release, current, strict: plan.strict }));
			},
			(error: unknown) => failedToAsk(lane, error),
		)
		.then((verdict) =>
			lane.exclusive(async () => {
				// Read anew since: whoever holds it now has asked again.
				if (!lane.walks.includes(walk)) return;
				await lane.tell(walk, { type: 'probed', region, ...verdict, ...(early ? { early } : {}) });
				lane.look();
			}),
		)
		.catch((error: unknown) => lane.log.warn('gate.answer_lost', { region, error }));
}

function failedToAsk(lane: Lane, error: unknown) {
	lane.log.warn('gate.probe_failed', { error });
	const verdict = told(probeError());
	return { ...verdict, detail: `${verdict.detail}: ${error instanceof Error ? error.message : String(error)}` };
}

function told(verdict: ProbeVerdict) {
	const { status, p50Ms, tail } = verdict;
	return { verdict: verdict.verdict, status, p50Ms, maxMs: tail.ms, detail: describe(verdict) };
}

function describe(of: ProbeVerdict): string {
	switch (of.reason) {
		case 'bad_status':
			return of.status === 0 ? 'a probe got no answer' : `a probe was answered with ${of.status}`;
		case 'slow':
			return `median ${of.p50Ms.toFixed(1)} ms, ${of.currentP50Ms?.toFixed(1)} ms before`;
		case 'too_few':
			return `only ${of.judged} of ${PROBE_COUNT} probes were answered`;
		case 'probe_failed':
			return 'the region could not be asked';
		case null:
			return `${of.judged} probes passed`;
	}
}

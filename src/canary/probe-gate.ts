/** The first gate: a few requests sent to the new release and to the current one in turns, before more regions follow. */

export const PROBE_DISCARD = 5;
export const PROBE_COUNT = 20;
/** The new release's median may be this many times the current one's… */
const MEDIAN_FACTOR = 2;
/** …or this much above it, whichever allows more: a fresh process is slower for its first requests. */
const MEDIAN_SLACK_MS = 20;
/** Below this many samples the 99th percentile is the maximum, so the maximum is what is shown. */
const P99_SAMPLES = 100;

export interface ProbeSample {
	release: number;
	/** 0 when there was no answer. */
	status: number;
	ms: number;
}

export interface ProbeQuestion {
	release: number;
	/** What serves now, to compare with; null when nothing does. */
	current: number | null;
	/** Which statuses are right: 2xx and 3xx (true), or anything below 500. */
	strict: boolean;
}

export interface ProbeVerdict {
	verdict: 'pass' | 'fail' | 'inconclusive' | 'error';
	/** Machine-readable; null for a pass. */
	reason: 'bad_status' | 'slow' | 'too_few' | 'probe_failed' | null;
	/** The first wrong status, else the last one seen; 0 when nothing answered. */
	status: number;
	p50Ms: number;
	tail: { name: 'max' | 'p99'; ms: number };
	/** The current release's median, when it could be compared with. */
	currentP50Ms: number | null;
	judged: number;
}

/** Judges the samples of both releases in the order in which they were taken; the first of each release warm it up and don't count. */
export function judgeProbes(samples: readonly ProbeSample[], of: ProbeQuestion): ProbeVerdict {
	const judged = samplesOf(samples, of.release);
	const currents = of.current === null ? [] : samplesOf(samples, of.current).filter((sample) => isRight(sample.status, of.strict));
	const wrong = judged.find((sample) => !isRight(sample.status, of.strict));
	const p50Ms = median(judged.map((sample) => sample.ms));
	const currentP50Ms = currents.length === 0 ? null : median(currents.map((sample) => sample.ms));
	const seen = {
		status: (wrong ?? judged.at(-1))?.status ?? 0,
		p50Ms,
		tail: tail(judged.map((sample) => sample.ms)),
		currentP50Ms,
		judged: judged.length,
	};
	if (wrong) return { verdict: 'fail', reason: 'bad_status', ...seen };
	if (judged.length < PROBE_COUNT) return { verdict: 'inconclusive', reason: 'too_few', ...seen };
	const limitMs = currentP50Ms === null ? Infinity : Math.max(MEDIAN_FACTOR * currentP50Ms, currentP50Ms + MEDIAN_SLACK_MS);
	if (p50Ms > limitMs) return { verdict: 'fail', reason: 'slow', ...seen };
	return { verdict: 'pass', reason: null, ...seen };
}

/** What to record when the question could not be asked. */
export function probeError(): ProbeVerdict {
	return { verdict: 'error', reason: 'probe_failed', status: 0, p50Ms: 0, tail: { name: 'max', ms: 0 }, currentP50Ms: null, judged: 0 };
}

function samplesOf(samples: readonly ProbeSample[], release: number): ProbeSample[] {
	return samples.filter((sample) => sample.release === release).slice(PROBE_DISCARD);
}

function isRight(status: number, strict: boolean): boolean {
	return strict ? status >= 200 && status < 400 : status >= 100 && status < 500;
}

function tail(values: number[]): ProbeVerdict['tail'] {
	const sorted = values.toSorted((a, b) => a - b);
	if (sorted.length < P99_SAMPLES) return { name: 'max', ms: sorted.at(-1) ?? 0 };
	return { name: 'p99', ms: sorted[Math.ceil(sorted.length * 0.99) - 1]! };
}

function median(values: number[]): number {
	const sorted = values.toSorted((a, b) => a - b);
	const middle = sorted.length / 2;
	if (sorted.length === 0) return 0;
	return Number.isInteger(middle) ? (sorted[middle - 1]! + sorted[middle]!) / 2 : sorted[Math.floor(middle)]!;
}

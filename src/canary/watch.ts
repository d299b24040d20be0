/**
 * Is the new release doing harm? Asked again and again from its first pointer write to the end of its watch, so that
 * the chance of a false alarm has to hold for all the looks together. Two kinds of evidence: what agents say of its
 * instances, and the errors that edges count. No evidence is no harm; a gate that demands data asks elsewhere.
 */

/** An error rate has to exceed this many times the current release's… */
const ERROR_FACTOR = 2;
/** …with at least this many errors. */
const MIN_ERRORS = 5;
/** Chance of a false alarm over a whole watch, shared evenly among its looks of one a second. */
const FALSE_ALARMS_PER_WATCH = 0.001;
/** What is assumed of a current release of which little was seen: one error in a hundred requests. */
const PRIOR_REQUESTS = 100;
const PRIOR_ERRORS = 1;
/** Restarts within 60 s that make a crash loop. */
const CRASH_LOOP_RESTARTS = 5;
/** This share of the instances may be unhealthy before it counts against the release. */
const UNHEALTHY_SHARE = 0.2;
/** …and not before it has lasted this long: one missed check is no harm. */
export const UNHEALTHY_FOR_MS = 10_000;

export interface Counts {
	requests: number;
	errors: number;
}

export interface WatchedInstance {
	healthy: boolean;
	failed: boolean;
	/** In the last 60 s. */
	restarts: number;
	/** Since when it has been unhealthy or failed; null while it is well. */
	badSince: number | null;
}

export interface Evidence {
	/** The new release's requests since its first pointer moved. */
	next: Counts;
	/** The current release's over the same time and the minutes before it. */
	current: Counts;
	/** Of the new release, in the regions that it serves. */
	instances: readonly WatchedInstance[];
	watchMs: number;
}

/** `verdict`: somebody outside saw it. */
export type Harm = { reason: 'errors' | 'crash_loop' | 'unhealthy' | 'verdict'; detail: string };

export function harmOf(evidence: Evidence, now: number): Harm | null {
	return crashLoop(evidence.instances) ?? unhealthy(evidence.instances, now) ?? tooManyErrors(evidence);
}

/** A release with so many errors in a hundred requests would be no better than one that harms. */
const TOLERATED_RATE = 0.05;
/** Chance of calling one harmless that is worse than that. */
const FALSE_PASSES = 0.05;

/** Enough was seen of it to say that its error rate is not twice the current one's, nor above what is tolerated anywhere. */
export function shownHarmless({ next, current }: Evidence): boolean {
	const currentRate = current.requests === 0 ? 0 : current.errors / current.requests;
	const worst = Math.min(0.99, Math.max(ERROR_FACTOR * currentRate, TOLERATED_RATE));
	// The chance of no more errors than these, were it that bad.
	return 1 - binomialTail(next.requests, worst, next.errors + 1) <= FALSE_PASSES;
}

function crashLoop(instances: readonly WatchedInstance[]): Harm | null {
	const looping = instances.filter((instance) => instance.restarts >= CRASH_LOOP_RESTARTS);
	if (looping.length === 0) return null;
	const most = Math.max(...looping.map((instance) => instance.restarts));
	return {
		reason: 'crash_loop',
		detail: `${looping.length} of ${instances.length} instances keep crashing (${most} restarts in a minute)`,
	};
}

function unhealthy(instances: readonly WatchedInstance[], now: number): Harm | null {
	const bad = instances.filter((instance) => instance.badSince !== null && now - instance.badSince >= UNHEALTHY_FOR_MS);
	if (bad.length === 0 || bad.length <= UNHEALTHY_SHARE * instances.length) return null;
	return { reason: 'unhealthy', detail: `${bad.length} of ${instances.length} instances fail their health check` };
}

function tooManyErrors({ next, current, watchMs }: Evidence): Harm | null {
	if (next.errors < MIN_ERRORS) return null;
	const rate = next.errors / next.requests;
	const currentRate = current.requests === 0 ? 0 : current.errors / current.requests;
	if (rate <= ERROR_FACTOR * currentRate) return null;
	const looks = Math.max(1, watchMs / 1000);
	if (chanceUnderTwice(next, current) > FALSE_ALARMS_PER_WATCH / looks) return null;
	return {
		reason: 'errors',
		detail: `${next.errors} of ${next.requests} requests failed (${percent(rate)}); before, ${current.errors} of ${current.requests} (${percent(currentRate)})`,
	};
}

/**
 * Given how many errors both had together, the chance that so many fall to the new release if its true rate were
 * no more than twice the current one's: the exact conditional test of two Poisson rates.
 */
function chanceUnderTwice(next: Counts, current: Counts): number {
	const errors = next.errors + current.errors + PRIOR_ERRORS;
	const weight = ERROR_FACTOR * next.requests;
	return binomialTail(errors, weight / (weight + current.requests + PRIOR_REQUESTS), next.errors);
}

/** P(X ≥ from) for X ~ Binomial(n, p), summed from the largest term down so that it costs little and can't overflow. */
export function binomialTail(n: number, p: number, from: number): number {
	if (from <= 0) return 1;
	if (from > n * p) return sumTerms(n, p, from, 1);
	return 1 - sumTerms(n, p, from - 1, -1);
}

/** Terms from k = `from` in direction `step`, until they no longer matter. */
function sumTerms(n: number, p: number, from: number, step: 1 | -1): number {
	const odds = p / (1 - p);
	let term = Math.exp(logChoose(n, from) + from * Math.log(p) + (n - from) * Math.log1p(-p));
	let sum = 0;
	for (let k = from; k >= 0 && k <= n; k += step) {
		sum += term;
		if (term < sum * 1e-12) break;
		term *= step === 1 ? ((n - k) / (k + 1)) * odds : k / (n - k + 1) / odds;
	}
	return Math.min(1, sum);
}

function logChoose(n: number, k: number): number {
	return logFactorial(n) - logFactorial(k) - logFactorial(n - k);
}

/** Stirling's series, exact by summing below 32. */
function logFactorial(n: number): number {
	if (n < 32) {
		let sum = 0;
		for (let i = 2; i <= n; i++) sum += Math.log(i);
		return sum;
	}
	return n * Math.log(n) - n + 0.5 * Math.log(2 * Math.PI * n) + 1 / (12 * n) - 1 / (360 * n ** 3);
}

function percent(rate: number): string {
	return `${(rate * 100).toFixed(rate < 0.1 ? 1 : 0)} %`;
}

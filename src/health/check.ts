/**
 * The health check of one instance as a value: what to ask next, and what an answer means. Connect first (an app that
 * does not listen yet is told from one that answers badly), then one HTTP request. The asking itself is the agent's.
 */
export interface Rule {
	path: string;
	timeoutMs: number;
	/** true: 2xx and 3xx are healthy. false: anything below 500. */
	strict: boolean;
}

/** An instance must have answered well once within this time. */
export const START_TIMEOUT_MS = 30_000;
/** An app that is up and answers, but badly each time, is given this long: what it still has to do takes seconds, what is broken stays broken. */
export const BAD_ANSWERS_TIMEOUT_MS = 8_000;
/** Between checks once it is up. */
export const CHECK_PERIOD_MS = 5_000;
/** So many checks in a row that fail eject an instance. */
export const MISSES_TO_EJECT = 3;
/** While it starts: soon at first, because most are up within milliseconds; then less often. */
export const RETRY_DELAYS_MS = [2, 5, 10, 20, 40, 80, 160, 250] as const;

export interface Check {
	rule: Rule;
	phase: 'starting' | 'steady';
	startedAt: number;
	healthy: boolean;
	/** Failed checks since the last good one. */
	misses: number;
	/** Since when every check was answered badly; null after one that was not answered, or well. */
	badSince: number | null;
	/** When to ask next. */
	nextAt: number;
	/** What went wrong last, for a person; null after a good check. */
	problem: string | null;
}

/** What the asking came to. */
export type Outcome =
	| { type: 'refused'; code: string }
	| { type: 'answered'; status: number }
	| { type: 'timeout'; after: 'connect' | 'request' }
	| { type: 'broken'; code: string };

export function startCheck(rule: Rule, now: number): Check {
	return { rule, phase: 'starting', startedAt: now, healthy: false, misses: 0, badSince: null, nextAt: now, problem: null };
}

/** For an instance that was healthy when last heard of: adopted, or thawed. The first answer decides. */
export function resumeCheck(rule: Rule, healthy: boolean, now: number): Check {
	const misses = healthy ? 0 : MISSES_TO_EJECT;
	return { rule, phase: 'steady', startedAt: now, healthy, misses, badSince: null, nextAt: now, problem: null };
}

/** Wait until `at`, then connect and request `path`; or give the start up. */
export type Step = { do: 'ask'; at: number; path: string; timeoutMs: number } | { do: 'giveUp'; problem: string };

export function nextStep(check: Check): Step {
	const { rule } = check;
	const limit = Math.min(check.startedAt + START_TIMEOUT_MS, (check.badSince ?? Infinity) + BAD_ANSWERS_TIMEOUT_MS);
	if (check.phase === 'starting' && check.nextAt > limit) {
		return { do: 'giveUp', problem: check.problem ?? 'it never answered' };
	}
	return { do: 'ask', at: check.nextAt, path: rule.path, timeoutMs: rule.timeoutMs };
}

export function record(check: Check, outcome: Outcome, now: number): Check {
	const problem = judge(check.rule, outcome);
	if (problem === null)
		return { ...check, phase: 'steady', healthy: true, misses: 0, badSince: null, problem: null, nextAt: now + CHECK_PERIOD_MS };
	const misses = check.misses + 1;
	if (check.phase === 'starting') {
		const delay = RETRY_DELAYS_MS[Math.min(check.misses, RETRY_DELAYS_MS.length - 1)] ?? CHECK_PERIOD_MS;
		const badSince = outcome.type === 'answered' ? (check.badSince ?? now) : null;
		return { ...check, misses, badSince, problem, nextAt: now + delay };
	}
	return { ...check, healthy: check.healthy && misses < MISSES_TO_EJECT, misses, problem, nextAt: now + CHECK_PERIOD_MS };
}

/** Null when the outcome is a healthy one, else what is wrong with it. */
export function judge(rule: Rule, outcome: Outcome): string | null {
	switch (outcome.type) {
		case 'refused':
			return `nothing listens (${outcome.code})`;
		case 'broken':
			return `the connection broke before an answer to GET ${rule.path} (${outcome.code})`;
		case 'timeout':
			return outcome.after === 'connect'
				? `no connection within ${rule.timeoutMs} ms`
				: `no answer to GET ${rule.path} within ${rule.timeoutMs} ms`;
		case 'answered': {
			const good = rule.strict ? outcome.status >= 200 && outcome.status < 400 : outcome.status < 500;
			return good ? null : `GET ${rule.path} answered ${outcome.status}`;
		}
	}
}

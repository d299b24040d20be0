import type { Deployment } from '#wire/api.ts';

/** The grammar of a rollback: from the history of an environment to the release that it goes to, or why it doesn't. */

export type Past = Pick<Deployment, 'id' | 'kind' | 'release' | 'previous' | 'state' | 'reason'>;

export interface Ask {
	/** Exactly this release. */
	to: number | null;
	/** Undo this deployment, if it serves. */
	undo: string | null;
	/** Insist on a release that was rolled back, or harmful. */
	again: boolean;
	/** The oldest release that knows the data as it is; absent or null: all do, or a person insists. */
	floor?: number | null;
}

export type Choice =
	| { kind: 'go'; release: number; cause: string }
	/** A rollback without arguments that is on its way already. */
	| { kind: 'running'; deployment: string }
	/** There is nothing to go to, but what is on its way can be stopped. */
	| { kind: 'cancel'; deployment: string }
	| {
			kind: 'refused';
			code: 'nothing_serves' | 'no_previous' | 'already_serves' | 'was_rolled_back' | 'not_serving' | 'schema_floor';
			message: string;
			hint: string | null;
	  };

/** `history`: what reached Deployed, the last to do so first; `running`: the deployment that walks, if one does; `serving`: what the pointers name. */
export function chooseTarget(history: readonly Past[], running: Past | null, serving: number | null, ask: Ask): Choice {
	const choice = choose(history, running, serving, ask);
	const { floor = null } = ask;
	return choice.kind === 'go' && floor !== null && choice.release < floor ? belowFloor(choice.release, floor) : choice;
}

function choose(history: readonly Past[], running: Past | null, serving: number | null, ask: Ask): Choice {
	const past = chronicle(history);
	const current = serving === null ? null : past.serving;
	const cause = ask.undo !== null && ask.undo === current?.id ? current : (running ?? current);
	if (!cause) return refused('nothing_serves', 'nothing serves here, so there is nothing to roll back', 'deploy first: `jibe deploy`');
	if (ask.undo !== null && ask.undo !== cause.id) return notServing(past, cause, ask.undo);
	if (ask.to !== null) return exactly(past, cause, running, serving, ask.to, ask.again);
	if (cause === running && running.kind === 'rollback' && running.state !== 'RollingBack')
		return { kind: 'running', deployment: running.id };
	if (ask.undo !== null && cause.kind === 'rollback' && cause.previous !== null) {
		return exactly(past, cause, running, serving, cause.previous, ask.again);
	}
	const target = before(past, cause === running ? null : cause.release, cause.release, ask.again);
	if (target !== null) return { kind: 'go', release: target, cause: cause.id };
	if (cause === running) return { kind: 'cancel', deployment: running.id };
	return refused(
		'no_previous',
		`there is no healthy release before v${cause.release} to go back to`,
		'`jibe history` lists what there was; `--to vN` names one',
	);
}

interface Chronicle {
	/** Releases in the order in which they first reached Deployed. */
	order: number[];
	/** Rolled back, or harmful, and not insisted on since. */
	undone: Set<number>;
	serving: Past | null;
}

function chronicle(history: readonly Past[]): Chronicle {
	const order: number[] = [];
	const undone = new Set<number>();
	let serving: Past | null = null;
	for (const one of history.toReversed()) {
		if (one.state !== 'Deployed') continue;
		if (!order.includes(one.release)) order.push(one.release);
		undone.delete(one.release);
		if (one.kind === 'rollback' && one.previous !== null && one.previous !== one.release) undone.add(one.previous);
		if (one.reason === 'harm') undone.add(one.release);
		serving = one;
	}
	return { order, undone, serving };
}

/** The last good release before `from`, or of all when `from` is null; never `not` itself. */
function before(past: Chronicle, from: number | null, not: number, again: boolean): number | null {
	const end = from === null ? past.order.length : past.order.indexOf(from);
	const good = past.order.slice(0, Math.max(0, end)).filter((release) => release !== not && (again || !past.undone.has(release)));
	return good.at(-1) ?? null;
}

function exactly(past: Chronicle, cause: Past, running: Past | null, serving: number | null, to: number, again: boolean): Choice {
	if (running?.release === to && running.state !== 'RollingBack') return { kind: 'running', deployment: running.id };
	if (!running && serving === to) return refused('already_serves', `v${to} already serves`, null);
	if (past.undone.has(to) && !again) {
		return refused('was_rolled_back', `v${to} was rolled back before`, '`--again` insists on it; a fixed release is better');
	}
	return { kind: 'go', release: to, cause: cause.id };
}

function notServing(past: Chronicle, cause: Past, undo: string): Choice {
	const target = before(past, cause.release, cause.release, false);
	const hint = target === null ? null : `\`jibe rollback\` would go from v${cause.release} to v${target}`;
	return refused('not_serving', `${undo} does not serve: v${cause.release} (${cause.id}) does`, hint);
}

function belowFloor(release: number, floor: number): Choice {
	return refused(
		'schema_floor',
		`v${release} does not know the data any more: migrate.after of v${floor} has changed it, and a rollback brings only code back`,
		`deploy a release that suits the data; \`--past-migration\` goes to v${release} all the same`,
	);
}

function refused(code: Extract<Choice, { kind: 'refused' }>['code'], message: string, hint: string | null): Choice {
	return { kind: 'refused', code, message, hint };
}

/**
 * The life of a deployment as a table. PostgreSQL holds the same edges and a test compares the two;
 * `docs/states.md` draws them and a test compares that as well.
 */
export type State =
	| 'Queued'
	| 'Building'
	| 'Testing'
	| 'Packaging'
	| 'Uploading'
	| 'ReadyToDeploy'
	| 'AwaitingApproval'
	| 'Deploying'
	| 'CanaryCheck'
	| 'RollingOut'
	| 'Deployed'
	| 'RollingBack'
	| 'RolledBack'
	| 'BuildFailed'
	| 'TestFailed'
	| 'DeployFailed'
	| 'Cancelled'
	| 'Superseded'
	| 'TimedOut';

/** What a deployment may be when it is created: a deploy enters the queue, a rollback at Deploying. */
export const FIRST_STATES: readonly State[] = ['Queued', 'Deploying'];

/** Where each state may go. The order is the order in which a deployment meets them; no entry is left out by accident. */
export const EDGES: Readonly<Record<State, readonly State[]>> = {
	Queued: ['Building', 'Testing', 'Packaging', 'Uploading', 'ReadyToDeploy', 'Cancelled', 'Superseded', 'TimedOut'],
	Building: ['Testing', 'Packaging', 'Uploading', 'ReadyToDeploy', 'BuildFailed', 'Cancelled', 'Superseded', 'TimedOut'],
	Testing: ['Packaging', 'Uploading', 'ReadyToDeploy', 'TestFailed', 'Cancelled', 'Superseded', 'TimedOut'],
	Packaging: ['Uploading', 'ReadyToDeploy', 'BuildFailed', 'Cancelled', 'Superseded', 'TimedOut'],
	Uploading: ['ReadyToDeploy', 'DeployFailed', 'Cancelled', 'Superseded', 'TimedOut'],
	ReadyToDeploy: ['AwaitingApproval', 'Deploying', 'Cancelled', 'Superseded', 'TimedOut'],
	AwaitingApproval: ['Deploying', 'Cancelled', 'Superseded', 'TimedOut'],
	Deploying: ['CanaryCheck', 'RollingOut', 'DeployFailed', 'Cancelled', 'Superseded', 'TimedOut'],
	CanaryCheck: ['RollingOut', 'Deployed', 'RollingBack'],
	RollingOut: ['Deployed', 'RollingBack'],
	RollingBack: ['RolledBack'],
	Deployed: [],
	RolledBack: [],
	BuildFailed: [],
	TestFailed: [],
	DeployFailed: [],
	Cancelled: [],
	Superseded: [],
	TimedOut: [],
};

/** Edges that leave out states which not every deployment needs; `docs/states.md` draws them dashed. */
export const SKIPS: readonly (readonly [State, State])[] = [
	['Queued', 'Testing'],
	['Queued', 'Packaging'],
	['Queued', 'Uploading'],
	['Queued', 'ReadyToDeploy'],
	['Building', 'Packaging'],
	['Building', 'Uploading'],
	['Building', 'ReadyToDeploy'],
	['Testing', 'Uploading'],
	['Testing', 'ReadyToDeploy'],
	['Packaging', 'ReadyToDeploy'],
	['ReadyToDeploy', 'Deploying'],
	['Deploying', 'RollingOut'],
	['CanaryCheck', 'Deployed'],
];

export const STATES = Object.keys(EDGES) as State[];

/** Every edge as data: what the table in PostgreSQL must equal. */
export const EDGE_LIST: readonly (readonly [from: State, to: State])[] = STATES.flatMap((from) =>
	EDGES[from].map((to) => [from, to] as const),
);

export class TransitionError extends Error {
	readonly code = 'illegal_transition';
}

/** The state after the edge. @throws TransitionError when the table has no such edge */
export function transition(from: State, to: State): State {
	if (!EDGES[from].includes(to)) throw new TransitionError(`a deployment can't go from ${from} to ${to}`);
	return to;
}

export function isFinal(state: State): boolean {
	return EDGES[state].length === 0;
}

/** A pointer may have moved: from here on only Deployed or RollingBack lead out. */
export function mayHaveMoved(state: State): boolean {
	return state === 'CanaryCheck' || state === 'RollingOut' || state === 'Deployed' || state === 'RollingBack' || state === 'RolledBack';
}

/** Reasons of DeployFailed that are not the app's own fault. */
const PLATFORM_REASONS = new Set(['upload', 'fetch', 'platform', 'room', 'regions_lost']);

export type ExitCode = 0 | 1 | 3 | 4;

/** How the command ends for a deployment in this final state; null while it is still going. */
export function exitCode(state: State, reason: string | null): ExitCode | null {
	switch (state) {
		case 'Deployed':
			return 0;
		case 'BuildFailed':
		case 'TestFailed':
			return 1;
		case 'DeployFailed':
			return reason !== null && PLATFORM_REASONS.has(reason) ? 4 : 1;
		case 'RolledBack':
		case 'Cancelled':
		case 'Superseded':
		case 'TimedOut':
			return 3;
		default:
			return null;
	}
}

import type { Digest } from '#digest/digest.ts';
import type { ArtifactMetadata } from '#wire/builds.ts';
import type { AppConfig } from '#wire/config.ts';
import type { Deployment, DeploymentState, Event, RegionOutcome } from '#wire/api.ts';
import type {
	Gift,
	Instance,
	Known,
	Pointer,
	Probed,
	ReleaseSpec,
	Run,
	ServerState,
	Stats,
	TaskOrder,
	TaskSaid,
	TaskStop,
	Version,
	Want,
} from '#wire/region.ts';

/** What the rollout driver asks of the rest of the house. PostgreSQL and the hub implement these; so does the simulation. */

/** One region's new pointer and run list, written only over the version it was decided on. */
export interface PointerWrite {
	region: string;
	/** The version this was decided on; null: there is no row yet. */
	expect: { epoch: number; version: number } | null;
	pointer: Pointer;
	run: Run[];
}

export interface NewRelease {
	artifact: Digest;
	vendor: Digest | null;
	config: AppConfig;
	/** All that agents and edges need, but for `release` and `deployment`, which the transaction assigns. */
	spec: Omit<ReleaseSpec, 'release' | 'deployment'>;
	/** Every digest that must be stored for the release to start; checked and pinned in the same transaction. */
	blobs: Digest[];
}

export interface NewDeployment {
	app: string;
	environment: string;
	kind: 'deploy' | 'rollback';
	/** A new release, or the number of one that exists. */
	release: NewRelease | number;
	previous: number | null;
	git: { commit: string; branch: string | null; dirty: boolean } | null;
	cause: string | null;
	by: string;
	why: string | null;
	stages: { state: DeploymentState; at: number }[];
	modules: { compiled: number; cached: number } | null;
	url: string;
	/** What the Host header must say, where `url` is a server's address. */
	host?: string | null;
	/** State it is in when the transaction commits; every state in `stages` and this one get an event. */
	state: DeploymentState;
	/** Given the number the release got: what to write. Run inside the transaction, so it must be pure and quick. */
	plan: (release: number, deployment: string) => { rollout: unknown; regions: RegionOutcome[]; writes: PointerWrite[] };
	/** The driver that owns it from the start. */
	owner: string;
	/** Deployments that this one ends in the same transaction (waiting ones it supersedes). */
	supersedes: string[];
	/** It comes of a build, whose id it takes. */
	build?: BuiltBy;
}

/** Which attempt of a build made it: refused with `fenced` when another has it by now. */
export interface BuiltBy {
	id: string;
	attempt: number;
	worker: string;
	/** So many of `stages` have had their event. */
	published: number;
	/** Steps of it go on, and hold back the walk beyond the first region. */
	gating: boolean;
	metadata: ArtifactMetadata | null;
}

/** One step of a deployment: everything in it happens in one transaction, or nothing does. */
export interface Advance {
	deployment: string;
	/** Refused with `fenced` when somebody else took the deployment over. */
	fence: number;
	/** Refused with `stale` unless it is the deployment's version. */
	version: number;
	at: number;
	/** A transition, checked against the table in `pipeline/`; absent: the state stays. */
	to?: DeploymentState;
	reason?: string | null;
	detail?: string | null;
	rollout?: unknown;
	regions?: RegionOutcome[];
	timings?: Deployment['timings'];
	canary?: Deployment['canary'];
	coldStarts?: number;
	watchUntil?: number | null;
	/** From this release on: what is before it does not know the database any more. */
	floor?: number;
	writes?: PointerWrite[];
	events?: { type: string; data: Record<string, unknown> }[];
}

export interface Held {
	deployment: Deployment;
	fence: number;
	version: number;
	/** Who took it last. */
	owner: string;
	/** What `rollout` held when it was last written. */
	rollout: unknown;
}

/** @throws StateError with code fenced, stale, read_only, blob_missing, unknown, illegal_transition */
export interface DeploymentStore {
	create(input: NewDeployment): Promise<Held & { spec: ReleaseSpec; wants: Want[] }>;
	advance(step: Advance): Promise<{ version: number; wants: Want[]; deployment: Deployment }>;
	/** Takes the deployment over: the former owner's next `advance` is refused. Given `from`, only from one of these: else `fenced`. */
	take(deployment: string, owner: string, from?: readonly string[]): Promise<Held>;
	/** Who drives what: the owners of all that is open in each app's environment, and of what was last Deployed there. */
	lanes(of: { app?: string; environment?: string }): Promise<{ app: string; environment: string; owners: string[] }[]>;
	/** Everything not ended, or still watching. */
	open(): Promise<Held[]>;
	deployment(id: string): Promise<Deployment | null>;
	/** Newest first. */
	history(of: { app?: string; environment?: string; limit: number; before?: number }): Promise<Deployment[]>;
	wants(of: { app?: string; environment?: string }): Promise<Want[]>;
	/** Writes run lists or pointers that belong to no deployment (warmth that ended, an app that is removed). */
	write(of: { app: string; environment: string; writes: PointerWrite[]; removed?: boolean }): Promise<Want[]>;
	releases(
		app: string,
		numbers: readonly number[],
	): Promise<(ReleaseSpec & { commit: string | null; createdAt: number; config: AppConfig })[]>;
}

export interface RegionView {
	name: string;
	connected: boolean;
	lastSeenAt: number | null;
	agents: string[];
	edges: string[];
}

/** A server of a region as control hears of it, and what its agent said of it last. One that serves several regions is listed in each. */
export interface ServerView {
	server: string;
	region: string;
	/** Its agent has a link to a depot that control hears. */
	connected: boolean;
	/** Monotonic time since when it has not; null while it has. */
	lostSinceMs: number | null;
	state: ServerState | null;
	/** How far ahead its wall clock was when it said so, with the time that its words took. */
	clockOffMs?: number;
}

export type HubEvent =
	| { type: 'instances'; region: string; app: string; environment: string }
	| { type: 'applied'; items: Known[] }
	| { type: 'lost'; region: string }
	| { type: 'back'; region: string }
	| { type: 'presence'; region: string }
	/** A server of the region came, went, or said what it has. */
	| { type: 'servers'; region: string }
	| { type: 'stats'; stats: Stats }
	| { type: 'task'; said: TaskSaid }
	| { type: 'ahead'; region: string; app: string; environment: string; epoch: number; version: number };

/** The regions as control sees them over the depots' links. All queries answer from memory. */
export interface RegionHub {
	regions(): RegionView[];
	/** Every server that was heard of, with those that are away; those of one region, if it is named. */
	servers(region?: string): ServerView[];
	/** All that is wanted anywhere, as far as this process knows. */
	wanted(): Iterable<Want>;
	/** Tells the regions concerned. Fire and forget: a region that misses it asks again when it is back. */
	send(wants: Want[], releases: ReleaseSpec[], gift: Gift | null): void;
	instances(of: { region: string; app: string; environment: string }): Instance[];
	/** As agents said, with the servers they run on and the version that was obeyed then. */
	instancesByServer(of: {
		region: string;
		app: string;
		environment: string;
	}): { server: string; instance: Instance; obeys: Version | undefined }[];
	/** The oldest version that a connected edge of the region obeys; null when there is no edge or one has said nothing. */
	applied(of: { region: string; app: string; environment: string }): { epoch: number; version: number } | null;
	/** @throws with code probe_failed when the region can't be asked within the time limit */
	probe(ask: {
		region: string;
		app: string;
		environment: string;
		releases: number[];
		discard: number;
		count: number;
		/** Not before an instance of the first release is there. */
		whenReady?: boolean;
	}): Promise<Probed>;
	/** Gives a task to an agent, or says again that it is wanted, or that it is not. Fire and forget; what the agent says is an event. */
	task(order: TaskOrder | TaskStop): void;
	subscribe(listener: (event: HubEvent) => void): () => void;
}

/** What the HTTP API asks of the driver. */
export interface Driver {
	deploy(input: DeployInput): Promise<{ deployment: Deployment; already: boolean }>;
	rollback(input: RollbackInput): Promise<{ deployment: Deployment; already: boolean }>;
	cancel(deployment: string, by: string): Promise<Deployment>;
	/** The tests that a deployment waits for have ended: it goes on, or ends TestFailed. */
	tested(deployment: string, verdict: { passed: boolean; summary: string }): Promise<Deployment>;
	/** The checks that hold a deployment in its first region have ended: it goes on, or back. */
	checked(deployment: string, verdict: { passed: boolean; summary: string }): Promise<Deployment>;
	/** A person lets a deployment that waits for one go on. @throws Refusal not_waiting */
	promote(deployment: string, by: string): Promise<Deployment>;
	/** Somebody outside has judged what serves: what is under way or watched ends by it. */
	verdict(ask: VerdictAsk): Promise<VerdictDone>;
	removeApp(app: string, by: string): Promise<void>;
	/** One environment of it goes; a later deploy there begins it anew. */
	removeEnvironment(of: { app: string; environment: string; by: string }): Promise<void>;
	/** What stands by of these releases is let go of: they hold what nobody is to have any more. */
	discard(of: { app: string; environment: string; releases: readonly number[] }): Promise<void>;
	/** Takes up what was going on when control stopped. Call once the hub is listening. */
	resume(): Promise<void>;
	/** Another control process is gone: what it drove is driven from here on. @throws when it has to be tried again */
	takeOver(gone: string): Promise<void>;
	/** This process was away: what others drive meanwhile is theirs. */
	verify(): Promise<void>;
	/** An event of the database, whoever wrote it. */
	heard(event: Event): void;
	/** Reads what is wanted of this app again and ends its read-only state, after `jibe control recover`. */
	recovered(app: string): Promise<void>;
	/** Why control is read-only for this app, or null. */
	readOnly(app: string): string | null;
	/** Another process found out why. */
	setReadOnly(app: string, reason: string): void;
	/** A region, or this process itself, has seen more than the database knows. */
	ahead(of: Known): void;
	/** Which release `rollback` would go to now. */
	rollbackTarget(app: string, environment: string): Promise<{ release: number; warm: boolean; estimateMs: number } | null>;
	/** What a person has to know, or is waited for, a line each. */
	notices(app: string, environment: string): Promise<string[]>;
	/** Why instances stay on a server that they are to leave, in words; null: nothing keeps them. */
	stranded(of: { region: string; app: string; environment: string }): string | null;
	/** Each deployment as it changes; also what the API's progress streams are made of. */
	watch(listener: (deployment: Deployment, event: Pick<Event, 'type' | 'data'>) => void): () => void;
	close(): Promise<void>;
}

export interface DeployInput {
	app: string;
	environment: string;
	release: NewRelease;
	git: { commit: string; branch: string | null; dirty: boolean; ancestors: string[] } | null;
	gift: Omit<Gift, 'artifact'> | null;
	by: string;
	why: string | null;
	force: boolean;
	now: boolean;
	stages: { state: DeploymentState; at: number }[];
	modules: { compiled: number; cached: number } | null;
	/** Prepared everywhere, but no pointer moves before its tests passed. */
	testing?: boolean;
	/** No pointer goes past the first region before the checks beside it passed. */
	checking?: boolean;
	/** What in its migrations is not safe beside what serves: told to who follows it. */
	unsafe?: readonly string[];
	/** It comes of a build, whose id it takes. */
	build?: BuiltBy;
}

export interface RollbackInput {
	app: string;
	environment: string;
	to: number | null;
	undo: string | null;
	again: boolean;
	by: string;
	why: string | null;
	/** Also to a release that does not know the database any more. */
	pastMigration?: boolean;
	/** Harm seen by the watch: goes without a person. */
	automatic?: { reason: string; detail: string };
}

export interface VerdictAsk {
	app: string;
	environment: string;
	verdict: 'pass' | 'fail';
	reason: string;
	/** When what it is about began, wall ms. */
	since: number;
	/** Also when nothing is under way or watched. */
	rollback: boolean;
	by: string;
}

export interface VerdictDone {
	/** stopped: what was under way swings back. rolled-back: what was live does. watch-ended, promoted: well. */
	did: 'stopped' | 'rolled-back' | 'watch-ended' | 'promoted' | 'nothing';
	deployment: string | null;
	/** Why nothing. */
	why: string | null;
}

/** A refusal that the API shows as it is. `status` is the HTTP status. */
export class Refusal extends Error {
	readonly code: string;
	readonly status: number;
	readonly hint: string | null;
	readonly data: unknown;
	constructor(code: string, status: number, message: string, hint: string | null = null, data?: unknown) {
		super(message);
		this.code = code;
		this.status = status;
		this.hint = hint;
		this.data = data;
	}
}

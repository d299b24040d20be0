import type { z } from 'zod';
import type { Clock } from '#clock/clock.ts';
import type { Digest } from '#digest/digest.ts';
import type { DatabaseFacts } from './inspect.ts';
import type { Packages } from './packages.ts';
import type { Builds } from './builds.ts';
import type { CommitStatuses, Deliveries } from './deliveries.ts';
import type { Repositories } from './repositories.ts';
import type { Secrets } from './secrets.ts';
import type { Steps } from './steps.ts';
import type { SignIns } from './sign-ins.ts';
import type { Logins } from './tokens.ts';
import type { Log } from '#log/log.ts';
import type { BlobStore } from '#store/blob-store.ts';
import type { Deployment, DeploymentState, Event, RegionOutcome, Token } from '#wire/api.ts';
import type { ArtifactMetadata } from '#wire/builds.ts';
import type { AppConfig } from '#wire/config.ts';
import type { Pointer, ReleaseSpec, Run, Want } from '#wire/region.ts';
import type { tokenRole } from '#wire/api.ts';
import type { Dump, DumpOptions } from './dump.ts';
import type { Servers } from './joined-servers.ts';

/** What the house remembers: everything below is in PostgreSQL and survives the loss of any program. */
export interface State {
	readonly deployments: Deployments;
	/** The queue of builds. */
	readonly builds: Builds;
	readonly apps: Apps;
	readonly env: Environments;
	readonly blobs: BlobOwners;
	readonly events: Events;
	readonly regions: Regions;
	readonly tokens: Tokens;
	readonly logins: Logins;
	/** Commands that wait for a person with a browser to allow them a token. */
	readonly signIns: SignIns;
	readonly audit: Audit;
	readonly servers: Servers;
	readonly replicas: Replicas;
	readonly packages: Packages;
	readonly secrets: Secrets;
	readonly repositories: Repositories;
	/** Results of build and test steps. */
	readonly steps: Steps;
	readonly deliveries: Deliveries;
	readonly commitStatuses: CommitStatuses;
	/** Who this installation is. Made when the database is first opened. */
	installation(): Promise<Installation>;
	/** One epoch up, and above `above`: every pointer written from now on is newer than any that a region may hold. `lost`: releases may be lost with their numbers. */
	raiseEpoch(by: string, of?: { above?: number; lost?: boolean }): Promise<number>;
	/** Writes what is to hold of an app that a region knew more of than this database, newer than anything a region has seen. */
	recover(of: Recovery): Promise<{ epoch: number; wants: Want[] }>;
	/**
	 * Looks whether this is still the database that control knows: restored, promoted from a standby or copied since, the
	 * epoch is raised. Answers whether it was.
	 */
	checkTimeline(): Promise<boolean>;
	/** Runs `work` while no other control on this database runs such work. @throws StateError database_unavailable */
	alone<T>(work: () => Promise<T>): Promise<T>;
	/** Forgets what retention no longer keeps, and says which blobs must stay in the store. */
	collect(now: number): Promise<Collected>;
	/** All of it as of one moment, for a backup. */
	dump(options: DumpOptions): Promise<Dump>;
	/** What PostgreSQL says of itself. */
	inspect(): Promise<DatabaseFacts>;
	/** Whether PostgreSQL answers now. Never throws. */
	reachable(): Promise<boolean>;
	close(): Promise<void>;
}

/** Where PostgreSQL is: a URL, or what `startPostgres` says. */
export type Connection = string | { host: string; port: number; user: string; password: string; database: string };

export interface StateOptions {
	database: Connection;
	log: Log;
	clock: Clock;
	/** How long a statement waits for a server that is away (default 20 s). */
	retryForMs?: number;
	/** What the database's files are known by where they are ours: a copy of them, or a backup put in their place, is another database. */
	place?: string;
}

/**
 * `fenced`: somebody else took the deployment or the build over. `queue_full`: too many builds wait. `stale`: it moved on since it was read. `read_only`: a region is
 * ahead of this database. `blob_missing`: a release names a blob that its app has not stored. `unknown`: no such row.
 * `illegal_transition`: the state machine has no such edge. `cursor_pruned`: the events from there on are gone or never
 * were: take a snapshot. `database_unavailable`: PostgreSQL did not answer within the time limit. `database_full`.
 */
export type StateErrorCode =
	| 'fenced'
	| 'queue_full'
	| 'stale'
	| 'read_only'
	| 'blob_missing'
	| 'unknown'
	| 'illegal_transition'
	| 'cursor_pruned'
	| 'database_unavailable'
	| 'database_full'
	| 'schema_unknown'
	| ServerErrorCode;

/** Why a machine is not, or no longer, a server of this installation: `servers.ts` says which is which. */
export type ServerErrorCode =
	| 'join_token_unknown'
	| 'join_token_used'
	| 'join_token_expired'
	| 'join_other_region'
	| 'join_roles'
	| 'server_exists'
	| 'server_unknown'
	| 'server_removed'
	| 'server_replaced'
	| 'server_conflict';

export class StateError extends Error {
	readonly code: StateErrorCode;
	constructor(code: StateErrorCode, message: string, options?: ErrorOptions) {
		super(message, options);
		this.code = code;
	}
}

export interface Installation {
	id: string;
	epoch: number;
	privatePem: string;
	publicPem: string;
	createdAt: number;
	/** Jibe's own CA: PEM of its certificate and of its private key. */
	ca: { certificate: string; key: string };
}

/** One region's new pointer and run list, written only over the version it was decided on; null: there is no row yet. */
export interface PointerWrite {
	region: string;
	expect: { epoch: number; version: number } | null;
	pointer: Pointer;
	run: Run[];
}

export interface NewRelease {
	artifact: Digest;
	vendor: Digest | null;
	config: AppConfig;
	spec: Omit<ReleaseSpec, 'release' | 'deployment'>;
	blobs: Digest[];
}

export interface NewDeployment {
	app: string;
	environment: string;
	kind: 'deploy' | 'rollback';
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
	state: DeploymentState;
	/** Called with the numbers it gets, and again with others when another deployment took them meanwhile: must be pure. */
	plan: (release: number, deployment: string) => { rollout: unknown; regions: RegionOutcome[]; writes: PointerWrite[] };
	owner: string;
	supersedes: string[];
	/** It comes of a build, whose id it takes; refused with `fenced` when that is not this attempt's any more. */
	build?: BuiltBy;
}

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

export interface Advance {
	deployment: string;
	fence: number;
	version: number;
	at: number;
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
	rollout: unknown;
}

/** Deployments, releases and pointers. Every change is one transaction. @throws StateError */
export interface Deployments {
	create(input: NewDeployment): Promise<Held & { spec: ReleaseSpec; wants: Want[] }>;
	advance(step: Advance): Promise<{ version: number; wants: Want[]; deployment: Deployment }>;
	/** Takes the deployment over: the former owner's next `advance` is refused. Given `from`, only from one of these: else `fenced`. */
	take(deployment: string, owner: string, from?: readonly string[]): Promise<Held>;
	/** Who drives what: the owners of all that is open in each app's environment, and of what was last Deployed there. */
	lanes(of: { app?: string; environment?: string }): Promise<LaneRow[]>;
	/** Everything not ended, or still watching. */
	open(): Promise<Held[]>;
	deployment(id: string): Promise<Deployment | null>;
	/** Newest first; `before` is a `createdAt`. */
	history(of: { app?: string; environment?: string; limit: number; before?: number }): Promise<Deployment[]>;
	/** All, or those of one app; wants of removed apps too, marked so. */
	wants(of: { app?: string; environment?: string }): Promise<Want[]>;
	write(of: { app: string; environment: string; writes: PointerWrite[]; removed?: boolean }): Promise<Want[]>;
	releases(app: string, numbers: readonly number[]): Promise<ReleaseRow[]>;
	/** The oldest release that knows the data of the environment as it is; null: all do. */
	floor(app: string, environment: string): Promise<number | null>;
	/** With what a new release of the same artifact is made of (`env set`); null when there is no such release. */
	release(app: string, number: number): Promise<StoredRelease | null>;
}

export interface LaneRow {
	app: string;
	environment: string;
	owners: string[];
}

export type ReleaseRow = ReleaseSpec & { commit: string | null; createdAt: number; config: AppConfig };

export interface StoredRelease extends NewRelease {
	app: string;
	environment: string;
	number: number;
	deployment: string;
	git: { commit: string; branch: string | null; dirty: boolean } | null;
	createdAt: number;
}

export interface AppRow {
	app: string;
	/** Those that were ever deployed to, sorted. */
	environments: string[];
	createdAt: number;
	/** Why control may not write its pointers, or null. */
	readOnly: string | null;
}

export interface Apps {
	/** Those not removed, sorted by name. */
	list(): Promise<AppRow[]>;
	/** Forgets the app, its env and its blobs; its history stays. A later deploy begins it anew. */
	remove(app: string, by: string): Promise<void>;
	/** How far the versions had come of what was removed so long ago that nothing else is known of it. */
	forgotten(): Promise<{ epoch: number; versions: ReadonlyMap<string, number> }>;
	/** From now on every write of the app's pointers is refused with `read_only`; null lifts that. */
	setReadOnly(app: string, reason: string | null, by: string): Promise<void>;
}

export interface Environments {
	/** What the next release of (app, environment) gets on top of jibe.json's `env`; `staged`: names changed since the last release. */
	get(app: string, environment: string): Promise<{ values: Record<string, string>; staged: string[] }>;
	change(of: { app: string; environment: string; set: Record<string, string>; unset: readonly string[]; by: string }): Promise<{
		values: Record<string, string>;
		staged: string[];
	}>;
}

/** Which app may read which blobs, and which blobs must stay. */
export interface BlobOwners {
	/** The app stored these; nothing collects them for an hour. Call after the store has them, before `create`. */
	own(app: string, digests: readonly Digest[]): Promise<void>;
	/** Which of these the app owns. */
	owned(app: string, digests: readonly Digest[]): Promise<Set<Digest>>;
	/** Which of these the app must send: not its own, or lost by the store. The others are safe from collection for an hour. */
	missing(app: string, digests: readonly Digest[], store: BlobStore): Promise<Digest[]>;
	/** Control accepted a tree with this root from the app: it may be the base of a delta. The last 50 are remembered. */
	sawManifest(app: string, root: Digest): Promise<void>;
	knowsManifest(app: string, root: Digest): Promise<boolean>;
}

export interface Collected {
	/** All others may be swept from the store (`store/collect.ts`). */
	wanted: Set<Digest>;
	releases: number;
	events: number;
	auditEntries: number;
}

export interface Events {
	/** Events after the cursor, oldest first, at most `limit` (1,000). @throws StateError cursor_pruned */
	after(cursor: number, limit?: number): Promise<Event[]>;
	/** The cursor of the newest event: what a snapshot taken before is older than. */
	latest(): Promise<number>;
	/** Every event committed from now on, once, in order. Returns the way to stop. */
	subscribe(listener: (event: Event) => void): () => void;
	/** Whether the database knows less than was read of it before: it was restored, or another took its place. Reading goes on from what it knows. */
	rewound(): Promise<boolean>;
	/** The cursor of the newest event that was read. */
	seen(): number;
	/** Records something that belongs to no transition (region.lost, …). */
	add(events: readonly NewEvent[]): Promise<void>;
}

export interface NewEvent {
	at: number;
	type: string;
	app: string | null;
	environment: string | null;
	deployment: string | null;
	data: Record<string, unknown>;
}

/** What is to hold of an app after a recovery. */
export interface Recovery {
	app: string;
	by: string;
	/** The highest epoch that any region has seen. */
	above: number;
	/** The highest number of a release that any region has heard of. */
	lastRelease: number;
	/** Whose word was taken, for the audit. */
	took: 'regions' | 'database';
	/** Those that only the regions remember. */
	releases: {
		number: number;
		environment: string;
		deployment: string;
		artifact: Digest;
		vendor: Digest | null;
		config: AppConfig;
		spec: ReleaseSpec;
		blobs: Digest[];
	}[];
	environments: { environment: string; removed: boolean; writes: PointerWrite[] }[];
}

/** A control process on this database. */
export interface ReplicaRow {
	id: string;
	/** Where it is reached. */
	addresses: string[];
	/** Of the machine and directory that it runs in. */
	home: string;
	version: string;
	startedAt: number;
	/** How long ago it last said that it lives, by PostgreSQL's clock. */
	silentMs: number;
}

/** Control processes on this database: each holds a lock that others wait for, and says that it lives. */
export interface Replicas {
	/** Those that joined and have not been found dead. */
	list(): Promise<ReplicaRow[]>;
	/** This process is one from now on, until `leave`. */
	join(of: NewReplica): Promise<Membership>;
}

export interface NewReplica {
	id: string;
	addresses: string[];
	home: string;
	version: string;
	/** Another one is gone: takes over what it drove. When that fails, it is called again. */
	onGone(id: string): Promise<void>;
	/** This one was away or silent for so long that others may have taken over what it drove. */
	onReturned(): Promise<void>;
	/** Others than the usual ones, for tests. */
	times?: { beatMs: number; leaseMs: number; lookMs: number };
}

export interface Membership {
	/** Ids of the others that live, as far as is known. */
	others(): ReadonlySet<string>;
	/** The same with their addresses. */
	peers(): ReplicaRow[];
	/** Resolves at once unless the database was away, and may be another one now: then once that is known. @throws database_unavailable */
	settled(): Promise<void>;
	/** Others may have what it drove at once. */
	leave(): Promise<void>;
}

export interface RegionRow {
	name: string;
	/** Order: the first is the canary region. */
	position: number;
	edgePort: number;
}

export interface Regions {
	/**
	 * These are the local regions of the control that lives in `home` (absent: of the only one), in this order. Those it
	 * left out stay known as long as something is wanted there; those of others stay as they are.
	 */
	set(regions: readonly { name: string; edgePort: number }[], home?: string): Promise<void>;
	list(): Promise<RegionRow[]>;
}

export type TokenRole = z.infer<typeof tokenRole>;

export interface Tokens {
	/** `secret` is shown once and never stored. */
	create(of: NewToken): Promise<{ token: Token; secret: string }>;
	/** The token that this secret belongs to; null when there is none, or it has expired or was revoked. */
	verify(secret: string): Promise<Token | null>;
	list(): Promise<Token[]>;
	/** false: there is no such token, or it was revoked before. Its sessions end too, and the tokens that it allowed. */
	revoke(id: string, by: string): Promise<boolean>;
}

export interface NewToken {
	name: string;
	role: TokenRole;
	apps: string[] | null;
	environments: string[] | null;
	expiresAt: number | null;
	by: string;
}

export interface AuditEntry {
	id: number;
	at: number;
	/** `token:<name>`, `session:<name>`, `jibe` for what it does itself. */
	by: string;
	/** deployment.created, token.created, env.changed, app.removed, … */
	action: string;
	app: string | null;
	environment: string | null;
	detail: Record<string, unknown>;
}

/** Changes made through this interface write their own entry, in the same transaction. */
export interface Audit {
	write(entry: Omit<AuditEntry, 'id'>): Promise<void>;
	/** Newest first; `before` is an id. */
	list(of: { app?: string; limit: number; before?: number }): Promise<AuditEntry[]>;
}

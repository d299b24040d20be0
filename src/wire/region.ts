import { z } from 'zod';
import { appName, deploymentId, digest, environmentName, regionName, releaseNumber, serverName } from './names.ts';

/**
 * What control, depots, agents and edges say to each other: JSON text frames over one WebSocket a program
 * (`/link`), level-triggered. A program serves a list of regions: one on a joined server, several where local
 * regions share a process. Control tells the depot, the depot its agents and edges; reports go the other way.
 * Unknown fields are ignored and unknown message types dropped, so that version N understands N - 1 and N + 1.
 */
export const WIRE_VERSION = 1;
export const MAX_FRAME_BYTES = 32 * 1024 * 1024;
/** A depot silent for this long makes its region lost. */
export const REGION_LOST_AFTER_MS = 15_000;
export const LINK_PING_MS = 5_000;

const weightBp = z.int().min(0).max(10_000);

/** What serves an (app, environment, region): the only switch there is. */
export const pointer = z.object({
	primary: releaseNumber.nullable(),
	candidate: z.object({ release: releaseNumber, weightBp }).nullable(),
	/** Why the pointer may not be moved by a rollout, or null. */
	hold: z.string().nullable(),
});
export type Pointer = z.infer<typeof pointer>;

/** `prepared`: started and checked, no traffic. `serving`: named by the pointer. `warm`: drained, then frozen, for rollback. */
export const runAs = z.enum(['prepared', 'serving', 'warm']);
export type RunAs = z.infer<typeof runAs>;

export const version = z.object({ epoch: z.int().nonnegative(), version: z.int().nonnegative() });
export type Version = z.infer<typeof version>;

export const run = z.object({
	release: releaseNumber,
	instances: z.int().positive(),
	as: runAs,
	/** The version that made it run for traffic, from nothing or from warm: what an agent said before it obeyed that says nothing of now. */
	since: version.optional(),
	/** Which server runs how many of them. Absent: the region's only agent runs all. */
	placed: z.record(serverName, z.int().nonnegative()).optional(),
});
export type Run = z.infer<typeof run>;

/** How many instances of a run this server is to have. */
export function instancesOn(server: string, { instances, placed }: Run): number {
	return placed ? (placed[server] ?? 0) : instances;
}

/**
 * Everything control wants of one (app, environment, region). Ordered by (epoch, version), lexicographic; an
 * older one is refused. An instance of a release that `run` does not name is drained and stopped.
 */
export const want = z.object({
	app: appName,
	environment: environmentName,
	region: regionName,
	epoch: z.int().nonnegative(),
	version: z.int().nonnegative(),
	/** The deployment that wrote this version, if one did. */
	deployment: deploymentId.nullable(),
	pointer,
	run: z.array(run).max(16),
	/** The app is removed: forget it once its instances are gone. */
	removed: z.boolean().optional(),
});
export type Want = z.infer<typeof want>;

export const health = z.object({
	path: z.string(),
	timeoutMs: z.int().positive(),
	/** true: 2xx and 3xx are healthy. false (no `health` in jibe.json): anything below 500. */
	strict: z.boolean(),
});
export type Health = z.infer<typeof health>;

/** An immutable release as agents and edges need it. */
export const releaseSpec = z.object({
	app: appName,
	environment: environmentName,
	release: releaseNumber,
	deployment: deploymentId,
	/** Root digest of the artifact's tree. */
	artifact: digest,
	/** Digest of the vendor pack's tree, or null without dependencies. */
	vendor: digest.nullable(),
	runtime: z.object({ kind: z.enum(['fetch', 'process', 'container', 'static']), node: z.string().optional() }),
	/** fetch: the entry module's path. process: the start command. static: the directory. */
	entry: z.string(),
	env: z.record(z.string(), z.string()),
	/** Name → the version it pins. Values never stand here. */
	secrets: z.record(z.string(), z.int().positive()).optional(),
	health,
	/** Limit of memory of one instance. */
	memoryMiB: z.int().positive(),
	/** Limit of CPU of one instance in thousandths of a core, or null for none. */
	cpuMillis: z.int().positive().nullable(),
	drain: z.object({ requestsMs: z.int().nonnegative(), streamsMs: z.int().nonnegative() }),
	warm: z.enum(['frozen', 'running', 'off']),
	domains: z.array(z.string()),
	/** Where the split's user key comes from, as `header:NAME` or `cookie:NAME`; null: a first-party cookie, else the address. */
	userKey: z.string().nullable(),
	trustedProxies: z.array(z.string()),
});
export type ReleaseSpec = z.infer<typeof releaseSpec>;

/** A manifest entry: digest, size in bytes, executable; or a symbolic link's target. */
export const entry = z.union([z.tuple([digest, z.int().nonnegative(), z.boolean()]).readonly(), z.object({ link: z.string() })]);

/** What a region probably lacks of an artifact, sent along so that nobody has to ask. A hint: everything in it can be fetched. */
export const gift = z.object({
	artifact: digest,
	base: digest.nullable(),
	set: z.record(z.string(), entry),
	delete: z.array(z.string()),
	/** Digest → the blob's bytes in base64. */
	blobs: z.record(z.string(), z.string()),
});
export type Gift = z.infer<typeof gift>;
export const MAX_GIFT_BYTES = 256 * 1024;

export const instanceState = z.enum(['starting', 'prepared', 'serving', 'warm', 'draining', 'failed']);
export const instance = z.object({
	id: z.string(),
	release: releaseNumber,
	state: instanceState,
	healthy: z.boolean(),
	/** `unix:/path/to.sock`, or `tcp:host:port`; null while starting or failed. */
	address: z.string().nullable(),
	pid: z.int().nullable(),
	/** Machine-readable, when failed or unhealthy: fetch, start, app_throws, app_listens, unhealthy, memory, exited, room, platform. */
	reason: z.string().nullable(),
	/** For a person: the app's own words, with the last lines of its output. At most 4 KiB. */
	detail: z.string().nullable(),
	/** Restarts of it in the last 60 s. */
	restarts: z.int().nonnegative(),
	/** The process was not taken from the idle pool. */
	cold: z.boolean(),
	timings: z.object({ fetchMs: z.number(), startMs: z.number(), checkMs: z.number() }).nullable(),
});
export type Instance = z.infer<typeof instance>;

export const role = z.enum(['depot', 'agent', 'edge', 'builder']);
export type Role = z.infer<typeof role>;

const key = { region: regionName, app: appName, environment: environmentName };
const known = z.object({ ...key, epoch: z.int(), version: z.int() });
export type Known = z.infer<typeof known>;

// Up: from agents and edges to the depot, and through it to control.

/** First frame of every connection, from the side that dialled. */
export const hello = z.object({
	type: z.literal('hello'),
	wire: z.int(),
	/** Builders have no links: they ask. */
	role: role.exclude(['builder']),
	server: serverName,
	/** Distinguishes programs of one role on one server: two edges are `edge-0` and `edge-1`. */
	name: z.string(),
	regions: z.array(regionName),
	/** The wants it holds; it is sent what is newer. A depot also learns here of a region ahead of the database. */
	known: z.array(known),
});
/** `run` counts an agent's starts, `count` what it said since. */
export const reportOrder = z.object({ run: z.int().nonnegative(), count: z.int().nonnegative() });
export type ReportOrder = z.infer<typeof reportOrder>;
/**
 * All instances that an agent has of each (app, environment, region) named; replaces what it said of that key before.
 * After each connection an agent says all it has: a key that it does not name within 30 s of its hello has none.
 */
export const instances = z.object({
	type: z.literal('instances'),
	server: serverName,
	groups: z.array(
		z.object({
			...key,
			/** The want that these instances are moved towards. An agent of the version before does not say. */
			obeys: version.optional(),
			/** Which of two reports of one agent is the newer, whichever way they came. An agent of the version before does not say. */
			order: reportOrder.optional(),
			instances: z.array(instance),
		}),
	),
});
/** An edge obeys these versions: every request from now on goes where they say. After each connection it says all of them again. */
export const applied = z.object({
	type: z.literal('applied'),
	server: serverName,
	edge: z.string(),
	items: z.array(known),
});
/** One thing that was looked at; `hint`: what to do. */
export const finding = z.object({
	check: z.string(),
	state: z.enum(['ok', 'warn', 'bad']),
	detail: z.string(),
	hint: z.string().nullable(),
});
const MAX_FINDINGS = 64;
/** What a server has and what of it is taken; an agent says it after each connection and when it changes by much. */
export const serverState = z.object({
	type: z.literal('serverState'),
	server: serverName,
	regions: z.array(regionName),
	/** Jibe's version there. */
	version: z.string(),
	/** `linux-x64-glibc` and the like: what an artifact's platform must match. */
	platform: z.string(),
	cpus: z.int().positive(),
	/** Memory that instances may take in all, and what of it is reserved. */
	budgetMiB: z.int().nonnegative(),
	reservedMiB: z.int().nonnegative(),
	/** What one instance of an app is reserved: its measured memory. */
	appsMiB: z.record(appName, z.int().positive()),
	/** Apps that keep files of their own there (JIBE_DATA_DIR): those don't follow when an instance moves. */
	keeps: z.array(appName).optional(),
	diskMiB: z.int().nonnegative(),
	diskFreeMiB: z.int().nonnegative(),
	/** Its wall clock when it said so, in ms: control tells how far off it is. */
	at: z.number(),
	/** What its agent finds when it looks at the machine and at whom it reaches; said again when it changes. */
	findings: z.array(finding).max(MAX_FINDINGS).optional(),
});
export type ServerState = z.infer<typeof serverState>;
/** Who is connected to a depot, of each region: control counts on exactly these edges. Sent at connection and on change. */
export const presence = z.object({
	type: z.literal('presence'),
	regions: z.array(
		z.object({
			region: regionName,
			agents: z.array(z.object({ server: serverName })),
			edges: z.array(z.object({ server: serverName, name: z.string() })),
		}),
	),
});
/** A DDSketch's buckets: index → count, relative accuracy of `src/histogram/`. Latencies in milliseconds. */
const sketch = z.record(z.string(), z.int().nonnegative());
/** What an edge counted in one second of wall time; sent once the second is over, nothing when there was nothing. */
export const stats = z.object({
	type: z.literal('stats'),
	/** Of the edge: edges of several servers have the same names. */
	server: serverName.optional(),
	edge: z.string(),
	second: z.int(),
	rows: z.array(
		z.object({
			...key,
			release: releaseNumber,
			instance: z.string(),
			/** slot of the user key (0..63) → [requests, errors] */
			slots: z.record(z.string(), z.tuple([z.int(), z.int()])),
			requests: z.int(),
			/** Answers of 500 and above, and requests that got none from the instance. */
			errors: z.int(),
			latency: sketch,
		}),
	),
});
export type Stats = z.infer<typeof stats>;
export const probed = z.object({
	type: z.literal('probed'),
	id: z.string(),
	/** Per release asked for: one sample a request, in order, those to discard too; status 0 when there was no answer. */
	samples: z.array(z.object({ release: releaseNumber, status: z.int(), ms: z.number() })),
	error: z.string().nullable(),
});
export type Probed = z.infer<typeof probed>;
export const logLines = z.object({
	type: z.literal('logLines'),
	id: z.string(),
	lines: z.array(
		z.object({
			at: z.number(),
			region: regionName,
			instance: z.string(),
			release: releaseNumber,
			stream: z.enum(['out', 'err']),
			text: z.string(),
		}),
	),
	/** No more will come for this id. */
	end: z.boolean(),
});
export type LogLines = z.infer<typeof logLines>;
/** How far a task is, said each time that it is asked for and when it ends. */
export const taskSaid = z.object({
	type: z.literal('taskSaid'),
	id: z.string(),
	...key,
	server: serverName,
	state: z.enum(['running', 'passed', 'failed']),
	/** For a person: how it ended, with its last lines. */
	detail: z.string().max(8_000),
	ms: z.number().nonnegative(),
});
export type TaskSaid = z.infer<typeof taskSaid>;

/**
 * From an agent or edge to the depots of other servers: its own server's depot hears it (or not any more), and is who speaks
 * to it and for it. Theirs is to say the same a moment later, in case that one could not.
 */
export const ownDepot = z.object({ type: z.literal('ownDepot'), there: z.boolean() });

/** depot → control: everything that it holds of an app, as it was asked. */
export const held = z.object({ type: z.literal('held'), id: z.string(), wants: z.array(want), releases: z.array(releaseSpec) });
export type Held = z.infer<typeof held>;

// Down: from control to the depot, and from the depot to its agents and edges.

export const welcome = z.object({
	type: z.literal('welcome'),
	wire: z.int(),
	installation: z.string(),
});
export const wants = z.object({
	type: z.literal('wants'),
	wants: z.array(want),
	/** Every release that the wants name. */
	releases: z.array(releaseSpec),
	gift: gift.nullable(),
});
/** depot → agents: every edge that the depot counts on obeys this version, so what it does not name gets no new requests. */
export const settled = z.object({
	type: z.literal('settled'),
	items: z.array(known),
	/** How many edges it counts on. Where a region has several depots, each speaks for its own edges, and one without edges for none. */
	edges: z.int().nonnegative().optional(),
});
export const probe = z.object({
	type: z.literal('probe'),
	id: z.string(),
	...key,
	/** Asked in turns, `discard + count` times each. The first is judged; the second, to compare with, is left out once it is found down. */
	releases: z.array(releaseNumber).min(1).max(2),
	discard: z.int().nonnegative().max(100),
	count: z.int().positive().max(1000),
	/** Asked before it is there: the edge waits for an instance of the first. One of the version before does not, and says so. */
	whenReady: z.boolean().optional(),
});
export const logsWanted = z.object({
	type: z.literal('logsWanted'),
	id: z.string(),
	...key,
	/** Wall time in ms; lines from then on. */
	since: z.number(),
	follow: z.boolean(),
	maxLines: z.int().positive(),
});
export const taskKind = z.enum(['migrate-before', 'smoke-prepared', 'smoke-live', 'migrate-after']);
/**
 * Something that is run once beside a release, on the one server that is named. Control says it again and again while it
 * waits: the agent that has not heard it for `leaseMs` ends it, for somebody else may run it by then.
 */
export const task = z.object({
	type: z.literal('task'),
	/** `dpl_7m4k92/migrate-before/1`: the same one is run once, unless its agent is started anew. */
	id: z.string().max(120),
	...key,
	server: serverName,
	kind: taskKind,
	release: releaseSpec,
	/** For a shell. */
	command: z.string(),
	env: z.record(z.string(), z.string()),
	/** It gets the release's secrets. */
	secrets: z.boolean(),
	timeoutMs: z.int().positive(),
	leaseMs: z.int().positive(),
	/** An edge of the region, and the app's name there; absent: it asks an instance directly. */
	edge: z.object({ host: z.string(), port: z.int(), name: z.string() }).optional(),
});
export type TaskOrder = z.infer<typeof task>;
export const taskStop = z.object({ type: z.literal('taskStop'), id: z.string(), region: regionName, server: serverName });
export type TaskStop = z.infer<typeof taskStop>;
/**
 * The servers of the regions that a program serves, whole: whom it may speak to, where, and by which key. What is not
 * in it is not to be trusted any more, whatever its certificate says. Kept on disk, so that a region works without control.
 */
export const serverPeer = z.object({
	name: serverName,
	region: regionName,
	roles: z.array(role),
	/** Name or address that the region's other servers reach it at. */
	host: z.string(),
	/** Of its depot's and its agent's TLS listeners; null: it has none. */
	depotPort: z.int().nullable(),
	agentPort: z.int().nullable(),
	/** `sha256/<base64>` of its public key's SPKI. */
	spki: z.string(),
	/** Digest of the package of Jibe that it is to run; absent: whatever it has. */
	package: digest.optional(),
});
export type ServerPeer = z.infer<typeof serverPeer>;
export const servers = z.object({
	type: z.literal('servers'),
	/** Counts up with each change: an older one is not taken. */
	version: z.int().nonnegative(),
	/** Every address of control (`https://host:port`). */
	control: z.array(z.string()),
	servers: z.array(serverPeer),
});
export type Servers = z.infer<typeof servers>;
/** control → depot: what does it hold of this app? The database may have been restored, and know less. */
export const heldWanted = z.object({ type: z.literal('heldWanted'), id: z.string(), app: appName });
export const logsDone = z.object({ type: z.literal('logsDone'), id: z.string() });

export const upMessage = z.discriminatedUnion('type', [
	hello,
	instances,
	applied,
	presence,
	stats,
	probed,
	logLines,
	serverState,
	held,
	taskSaid,
	ownDepot,
]);
export type UpMessage = z.infer<typeof upMessage>;
/** A depot passes `instances` on to its edges as the agents said them. */
export const downMessage = z.discriminatedUnion('type', [
	welcome,
	wants,
	settled,
	probe,
	logsWanted,
	logsDone,
	instances,
	servers,
	heldWanted,
	task,
	taskStop,
]);
export type DownMessage = z.infer<typeof downMessage>;
export type Hello = z.infer<typeof hello>;
export type Wants = z.infer<typeof wants>;

/** What an agent said, without what it could not know yet: a release dropped and wanted again is not as healthy as it was before. */
export function upToDate(said: { obeys?: Version | undefined; instances: readonly Instance[] }, runs: readonly Run[]): Instance[] {
	const { obeys, instances: all } = said;
	if (!obeys) return [...all];
	const ahead = new Set(runs.filter(({ since }) => since && compareVersions(obeys, since) < 0).map(({ release }) => release));
	return ahead.size === 0 ? [...all] : all.filter(({ release }) => !ahead.has(release));
}

/** Of two reports of one agent: negative when `a` is the older; null when one of them has no order. */
export function compareReports(a: { order?: ReportOrder | undefined }, b: { order?: ReportOrder | undefined } | undefined): number | null {
	if (!a.order || !b?.order) return null;
	return a.order.run - b.order.run || a.order.count - b.order.count;
}

/** Negative when `a` is older than `b`. */
export function compareVersions(a: { epoch: number; version: number }, b: { epoch: number; version: number }): number {
	return a.epoch - b.epoch || a.version - b.version;
}

export function wantKey(of: { region: string; app: string; environment: string }): string {
	return `${of.region}/${of.app}/${of.environment}`;
}

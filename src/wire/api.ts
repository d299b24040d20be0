import { z } from 'zod';
import { appConfig } from './config.ts';
import { MAX_SECRET_BYTES } from './secrets.ts';
import { appName, deploymentId, digest, environmentName, regionName, releaseNumber, serverName } from './names.ts';
import { entry, finding, pointer } from './region.ts';

/** Schemas of the HTTP API (`/api/v1`). The OpenAPI document is generated from these. */

export const deploymentState = z.enum([
	'Queued', 'Building', 'Testing', 'Packaging', 'Uploading', 'ReadyToDeploy', 'AwaitingApproval', 'Deploying',
	'CanaryCheck', 'RollingOut', 'Deployed', 'RollingBack', 'RolledBack', 'BuildFailed', 'TestFailed', 'DeployFailed',
	'Cancelled', 'Superseded', 'TimedOut',
]); // prettier-ignore
export type DeploymentState = z.infer<typeof deploymentState>;

export const regionOutcome = z.object({
	name: regionName,
	state: z.enum(['waiting', 'prepared', 'live', 'pending', 'skipped', 'failed', 'rolled-back']),
	/** From the creation of the deployment to the last edge's confirmation. */
	ms: z.number().nullable(),
	reason: z.string().nullable(),
});
export type RegionOutcome = z.infer<typeof regionOutcome>;

const manifestDelta = z.object({
	/** Root digest of a manifest that control has seen of this app; null: `set` is the whole. */
	base: digest.nullable(),
	set: z.record(z.string(), entry),
	delete: z.array(z.string()),
});

/** Header of `POST /apps/{app}/deployments`; the new blobs follow it in the upload. */
export const deployRequest = z.object({
	environment: environmentName,
	/** Root digest after the delta is applied: 422 root_mismatch when control computes another. */
	artifact: digest,
	manifest: manifestDelta,
	/** Root digest of the vendor pack's tree. */
	vendor: digest.nullable(),
	/** Sent only when control may not know this vendor tree. */
	vendorManifest: manifestDelta.nullable(),
	/** jibe.json after defaults and `environments` are merged. */
	config: appConfig,
	git: z
		.object({
			commit: z.string(),
			branch: z.string().nullable(),
			dirty: z.boolean(),
			/** Commits known to be ancestors of (or equal to) HEAD. */
			ancestors: z.array(z.string()).max(50),
		})
		.nullable(),
	/** Regions or strategy given on the command line override the config before it is sent; these do not: */
	force: z.boolean(),
	now: z.boolean(),
	reason: z.string().max(500).nullable(),
	/** Stages the CLI went through: Building and the like, with wall times in ms since 1970. */
	stages: z.array(z.object({ state: deploymentState, at: z.number() })).max(10),
	modules: z.object({ compiled: z.int(), cached: z.int() }),
	/** The app's tests run meanwhile: no pointer moves before `…/tests` says that they passed. */
	testing: z.boolean().optional(),
	/** Checks run meanwhile (`gate: "promotion"`): nothing goes past the first region before `…/checks` says that they passed. */
	checking: z.boolean().optional(),
});
export type DeployRequest = z.infer<typeof deployRequest>;

/** How the tests, or the checks, ended that a deployment waits for. */
export const testsRequest = z.object({
	passed: z.boolean(),
	/** For a person: the command, and the last lines of what it printed when it failed. */
	summary: z.string().max(8_000),
});

/** `POST /apps/{app}/promotions`: what serves in another environment, deployed to this one. */
export const promotionRequest = z.object({
	environment: environmentName,
	from: environmentName,
	/** jibe.json for `environment`; null: as of the last release there, or else as of the one that is taken over. */
	config: appConfig.nullable(),
	/** Commits known to be ancestors of the one it was built from. */
	ancestors: z.array(z.string()).max(50),
	force: z.boolean(),
	now: z.boolean(),
	reason: z.string().max(500).nullable(),
});
export type PromotionRequest = z.infer<typeof promotionRequest>;

export const rollbackRequest = z.object({
	environment: environmentName,
	/** Exactly this release. */
	to: releaseNumber.nullable(),
	/** Undo this deployment, if it serves. */
	undo: deploymentId.nullable(),
	/** Insist on a release that was rolled back before. */
	again: z.boolean(),
	/** Also to a release from before a migration that was completed (`migrate.after`). */
	pastMigration: z.boolean().optional(),
	reason: z.string().max(500).nullable(),
});
export type RollbackRequest = z.infer<typeof rollbackRequest>;

export const deployment = z.object({
	id: deploymentId,
	app: appName,
	environment: environmentName,
	kind: z.enum(['deploy', 'rollback']),
	release: releaseNumber,
	/** The release that served when it was created. */
	previous: releaseNumber.nullable(),
	artifact: digest,
	commit: z.string().nullable(),
	branch: z.string().nullable(),
	dirty: z.boolean(),
	state: deploymentState,
	reason: z.string().nullable(),
	/** For a person: what happened, with the app's own words. */
	detail: z.string().nullable(),
	/** The deployment that this rollback undoes. */
	cause: deploymentId.nullable(),
	by: z.string(),
	why: z.string().nullable(),
	createdAt: z.number(),
	endedAt: z.number().nullable(),
	/** Until when harm still swings it back; null when not watching. */
	watchUntil: z.number().nullable(),
	regions: z.array(regionOutcome),
	stages: z.array(z.object({ state: deploymentState, at: z.number() })),
	timings: z.object({ prepareMs: z.number().nullable(), canaryMs: z.number().nullable(), rolloutMs: z.number().nullable() }),
	canary: z.object({ region: regionName, status: z.int(), p50Ms: z.number(), maxMs: z.number() }).nullable(),
	modules: z.object({ compiled: z.int(), cached: z.int() }).nullable(),
	/** How many instances were not taken from the idle pool. */
	coldStarts: z.int(),
	url: z.string(),
	/** What the Host header must say, where `url` is the address of a server and no name leads to the app. */
	host: z.string().nullish(),
});
export type Deployment = z.infer<typeof deployment>;

/** An event of the outbox: ordered by `cursor`, replayable. */
export const event = z.object({
	cursor: z.int(),
	at: z.number(),
	/** deployment.state, deployment.region, deployment.ramp (progress only, never recorded), deployment.task, deployment.checks, deployment.held, deployment.promoted, migration.warning, rollback.held, pointer.written, pointer.applied, region.lost, region.back, instance.failed, harm, app.removed, env.changed, token.created, token.revoked, … */
	type: z.string(),
	app: z.string().nullable(),
	environment: z.string().nullable(),
	deployment: z.string().nullable(),
	data: z.record(z.string(), z.unknown()),
});
export type Event = z.infer<typeof event>;

/**
 * Lines (NDJSON) of the answer to a deploy, rollback or env change: events while it walks, then one result or one error.
 * Their events' `cursor` is 0: they are told before the feed has numbered them. With `?detach=1` the result comes at once.
 */
export const progressLine = z.union([
	z.object({ event }),
	/** `sample`: control asks for the source, to have it built once more on a builder. */
	z.object({ result: deployment, already: z.boolean(), sample: z.boolean().optional() }),
	z.object({ error: z.object({ code: z.string(), message: z.string(), hint: z.string().nullable(), data: z.unknown().optional() }) }),
]);
export type ProgressLine = z.infer<typeof progressLine>;

/** The data of `deployment.ramp`: a canary's weight that is held now. */
export interface RampProgress {
	weightBp: number;
	/** Where. */
	regions: string[];
	/** Until the next weight. */
	leftMs: number;
	/** Of the new release, since its first pointer. */
	requests: number;
	errors: number;
}

export const errorBody = z.object({
	error: z.object({ code: z.string(), message: z.string(), hint: z.string().nullable(), data: z.unknown().optional() }),
});
export type ErrorBody = z.infer<typeof errorBody>;

export const appRegion = z.object({
	region: regionName,
	state: z.enum(['live', 'moving', 'pending', 'lost', 'empty']),
	reason: z.string().nullable(),
	wanted: z.object({ epoch: z.int(), version: z.int(), pointer }),
	/** What the slowest reachable edge obeys. */
	applied: z.object({ epoch: z.int(), version: z.int() }).nullable(),
	instances: z.array(
		z.object({
			server: z.string(),
			release: releaseNumber,
			state: z.string(),
			healthy: z.boolean(),
			pid: z.int().nullable(),
			restarts: z.int(),
			reason: z.string().nullable(),
		}),
	),
	/** Why instances are not on the servers where they should be, in words; null: they are, or are on their way. */
	stranded: z.string().nullable().optional(),
	/** Rollback would start from disk: nothing is warm any more. */
	warmRelease: releaseNumber.nullable(),
});

export const appStatus = z.object({
	app: appName,
	environment: environmentName,
	url: z.string(),
	host: z.string().nullish(),
	serving: releaseNumber.nullable(),
	commit: z.string().nullable(),
	deployment: deployment.nullable(),
	watching: z.boolean(),
	rollbackTo: z.object({ release: releaseNumber, warm: z.boolean(), estimateMs: z.number() }).nullable(),
	/** Why control is read-only for the app, or null. */
	readOnly: z.string().nullable(),
	/** What a person is waited for with, or ought to know. */
	notices: z.array(z.string()).optional(),
	regions: z.array(appRegion),
});
export type AppStatus = z.infer<typeof appStatus>;

export const regionStatus = z.object({
	name: regionName,
	state: z.enum(['connected', 'lost']),
	lastSeenAt: z.number().nullable(),
	servers: z.int(),
	edges: z.int(),
	/** Of all apps, as agents say. */
	instances: z.int().optional(),
	edgeUrl: z.string(),
});

export const tokenRole = z.enum(['viewer', 'deployer', 'admin']);
export const token = z.object({
	id: z.string(),
	name: z.string(),
	role: tokenRole,
	/** deployer: only these apps; null: all. */
	apps: z.array(appName).nullable(),
	environments: z.array(environmentName).nullable(),
	createdAt: z.number(),
	expiresAt: z.number().nullable(),
	revokedAt: z.number().nullable(),
	lastUsedAt: z.number().nullable(),
});
export type Token = z.infer<typeof token>;
export const tokenRequest = z.object({
	name: z.string().min(1).max(80),
	role: tokenRole,
	apps: z.array(appName).nullable(),
	environments: z.array(environmentName).nullable(),
	expiresInDays: z.int().positive().max(3650).nullable(),
});

export const envChange = z.object({
	environment: environmentName,
	set: z.record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/), z.string().max(32_768)),
	unset: z.array(z.string()),
	/** Only remember it for the next deploy. */
	stage: z.boolean(),
});

const secretName = z
	.string()
	.max(128)
	.regex(/^[A-Za-z_][A-Za-z0-9_]*$/);
/** PUT /apps/{app}/secrets */
export const secretChange = z.object({
	environment: environmentName,
	name: secretName.refine((name) => !/^(PORT|JIBE_.*)$/.test(name), 'this name is set by Jibe itself'),
	value: z
		.string()
		.min(1)
		.refine((value) => Buffer.byteLength(value) <= MAX_SECRET_BYTES, `a secret may have ${MAX_SECRET_BYTES} bytes`),
	/** Only for the next deploy. */
	stage: z.boolean().default(false),
	/** Versions before this one end as soon as nothing serves with them. */
	revokeOld: z.boolean().default(false),
});
export const secretRemoval = z.object({ environment: environmentName, name: secretName });
/** What PUT answers where nothing is deployed. */
export const secretAnswer = z.object({ name: z.string(), version: z.int(), deploys: z.boolean() });
/** GET /apps/{app}/secrets?environment=: never a value. */
export const secretsList = z.object({
	secrets: z.array(
		z.object({
			name: z.string(),
			versions: z.array(
				z.object({ version: z.int(), state: z.enum(['current', 'previous', 'revoked']), setAt: z.number(), by: z.string() }),
			),
		}),
	),
});
export type SecretsList = z.infer<typeof secretsList>;
/** POST /secrets/rotations. `lostKey`: what the former master key sealed is given up. */
export const rotation = z.object({ lostKey: z.boolean().default(false) });
export const rotationAnswer = z.object({
	keyId: z.string(),
	rewrapped: z.int(),
	lost: z.array(z.object({ app: z.string(), environment: z.string(), name: z.string() })),
});

/** Asked by a program that `jibe up` starts: a credential of its own. Admin only. */
export const credentialRequest = z.object({
	role: z.enum(['depot', 'agent', 'edge', 'builder']),
	server: z.string(),
	regions: z.array(regionName),
});
export const credentialAnswer = z.object({ credential: z.string(), publicKey: z.string(), installation: z.string() });

export const releaseAnswer = z.object({
	release: releaseNumber,
	environment: environmentName,
	artifact: digest,
	vendor: digest.nullable(),
	config: appConfig,
	commit: z.string().nullable(),
	/** Path → entry; null when they are not kept any more. */
	files: z.record(z.string(), entry).nullable(),
});
export type ReleaseAnswer = z.infer<typeof releaseAnswer>;

export const missingRequest = z.object({ digests: z.array(digest).max(200_000) });
export const missingAnswer = z.object({ missing: z.array(digest) });

/**
 * `GET /trees/{root}` of control (for depots) and of a depot (for agents): the whole tree, path → entry. The receiver
 * computes the root again. `GET /blobs/{digest}` answers the blob's bytes. Both want the program's credential as bearer.
 */
export const treeAnswer = z.object({ set: z.record(z.string(), entry) });
export type TreeAnswer = z.infer<typeof treeAnswer>;

/**
 * `POST /blobs` of control and of a depot, with a program's credential: many small blobs in one answer, an upload
 * (`wire/upload.ts`) of those that fit into MAX_BLOBS_ANSWER_BYTES, at least one. The caller asks again for the rest.
 */
export const blobsRequest = z.object({ digests: z.array(digest).min(1).max(20_000) });
export const MAX_BLOBS_ANSWER_BYTES = 16 * 1024 * 1024;

// Answers of the API, by path below /api/v1.

/** GET /apps */
export const appsAnswer = z.object({
	apps: z.array(
		z.object({
			app: appName,
			createdAt: z.number(),
			readOnly: z.string().nullable(),
			environments: z.array(
				z.object({ environment: environmentName, serving: releaseNumber.nullable(), url: z.string(), host: z.string().nullish() }),
			),
		}),
	),
});
/** GET /deployments?app=&environment=&limit=&before= (newest first; `before` is a createdAt) */
export const deploymentsAnswer = z.object({ deployments: z.array(deployment) });
/** GET /deployments/{id} · POST /deployments/{id}/cancel · …/abort */
export const deploymentAnswer = z.object({ deployment });
/** GET /regions */
export const regionsAnswer = z.object({ regions: z.array(regionStatus) });
/** GET /apps/{app}/env?environment=: what is set by `jibe env` on top of jibe.json. */
export const envAnswer = z.object({
	values: z.record(z.string(), z.string()),
	/** Names changed since the last release. */
	staged: z.array(z.string()),
});
/** GET /tokens */
export const tokensAnswer = z.object({ tokens: z.array(token) });
/** POST /tokens: the secret is shown this once. */
export const tokenAnswer = z.object({ token, secret: z.string() });
/** POST /logins: a link that signs one browser in, once. */
export const loginAnswer = z.object({ url: z.string(), expiresAt: z.number() });
/** GET /audit?app=&limit=&before= (newest first; `before` is an id) */
export const auditAnswer = z.object({
	entries: z.array(
		z.object({
			id: z.int(),
			at: z.number(),
			by: z.string(),
			action: z.string(),
			app: z.string().nullable(),
			environment: z.string().nullable(),
			detail: z.record(z.string(), z.unknown()),
		}),
	),
});
/** Lines (NDJSON) of GET /apps/{app}/logs?environment=&since=&follow=&lines=&region=; `since` is wall time in ms, `follow` 1 or 0. */
export const logLine = z.object({
	at: z.number(),
	region: regionName,
	instance: z.string(),
	release: releaseNumber,
	stream: z.enum(['out', 'err']),
	text: z.string(),
});
/** Frames of the WebSocket feed `/events?after=<cursor>`; without `after`, and when that cursor is gone, a snapshot comes first. */
export const feedFrame = z.union([
	z.object({ event }),
	z.object({
		snapshot: z.object({
			cursor: z.int(),
			apps: z.array(appStatus),
			regions: z.array(regionStatus),
			deployments: z.array(deployment),
		}),
	}),
]);
export type FeedFrame = z.infer<typeof feedFrame>;

/** What is known of a server, and what its agent finds there. */
export const serverCheckup = z.object({ name: serverName, region: z.string(), findings: z.array(finding) });
export const doctorAnswer = z.object({ findings: z.array(finding), servers: z.array(serverCheckup) });

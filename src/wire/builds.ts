import { z } from 'zod';
import { deploymentId, appName, digest, environmentName } from './names.ts';
import { appStatus, deployRequest, deployment, deploymentState, deploymentsAnswer, event, missingRequest } from './api.ts';

/**
 * Builds: what becomes a release on a builder instead of on a laptop. A build carries the id that its deployment will have
 * (`dpl_…`): until its artifact is taken it is a row of its own in one of the states Queued to Uploading, then the
 * deployment goes on under the same id.
 *
 * Builders ask control, with their credential as bearer: `POST /api/v1/builds/claim` waits for a job; then, with the
 * attempt they were given, `…/{id}/beat`, `…/{id}/stages`, `…/{id}/log`, `GET …/{id}/source`, `…/{id}/missing`,
 * `PUT …/{id}/blobs`, `POST …/{id}/artifact`, and `…/{id}/end`, whose answer may be the next job. Whoever was fenced is answered 409 `fenced` by every one of them.
 */
export const LEASE_MS = 30_000;
export const BEAT_MS = 10_000;
export const MAX_ATTEMPTS = 3;
export const BUILD_LIMIT_MS = 30 * 60_000;
/** How long a claim waits for a job before it is answered 204. */
export const CLAIM_WAIT_MS = 25_000;

/** Who may read what this build writes into caches: production's builds never read what previews or forks wrote. */
export const trustDomain = z.enum(['production', 'preview', 'fork']);
export type TrustDomain = z.infer<typeof trustDomain>;

/** Higher goes first; equal ones are fair between apps. */
export const PRIORITIES = { hotfix: 30, rollback: 25, production: 20, remote: 20, preview: 10, verify: 0 } as const;
export const priorityName = z.enum(['hotfix', 'rollback', 'production', 'remote', 'preview', 'verify']);

/** `linux-x64-glibc`: what artifacts with native code differ by. */
export const platform = z.string().regex(/^(linux|darwin)-(x64|arm64)(-(glibc|musl))?$/);

export const buildSource = z.discriminatedUnion('kind', [
	/** A commit of a bare repository that control keeps: `<data>/git/<repository>.git`. */
	z.object({ kind: z.literal('git'), repository: z.string(), commit: z.string().regex(/^[0-9a-f]{40,64}$/) }),
	/** A `.tar.zst` that the laptop sent, as a blob of the app. */
	z.object({ kind: z.literal('tar'), digest }),
]);
export type BuildSource = z.infer<typeof buildSource>;

/** What is asked of the queue. */
export const newBuild = z.object({
	app: appName,
	environment: environmentName,
	/** deploy: its artifact goes live; verify: it is compared with `artifact` and thrown away. */
	kind: z.enum(['deploy', 'verify']),
	source: buildSource,
	/** One build at a time runs of those with the same lane: the repository, or the app where there is none. */
	lane: z.string().max(300),
	/** Of the app inside the source, '' for its root. */
	directory: z.string(),
	commit: z.string().nullable(),
	/** The source is not exactly that commit. */
	dirty: z.boolean().optional(),
	branch: z.string().nullable(),
	author: z.string().nullable(),
	/** First line of the commit's message. */
	subject: z.string().nullable(),
	/** Commits known to be ancestors of the commit or equal to it, newest first. */
	ancestors: z.array(z.string()).max(50),
	trust: trustDomain,
	priority: priorityName,
	platform: platform.nullable(),
	by: z.string(),
	why: z.string().nullable(),
	force: z.boolean(),
	now: z.boolean(),
	/** verify: the root that another machine made of the same source. */
	artifact: digest.nullable(),
	/** verify: the deployment whose release is checked. */
	verifies: deploymentId.nullable(),
});
export type NewBuild = z.infer<typeof newBuild>;

export const claimRequest = z.object({
	/** Unique for the life of the builder's process: `<server>/<pid>-<random>`. */
	worker: z.string().max(120),
	platform,
});

export const stepReport = z.object({
	name: z.string(),
	/** build, test, gate (test that holds back only promotion), or what Jibe itself does: source, dependencies, compile, package, upload. */
	kind: z.enum(['source', 'dependencies', 'build', 'compile', 'test', 'gate', 'smoke', 'package', 'upload']),
	state: z.enum(['running', 'passed', 'failed', 'skipped']),
	/** Replayed from the cache. */
	cached: z.boolean(),
	startedAt: z.number(),
	endedAt: z.number().nullable(),
	exitCode: z.int().nullable(),
	/** Digest of all that the step depends on; null for Jibe's own. */
	key: digest.nullable(),
	/** For a person: a parsed summary of a test run, what was assumed, bytes and time saved. */
	summary: z.string().max(8_000).nullable(),
});
export type StepReport = z.infer<typeof stepReport>;

/** The job as a builder gets it. */
export const buildJob = newBuild.extend({
	id: deploymentId,
	/** 1 to MAX_ATTEMPTS: the fence. Every request about the job names it. */
	attempt: z.int(),
	/** Wall ms until when it must have ended. */
	deadline: z.number(),
	/** Build secrets by name, never in production's absence of trust: empty for forks. */
	secrets: z.record(z.string(), z.string()),
	/** Public environment that jibe.json does not say (`env set`). */
	env: z.record(z.string(), z.string()),
	/** Where its commands may connect to besides the public internet (`jibe outbound allow`), and Jibe's own addresses, where not. */
	reach: z.object({ allowed: z.array(z.string()), own: z.array(z.string()) }).default({ allowed: [], own: [] }),
});
export type BuildJob = z.infer<typeof buildJob>;

/** POST …/claim; 204 where there was none for CLAIM_WAIT_MS. Asked again by the same worker, it is the same job until that has ended. */
export const claimAnswer = z.object({ job: buildJob });

export const attemptOf = z.object({ worker: z.string(), attempt: z.int() });
/** With `hold` it is answered when the builder must stop, or after HOLD_MS: whoever beats again at once hears of it at once. */
export const beatRequest = attemptOf.extend({ hold: z.boolean().optional() });
export const HOLD_MS = 9_000;
export const beatAnswer = z.object({
	/** Why the builder must kill the sandbox and end: a person cancelled it, it was superseded, its time is over. */
	stop: z.enum(['cancelled', 'superseded', 'timed-out']).nullable(),
});
export const stagesRequest = attemptOf.extend({ state: deploymentState.nullable(), at: z.number(), steps: z.array(stepReport).max(200) });
export const buildLogLine = z.object({
	at: z.number(),
	step: z.string(),
	stream: z.enum(['out', 'err', 'jibe']),
	text: z.string().max(65_536),
});
export type BuildLogLine = z.infer<typeof buildLogLine>;
export const logRequest = attemptOf.extend({
	/** Number of the first line: lines sent twice are stored once. */
	from: z.int(),
	lines: z.array(buildLogLine).max(1_000),
});
/** `next`: the number of the line that is wanted next. */
export const logAnswer = beatAnswer.extend({ next: z.int() });

/** How it ended without an artifact, or (verify) with a comparison. */
export const endRequest = attemptOf.extend({
	state: z.enum([
		'BuildFailed',
		'TestFailed',
		'Cancelled',
		'Superseded',
		'TimedOut',
		'verified',
		'unreproducible',
		'gates-passed',
		'gates-failed',
	]),
	reason: z.string().nullable(),
	detail: z.string().max(20_000).nullable(),
	at: z.number(),
	/** Of a builder that takes another job at once. */
	next: platform.optional(),
});
/** The next job, where one was asked for and there is one: claimed in the transaction in which this one ended. */
export const endAnswer = z.object({ job: buildJob.optional() });
/** `…/{id}/missing`: which blobs control has to be sent; they go as `PUT …/{id}/blobs?worker=&attempt=`, an upload. */
export const buildMissingRequest = attemptOf.extend(missingRequest.shape);
/** `GET …/{id}/source?worker=&attempt=` answers the `.tar.zst`. */
export const attemptQuery = z.object({ worker: z.string(), attempt: z.coerce.number().int() });

/** Told beside an artifact, in the header of its upload (`build`): kept with the release. */
export const artifactMetadata = z.object({
	builder: z.string(),
	toolchain: z.string(),
	platform,
	/** Wall ms. */
	startedAt: z.number(),
	endedAt: z.number(),
	sourceBytes: z.int(),
	savedBytes: z.int(),
	savedMs: z.int(),
});
export type ArtifactMetadata = z.infer<typeof artifactMetadata>;

/**
 * Header of `POST …/{id}/artifact`, an upload as of a laptop's deploy. The answer is `{ deployment }`, or the refusals of such a
 * deploy: `base_unknown`, `root_mismatch` and `blobs_missing` are answered by sending more.
 */
export const artifactHeader = attemptOf.extend({
	deploy: deployRequest,
	build: artifactMetadata,
	/** Steps with `gate: "promotion"` go on: the attempt lives until `…/end` says `gates-passed` or `gates-failed`. */
	gating: z.boolean().optional(),
});
/** `already`: the same was live, or on its way, as that deployment: this build has ended with it. */
export const artifactAnswer = z.object({ deployment, already: z.boolean() });

/** What `status`, `history` and the page show of a build that is no deployment (yet). */
export const buildView = newBuild.omit({ source: true, ancestors: true }).extend({
	id: deploymentId,
	state: deploymentState,
	reason: z.string().nullable(),
	detail: z.string().nullable(),
	attempt: z.int(),
	worker: z.string().nullable(),
	/** All attempts are used up: it waits for a person (`jibe retry`). */
	dead: z.boolean(),
	createdAt: z.number(),
	endedAt: z.number().nullable(),
	stages: z.array(z.object({ state: deploymentState, at: z.number() })),
	steps: z.array(stepReport),
	metadata: artifactMetadata.nullable(),
});
export type BuildView = z.infer<typeof buildView>;

/** `POST /apps/{app}/builds`: builds on a builder what the laptop sent as a blob of the app, or a commit that control has. */
export const remoteBuild = newBuild.pick({
	environment: true,
	source: true,
	directory: true,
	commit: true,
	dirty: true,
	branch: true,
	author: true,
	subject: true,
	ancestors: true,
	platform: true,
	why: true,
	force: true,
	now: true,
});
export type RemoteBuild = z.infer<typeof remoteBuild>;
/** `POST /deployments/{id}/source`: what a laptop's deployment was made of, for a builder to make it once more. */
export const sourceSample = z.object({ digest, directory: z.string().max(1_000) });
export const queuedAnswer = z.object({ id: deploymentId, already: z.boolean() });

/** GET /builds/{id} · POST …/cancel. A deployment is there once its artifact was taken. */
export const buildAnswer = z.object({ build: buildView.nullable(), deployment: deployment.nullable() });
export type BuildAnswer = z.infer<typeof buildAnswer>;
/** GET /deployments/{id} · POST …/cancel, …/abort: null while it is a build. */
export const deploymentOrBuild = z.object({
	deployment: deployment.nullable(),
	/** What it was built by, or is until its artifact is there. */
	build: buildView.nullable(),
	/** Another machine made the same of its source, or did not; null: none was asked. */
	verification: z
		.object({ build: deploymentId, state: z.enum(['running', 'verified', 'unreproducible', 'failed']), detail: z.string().nullable() })
		.nullable(),
});
export type DeploymentOrBuild = z.infer<typeof deploymentOrBuild>;
export type Verification = DeploymentOrBuild['verification'];
/** GET /deployments: `builds` are those of the same time that no deployment shows. */
export const historyAnswer = deploymentsAnswer.extend({ builds: z.array(buildView) });
/** GET /apps/{app}/status */
export const statusAnswer = appStatus.extend({
	/** What the deployment was built by. */
	built: buildView.nullable(),
	/** The newest that no deployment shows, while it waits or runs, or is newer than the last deployment. */
	build: buildView.nullable(),
	verification: deploymentOrBuild.shape.verification,
});
export type StatusAnswer = z.infer<typeof statusAnswer>;
/** GET /builds?app=&environment=&which=all|open|dead|undeployed&limit=&before= (newest first) */
export const buildsAnswer = z.object({ builds: z.array(buildView) });
/** GET /builds/queue?wait=: what a pool of builders grows by. With `wait` it is answered when `claimable` exceeds `idle`, or after so many ms. */
export const queueAnswer = z.object({
	waiting: z.int(),
	/** Those of them that a builder could begin now. */
	claimable: z.int(),
	running: z.int(),
	dead: z.int(),
	oldestMs: z.number().nullable(),
	/** Builders that wait for a job at this control. */
	idle: z.int(),
});
export type QueueAnswer = z.infer<typeof queueAnswer>;
/** Lines of GET /builds/{id}/log?follow=&step= */
export const buildLogAnswer = buildLogLine;

/**
 * Lines (NDJSON) of GET /builds/{id}/progress, and of POST /apps/{app}/builds?follow=1: all that has happened to it, then all
 * that happens, also to the deployment that it becomes. `end` is the last.
 */
export const buildNews = z.discriminatedUnion('type', [
	z.object({ type: z.literal('queued'), id: deploymentId, already: z.boolean() }),
	/** It entered a state: Queued … Uploading, then those of the deployment. */
	z.object({
		type: z.literal('stage'),
		state: deploymentState,
		at: z.number(),
		reason: z.string().nullable(),
		detail: z.string().nullable(),
		attempt: z.int(),
	}),
	z.object({ type: z.literal('step'), step: stepReport, attempt: z.int() }),
	z.object({ type: z.literal('log'), lines: z.array(buildLogLine) }),
	/** Of the deployment, as its own progress streams tell them. */
	z.object({ type: z.literal('event'), event }),
	z.object({
		type: z.literal('end'),
		end: z.object({
			build: buildView.nullable(),
			/** Null: it never became one. */
			deployment: deployment.nullable(),
			/** It is another one, as which the same was live or on its way. */
			already: z.boolean(),
		}),
	}),
]);
export type BuildNews = z.infer<typeof buildNews>;
export type BuildEnd = Extract<BuildNews, { type: 'end' }>['end'];

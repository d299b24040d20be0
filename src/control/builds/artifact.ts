import type { Fence } from '#state/builds.ts';
import type { Deployment } from '#wire/api.ts';
import { artifactHeader, type NewBuild } from '#wire/builds.ts';
import type { AppConfig } from '#wire/config.ts';
import { decodeUpload } from '#wire/upload.ts';
import { accept } from '../deploy.ts';
import type { House } from '../house.ts';
import { Refusal, type DeployInput } from '../ports.ts';
import { find } from './builds.ts';
import { GRANTED_MS } from './desk.ts';

/** What a builder brings becomes a deployment of the build's own id, once, however often it is brought. */

/** It is asked for more, and the same attempt brings it. */
const ASKS_FOR_MORE: ReadonlySet<string> = new Set([
	'base_unknown',
	'root_mismatch',
	'blobs_missing',
	'size_mismatch',
	'fenced',
	'stopped',
]);
const SERVER_ERRORS = 500;

/** @throws Refusal */
export async function takeArtifact(house: House, id: string, body: Buffer): Promise<{ deployment: Deployment; already: boolean }> {
	const { header, blobs } = decodeUpload(body);
	const parsed = artifactHeader.safeParse(header);
	if (!parsed.success) {
		const [issue] = parsed.error.issues;
		throw new Refusal('bad_request', 400, `the artifact's header is not as it must be: ${issue?.path.join('.')}: ${issue?.message}`);
	}
	const { worker, attempt, deploy: request, build: metadata, gating = false } = parsed.data;
	const fence = { id, attempt, worker };
	const taken = await takenAlready(house, fence);
	if (taken) return taken;
	const job = await jobOf(house, fence);
	checkSame(job, request.config.app, request.environment);
	const { stages } = await find(house, id);
	const at = house.clock.now();
	const input: Omit<DeployInput, 'release' | 'gift'> = {
		...askedBy(job),
		stages: stages.some(({ state }) => state === 'Uploading') ? stages : [...stages, { state: 'Uploading', at }],
		modules: request.modules,
		build: { ...fence, published: stages.length, gating, metadata },
	};
	try {
		const allowed = { ...request, config: configOf(job, request.config) };
		const done = await accept(house, job.app, { request: allowed, blobs }, input);
		return await concluded(house, fence, done);
	} catch (error) {
		if (error instanceof Refusal && error.status < SERVER_ERRORS && !ASKS_FOR_MORE.has(error.code)) await refused(house, fence, error);
		throw error;
	} finally {
		house.builds.told(id, true);
		house.builds.hint();
	}
}

/** What somebody outside wrote gets no secrets, whatever it asks for, and no domain. */
function configOf({ trust }: NewBuild, config: AppConfig): AppConfig {
	return trust === 'fork' ? { ...config, secrets: [], domains: [] } : config;
}

/** The answer to an earlier request was lost, or an earlier attempt came so far. */
async function takenAlready(house: House, { id, attempt, worker }: Fence): Promise<{ deployment: Deployment; already: boolean } | null> {
	const build = await find(house, id);
	if (build.attempt !== attempt || build.worker !== worker)
		throw new Refusal('fenced', 409, `${id} is not attempt ${attempt} of ${worker} any more`, 'another builder has it');
	const made = build.deployed ? id : build.became;
	const deployment = made === null ? null : await house.state.deployments.deployment(made);
	return deployment && { deployment, already: made !== id };
}

/** @throws Refusal 409 stopped, 422 not_for_deploy */
async function jobOf(house: House, fence: Fence): Promise<NewBuild> {
	const { stop } = await house.state.builds.beat(fence, GRANTED_MS);
	if (stop !== null) throw new Refusal('stopped', 409, `${fence.id} was stopped: ${stop}`);
	const job = await house.state.builds.job(fence.id);
	if (job?.kind === 'deploy') return job;
	throw new Refusal('not_for_deploy', 422, `${fence.id} is built to be compared, not to be deployed`);
}

function checkSame(job: NewBuild, app: string, environment: string): void {
	if (app === job.app && environment === job.environment) return;
	const is = `${app} in ${environment}`;
	throw new Refusal('app_mismatch', 422, `jibe.json made ${is} of it, and it was built for ${job.app} in ${job.environment}`);
}

/** What was asked for when it was queued; a builder has no say in it. */
function askedBy({ app, environment, commit, branch, dirty = false, ancestors, by, why, force, now }: NewBuild) {
	return { app, environment, git: commit === null ? null : { commit, branch, dirty, ancestors }, by, why, force, now };
}

/** The same is live already, or on its way, as another deployment: then this build has ended with that. */
async function concluded(house: House, fence: Fence, { deployment }: { deployment: Deployment }) {
	if (deployment.id === fence.id) {
		house.metrics.add('jibe_builds_total', { state: 'deployed' });
		return { deployment, already: false };
	}
	const detail = `what it made is ${deployment.id}, release v${deployment.release}`;
	const end = { state: 'Superseded', reason: 'already_live', detail, at: house.clock.now(), became: deployment.id } as const;
	house.metrics.add('jibe_builds_total', { state: 'Superseded' });
	await house.state.builds.finish(fence, end);
	return { deployment, already: true };
}

async function refused(house: House, fence: Fence, { code, message, hint }: Refusal): Promise<void> {
	const detail = hint === null ? message : `${message}\n${hint}`;
	house.metrics.add('jibe_builds_total', { state: 'DeployFailed' });
	await house.state.builds.finish(fence, { state: 'DeployFailed', reason: code, detail, at: house.clock.now() });
}

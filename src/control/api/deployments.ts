import { z } from 'zod';
import {
	deploymentAnswer,
	missingAnswer,
	missingRequest,
	progressLine,
	rollbackRequest,
	testsRequest,
	type Deployment,
} from '#wire/api.ts';
import { deploymentOrBuild, historyAnswer, type DeploymentOrBuild } from '#wire/builds.ts';
import { appName, deploymentId, environmentName } from '#wire/names.ts';
import { MAX_UPLOAD_BYTES, UPLOAD_TYPE, decodeUpload } from '#wire/upload.ts';
import { authorise, sees, type Caller } from '../access.ts';
import { cancel as cancelBuild } from '../builds/builds.ts';
import { deploymentOr, undeployed } from '../builds/views.ts';
import { deploy, refuseWhenSpent } from '../deploy.ts';
import type { House } from '../house.ts';
import { Refusal, type RollbackInput } from '../ports.ts';
import { streamProgress } from '../progress.ts';
import { route, type Route } from '../route.ts';
import { refuseUnknown } from '../unknown-app.ts';

const HISTORY_MAX = 500;
const HISTORY_DEFAULT = 50;
const ofApp = z.object({ app: appName });
const ofDeployment = z.object({ id: deploymentId });
const detach = z.object({ detach: z.enum(['0', '1']).default('0') });

export function deploymentRoutes(house: House): Route[] {
	return [...deployRoutes(house), ...uploadRoutes(house), ...deploymentReads(house), ...deploymentActs(house)];
}

function deployRoutes(house: House): Route[] {
	return [
		route({
			method: 'POST',
			path: '/api/v1/apps/:app/deployments',
			summary: 'Deploys: the header of the upload is a deploy request, the new blobs follow it.',
			role: 'deployer',
			params: ofApp,
			query: detach,
			uploadBytes: MAX_UPLOAD_BYTES,
			answer: progressLine,
			lines: true,
			handle(ask) {
				checkUploadType(ask.request.headers['content-type']);
				return streamProgress(house, ask, () => deploy(house, ask.params.app, ask.upload, ask.caller));
			},
		}),
		route({
			method: 'POST',
			path: '/api/v1/apps/:app/rollbacks',
			summary: 'Rolls back: to the last healthy release, to the one named, or what undoes a deployment.',
			role: 'deployer',
			params: ofApp,
			query: detach,
			body: rollbackRequest,
			answer: progressLine,
			lines: true,
			handle(ask) {
				const { environment, to, undo, again, pastMigration = false, reason: why } = ask.body;
				const input = { app: ask.params.app, environment, to, undo, again, pastMigration, by: ask.caller.by, why };
				return streamProgress(house, ask, () => rollback(house, input, ask.caller));
			},
		}),
	];
}

/** Where nothing serves the app may be another. */
async function rollback(house: House, input: RollbackInput, caller: Caller) {
	try {
		return await house.driver.rollback(input);
	} catch (error) {
		if (error instanceof Refusal && error.code === 'nothing_serves') await refuseUnknown(house, caller, input.app, input.environment);
		throw error;
	}
}

function uploadRoutes(house: House): Route[] {
	return [
		route({
			method: 'POST',
			path: '/api/v1/apps/:app/missing',
			summary: 'Which of these blobs must be sent; the others are kept for an hour.',
			role: 'deployer',
			params: ofApp,
			body: missingRequest,
			answer: missingAnswer,
			async handle({ params, body }) {
				return { missing: await house.state.blobs.missing(params.app, body.digests, house.store) };
			},
		}),
		route({
			method: 'PUT',
			path: '/api/v1/apps/:app/blobs',
			summary: 'Stores a batch of blobs for the app.',
			role: 'deployer',
			params: ofApp,
			uploadBytes: MAX_UPLOAD_BYTES,
			answer: z.object({ stored: z.int() }),
			async handle({ params, request, upload }) {
				checkUploadType(request.headers['content-type']);
				const { blobs } = decodeUpload(upload);
				refuseWhenSpent(house);
				await house.state.blobs.own(params.app, await house.store.write(blobs.values()));
				return { stored: blobs.size };
			},
		}),
	];
}

function deploymentReads(house: House): Route[] {
	return [
		route({
			method: 'GET',
			path: '/api/v1/deployments',
			summary: 'Deployments, newest first, and the builds of the same time that are none.',
			role: 'viewer',
			query: z.object({
				app: appName.optional(),
				environment: environmentName.optional(),
				limit: z.coerce.number().int().positive().max(HISTORY_MAX).default(HISTORY_DEFAULT),
				before: z.coerce.number().optional(),
			}),
			answer: historyAnswer,
			async handle({ query, caller }) {
				const { app, environment, limit, before } = query;
				if (app !== undefined) authorise(caller, 'viewer', { app });
				const of = {
					limit,
					...(app === undefined ? {} : { app }),
					...(environment === undefined ? {} : { environment }),
					...(before === undefined ? {} : { before }),
				};
				const [found, others] = await Promise.all([house.state.deployments.history(of), undeployed(house, of)]);
				// Builds before the last deployment of a full page are of the next one.
				const since = found.length < limit ? 0 : (found.at(-1)?.createdAt ?? 0);
				return {
					deployments: found.filter((deployment) => sees(caller.token, deployment.app)),
					builds: others.filter((build) => sees(caller.token, build.app) && build.createdAt >= since),
				};
			},
		}),
		route({
			method: 'GET',
			path: '/api/v1/deployments/:id',
			summary: 'One deployment, and what it was built by.',
			role: 'viewer',
			params: ofDeployment,
			answer: deploymentOrBuild,
			handle: ({ params, caller }) => findEither(house, params.id, caller, 'viewer'),
		}),
	];
}

function deploymentActs(house: House): Route[] {
	const cancel = (verb: 'cancel' | 'abort') =>
		route({
			method: 'POST',
			path: `/api/v1/deployments/:id/${verb}`,
			summary: 'Ends a deployment: nothing moves before the first pointer write, everything moves back after it.',
			role: 'deployer',
			params: ofDeployment,
			answer: deploymentOrBuild,
			async handle({ params, caller }) {
				const { deployment } = await findEither(house, params.id, caller, 'deployer');
				if (!deployment) return { deployment: null, build: await cancelBuild(house, params.id, caller.by), verification: null };
				const { app, environment, state } = deployment;
				const entry = { at: house.clock.now(), by: caller.by, action: 'deployment.cancel', app, environment };
				await house.state.audit.write({ ...entry, detail: { deployment: params.id, state } });
				return { deployment: await house.driver.cancel(params.id, caller.by), build: null, verification: null };
			},
		});
	const approve = route({
		method: 'POST',
		path: '/api/v1/deployments/:id/approve',
		summary: 'Lets a deployment that waits for approval go on.',
		role: 'deployer',
		params: ofDeployment,
		answer: deploymentAnswer,
		async handle({ params, caller }) {
			const { state } = await find(house, params.id, caller, 'deployer');
			throw new Refusal('not_waiting', 409, `${params.id} is ${state} and waits for nobody`, 'look at it with "jibe status"');
		},
	});
	return [cancel('cancel'), cancel('abort'), promoteRoute(house), approve, testsRoute(house), checksRoute(house)];
}

function testsRoute(house: House): Route {
	return route({
		method: 'POST',
		path: '/api/v1/deployments/:id/tests',
		summary: 'Says how the tests ended that a deployment waits for: it goes on, or ends TestFailed with nothing moved.',
		role: 'deployer',
		params: ofDeployment,
		body: testsRequest,
		answer: deploymentAnswer,
		async handle({ params, body, caller }) {
			await find(house, params.id, caller, 'deployer');
			return { deployment: await house.driver.tested(params.id, body) };
		},
	});
}

function checksRoute(house: House): Route {
	return route({
		method: 'POST',
		path: '/api/v1/deployments/:id/checks',
		summary: 'Says how the checks ended that hold a deployment in its first region: it goes on, or back.',
		role: 'deployer',
		params: ofDeployment,
		body: testsRequest,
		answer: deploymentAnswer,
		async handle({ params, body, caller }) {
			await find(house, params.id, caller, 'deployer');
			return { deployment: await house.driver.checked(params.id, body) };
		},
	});
}

function promoteRoute(house: House): Route {
	return route({
		method: 'POST',
		path: '/api/v1/deployments/:id/promote',
		summary: 'Lets a deployment that waits for a person go on: past the end of its window, or with a migration that failed after all else.',
		role: 'deployer',
		params: ofDeployment,
		answer: deploymentAnswer,
		async handle({ params, caller }) {
			const { app, environment, state } = await find(house, params.id, caller, 'deployer');
			const entry = { at: house.clock.now(), by: caller.by, action: 'deployment.promote', app, environment };
			const deployment = await house.driver.promote(params.id, caller.by);
			await house.state.audit.write({ ...entry, detail: { deployment: params.id, state } });
			return { deployment };
		},
	});
}

/** What it is by now. @throws Refusal 404, 403 */
async function findEither(house: House, id: string, caller: Caller, role: 'viewer' | 'deployer'): Promise<DeploymentOrBuild> {
	const either = await deploymentOr(house, id);
	const of = either.deployment ?? either.build;
	if (!of) throw unknown(id);
	authorise(caller, role, role === 'viewer' ? { app: of.app } : { app: of.app, environment: of.environment });
	return either;
}

/** @throws Refusal 404, 403 */
async function find(house: House, id: string, caller: Caller, role: 'viewer' | 'deployer'): Promise<Deployment> {
	const deployment = await house.state.deployments.deployment(id);
	if (!deployment) throw unknown(id);
	const { app, environment } = deployment;
	authorise(caller, role, role === 'viewer' ? { app } : { app, environment });
	return deployment;
}

function unknown(id: string): Refusal {
	return new Refusal('deployment_unknown', 404, `there is no deployment ${id}`, '"jibe history" lists them');
}

function checkUploadType(header: string | undefined): void {
	const type = (header ?? '').split(';', 1)[0];
	if (type !== UPLOAD_TYPE) throw new Refusal('unsupported_type', 415, `the body must be ${UPLOAD_TYPE}, not ${type || 'of no type'}`);
}

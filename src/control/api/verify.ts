import { z } from 'zod';
import { treeAnswer } from '#wire/api.ts';
import { attemptQuery, queuedAnswer, sourceSample } from '#wire/builds.ts';
import { PRODUCTION, deploymentId } from '#wire/names.ts';
import { authorise } from '../access.ts';
import { enqueue } from '../builds/builds.ts';
import { GRANTED_MS } from '../builds/desk.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { route, type Route } from '../route.ts';

/** A sample of what laptops deploy is built once more on a builder: whether that gives the same artifact. */
export function verifyRoutes(house: House): Route[] {
	return [sourceRoute(house), expectedRoute(house)];
}

function sourceRoute(house: House): Route {
	const { state } = house;
	return route({
		method: 'POST',
		path: '/api/v1/deployments/:id/source',
		summary: 'What a deployment was made of on a laptop, sent ahead as a blob of its app: a builder makes it once more and compares.',
		role: 'deployer',
		params: z.object({ id: deploymentId }),
		body: sourceSample,
		answer: queuedAnswer,
		async handle({ params: { id }, body: { digest, directory }, caller }) {
			const deployment = await state.deployments.deployment(id);
			if (!deployment) throw new Refusal('deployment_unknown', 404, `there is no deployment ${id}`, '"jibe history" lists them');
			const { app, environment, artifact, commit, branch, dirty } = deployment;
			authorise(caller, 'deployer', { app, environment });
			if ((await state.blobs.owned(app, [digest])).size === 0) {
				throw new Refusal('blobs_missing', 409, `${app} has not sent ${digest}`, 'send it with PUT …/blobs first', { missing: [digest] });
			}
			return enqueue(house, {
				app,
				environment,
				kind: 'verify',
				source: { kind: 'tar', digest },
				lane: `verify:${app}`,
				directory,
				commit,
				dirty,
				branch,
				author: null,
				subject: null,
				ancestors: [],
				trust: environment === PRODUCTION ? 'production' : 'preview',
				priority: 'verify',
				platform: null,
				by: caller.by,
				why: null,
				force: true,
				now: false,
				artifact,
				verifies: id,
			});
		},
	});
}

function expectedRoute({ state, manifests }: House): Route {
	return route({
		method: 'GET',
		path: '/api/v1/builds/:id/expected',
		summary: 'The files of the artifact that a build is compared with.',
		role: 'builder',
		params: z.object({ id: deploymentId }),
		query: attemptQuery,
		answer: treeAnswer,
		async handle({ params, query }) {
			await state.builds.beat({ ...params, ...query }, GRANTED_MS);
			const job = await state.builds.job(params.id);
			const tree = job?.artifact ? await manifests.find(job.app, job.artifact) : null;
			if (tree) return { set: Object.fromEntries(tree.manifest) };
			throw new Refusal('artifact_gone', 404, `what ${params.id} is compared with is not kept any more`);
		},
	});
}

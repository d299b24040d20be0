import { z } from 'zod';
import { progressLine, promotionRequest, releaseAnswer } from '#wire/api.ts';
import { appName } from '#wire/names.ts';
import { authorise } from '../access.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { promote } from '../promote.ts';
import { streamProgress } from '../progress.ts';
import { route, type Route } from '../route.ts';

export function releaseRoutes(house: House): Route[] {
	return [
		route({
			method: 'GET',
			path: '/api/v1/apps/:app/releases/:release',
			summary: 'What a release is made of: its files by path, its dependencies and its configuration.',
			role: 'deployer',
			params: z.object({ app: appName, release: z.coerce.number().int().positive() }),
			answer: releaseAnswer,
			async handle({ params: { app, release }, caller }) {
				const stored = await house.state.deployments.release(app, release);
				if (!stored) throw new Refusal('release_unknown', 404, `there is no release v${release} of ${app}`, '`jibe history` lists them');
				const { environment, artifact, vendor, config, git } = stored;
				authorise(caller, 'deployer', { app, environment });
				const tree = await house.manifests.find(app, artifact);
				const files = tree && Object.fromEntries(tree.manifest);
				return { release, environment, artifact, vendor, config, commit: git?.commit ?? null, files };
			},
		}),
		route({
			method: 'POST',
			path: '/api/v1/apps/:app/promotions',
			summary: 'Deploys what serves in another environment: the same artifact, configured for this one.',
			role: 'deployer',
			params: z.object({ app: appName }),
			query: z.object({ detach: z.enum(['0', '1']).default('0') }),
			body: promotionRequest,
			answer: progressLine,
			lines: true,
			handle: (ask) => streamProgress(house, ask, () => promote(house, ask.params.app, ask.body, ask.caller)),
		}),
	];
}

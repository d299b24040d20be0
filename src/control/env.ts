import type { z } from 'zod';
import type { Deployment, envChange } from '#wire/api.ts';
import type { House } from './house.ts';
import { Refusal } from './ports.ts';
import { releaseSpec } from './release.ts';
import { servingOf } from './status.ts';

/** `jibe env set`: a new release of the artifact that serves, with the env as it is now, deployed like any other. */

const ENV_MAX_NAMES = 500;

type Change = z.infer<typeof envChange> & { app: string; by: string };
type Answer = { values: Record<string, string>; staged: string[] };

/** `deploy` is null when the change only waits for the next deploy. */
export async function changeEnv(
	house: House,
	change: Change,
): Promise<{ answer: Answer; deploy: (() => Promise<{ deployment: Deployment; already: boolean }>) | null }> {
	const { app, environment, set, unset, by, stage } = change;
	const before = await house.state.env.get(app, environment);
	if (new Set([...Object.keys(before.values), ...Object.keys(set)]).size > ENV_MAX_NAMES) {
		throw new Refusal('env_too_large', 422, `an environment may have ${ENV_MAX_NAMES} names`);
	}
	const answer = await house.state.env.change({ app, environment, set, unset, by });
	const serving = stage
		? null
		: servingOf(
				house,
				(await house.state.deployments.wants({ app, environment })).filter((want) => !want.removed),
			);
	return { answer, deploy: serving === null ? null : () => deployAgain(house, change, serving, answer.values) };
}

async function deployAgain(house: House, { app, environment, by }: Change, serving: number, env: Record<string, string>) {
	const stored = await house.state.deployments.release(app, serving);
	if (!stored)
		throw new Refusal('release_unknown', 404, `release v${serving} of ${app} is not known any more`, 'deploy the app from its source');
	const { artifact, vendor, config, blobs, git } = stored;
	return house.driver.deploy({
		app,
		environment,
		release: { artifact, vendor, config, blobs, spec: releaseSpec({ app, environment, artifact, vendor }, config, env) },
		git: git && { ...git, ancestors: [git.commit] },
		// Every region that runs the release has all of it.
		gift: null,
		by,
		why: 'env changed',
		force: false,
		now: false,
		stages: [],
		modules: null,
	});
}

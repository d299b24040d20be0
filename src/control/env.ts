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
	return { answer, deploy: serving === null ? null : () => deployAgain(house, { app, environment, by, why: 'env changed', serving }) };
}

/** A new release of the artifact that serves, with env and secrets as they are now. */
export async function deployAgain(
	house: House,
	{ app, environment, by, why, serving }: { app: string; environment: string; by: string; why: string; serving: number },
) {
	const stored = await house.state.deployments.release(app, serving);
	if (!stored)
		throw new Refusal('release_unknown', 404, `release v${serving} of ${app} is not known any more`, 'deploy the app from its source');
	const { artifact, vendor, config, blobs, git } = stored;
	const [env, secrets] = await Promise.all([
		house.state.env.get(app, environment),
		house.secrets.pins({ app, environment }, config.secrets),
	]);
	return house.driver.deploy({
		app,
		environment,
		release: { artifact, vendor, config, blobs, spec: releaseSpec({ app, environment, artifact, vendor }, config, env.values, secrets) },
		git: git && { ...git, ancestors: [git.commit] },
		// Every region that runs the release has all of it.
		gift: null,
		by,
		why,
		force: false,
		now: false,
		stages: [],
		modules: null,
	});
}

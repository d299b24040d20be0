import { authorise, type Caller } from './access.ts';
import type { PromotionRequest } from '#wire/api.ts';
import { checkRegions } from './deploy.ts';
import { checkDomains } from './domains.ts';
import type { House } from './house.ts';
import { unsafeMigrations } from './migrations/migrations.ts';
import { Refusal } from './ports.ts';
import { releaseSpec } from './release.ts';
import { servingOf } from './status.ts';
import type { AppConfig } from '#wire/config.ts';

/** `jibe deploy --from staging`: a new release of the artifact that serves there, with the configuration of the environment it goes to. */
export async function promote(house: House, app: string, request: PromotionRequest, caller: Caller) {
	const { environment, from, ancestors, force, now } = request;
	authorise(caller, 'viewer', { app, environment: from });
	const source = await servingRelease(house, app, from);
	const config = ofSameBuild(request.config ?? (await ownConfig(house, app, environment)) ?? source.config, source.config);
	checkRegions(house, config);
	const { artifact, vendor, blobs, git } = source;
	const [env, secrets] = await Promise.all([
		house.state.env.get(app, environment),
		house.secrets.pins({ app, environment }, config.secrets),
	]);
	const spec = releaseSpec({ app, environment, artifact, vendor }, config, env.values, secrets);
	const unsafe = await unsafeMigrations(house, { app, environment, artifact, config });
	return checkDomains(house, app, config.domains, () =>
		house.driver.deploy({
			app,
			environment,
			release: { artifact, vendor, config, blobs, spec },
			git: git && { ...git, ancestors: [git.commit, ...ancestors] },
			// Small or not, the stores of control and of the regions have all of it.
			gift: null,
			by: caller.by,
			why: request.reason ?? `v${source.number} from ${from}`,
			force,
			now,
			stages: [],
			modules: null,
			unsafe,
		}),
	);
}

async function servingRelease(house: House, app: string, environment: string) {
	const wants = await house.state.deployments.wants({ app, environment });
	const serving = servingOf(
		house,
		wants.filter((want) => !want.removed),
	);
	if (serving === null) {
		throw new Refusal(
			'nothing_serves',
			409,
			`${app} serves nothing in ${environment}`,
			`deploy there first: \`jibe deploy --env ${environment}\``,
		);
	}
	const stored = await house.state.deployments.release(app, serving);
	if (!stored) throw new Refusal('release_gone', 409, `v${serving} of ${app} is not kept any more`, 'deploy the app from its source');
	return stored;
}

/** Of the last release that was made for the environment; null before its first. */
async function ownConfig(house: House, app: string, environment: string): Promise<AppConfig | null> {
	const [last] = await house.state.deployments.history({ app, environment, limit: 1 });
	return last ? ((await house.state.deployments.release(app, last.release))?.config ?? null) : null;
}

/** What the artifact was built from is not a question of the environment. */
function ofSameBuild(config: AppConfig, built: AppConfig): AppConfig {
	const { app, runtime, entry, build, start, image, dir, include, exclude } = built;
	const { entry: _, build: __, start: ___, image: ____, dir: _____, ...rest } = config;
	const parts = Object.fromEntries(Object.entries({ entry, build, start, image, dir }).filter(([, value]) => value !== undefined));
	return { ...rest, ...parts, app, runtime, include, exclude };
}

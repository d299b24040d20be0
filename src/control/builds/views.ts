import type { BuildRow } from '#state/builds.ts';
import type { Deployment } from '#wire/api.ts';
import type { DeploymentOrBuild, StatusAnswer, Verification } from '#wire/builds.ts';
import type { House } from '../house.ts';

/** Builds as they are shown beside deployments. */

/** Both null: there is neither. */
export async function deploymentOr({ state }: House, id: string): Promise<DeploymentOrBuild> {
	const [deployment, build, verification] = await Promise.all([
		state.deployments.deployment(id),
		state.builds.build(id),
		verificationOf({ state }, id),
	]);
	return { deployment, build, verification };
}

/** Those that no deployment shows. */
export function undeployed(
	{ state }: House,
	of: { app?: string; environment?: string; limit: number; before?: number },
): Promise<BuildRow[]> {
	return state.builds.list({ ...of, which: 'undeployed' });
}

/** What `status` says of builds beside the last deployment. */
export async function buildsOf(
	{ state }: Pick<House, 'state'>,
	of: { app: string; environment: string },
	deployment: Deployment | undefined,
): Promise<Pick<StatusAnswer, 'build' | 'built' | 'verification'>> {
	const [[newest = null], built, verification] = await Promise.all([
		state.builds.list({ ...of, which: 'undeployed', limit: 1 }),
		deployment?.kind === 'deploy' ? state.builds.build(deployment.id) : null,
		deployment ? verificationOf({ state }, deployment.id) : null,
	]);
	const news = newest !== null && (newest.endedAt === null || newest.createdAt > (deployment?.createdAt ?? 0));
	return { build: news ? newest : null, built, verification };
}

async function verificationOf({ state }: Pick<House, 'state'>, deployment: string): Promise<Verification> {
	const [build] = await state.builds.list({ verifies: deployment, limit: 1 });
	if (!build) return null;
	const said =
		build.reason === 'verified' || build.reason === 'unreproducible' ? build.reason : build.endedAt === null ? 'running' : 'failed';
	return { build: build.id, state: said, detail: build.detail };
}

import type { DeploymentOrBuild } from '#wire/builds.ts';
import { EXIT, type Exit } from './failure.ts';
import { done } from './output.ts';
import { deploymentId } from './project.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: ['dpl_…'], optional: 1 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const id = deploymentId(args.positionals[0] ?? '');
		const path = `/api/v1/deployments/${encodeURIComponent(id)}/cancel`;
		const { deployment, build } = (await ask(findServer(data), { method: 'POST', path })) as DeploymentOrBuild;
		const { app, state, reason } = (deployment ?? build)!;
		const words = state === 'Cancelled' ? 'nothing had moved' : state === 'RollingBack' ? 'swinging back what had moved' : state;
		out.result({ deployment: id, app, state, reason }, [done(`Cancelled ${id}`, words)]);
		return EXIT.done;
	},
};

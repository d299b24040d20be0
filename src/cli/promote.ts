import type { Deployment } from '#wire/api.ts';
import { EXIT, type Exit } from './failure.ts';
import { done } from './output.ts';
import { deploymentId } from './project.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: ['dpl_…'], optional: 1 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const id = deploymentId(args.positionals[0] ?? '');
		const path = `/api/v1/deployments/${encodeURIComponent(id)}/promote`;
		const { deployment } = (await ask(findServer(data), { method: 'POST', path })) as { deployment: Deployment };
		const { app, state, reason } = deployment;
		const words = state === 'Deployed' ? 'migrate.after is run once more' : 'it goes on';
		out.result({ deployment: deployment.id, app, state, reason }, [done(`Promoted ${deployment.id}`, words)]);
		return EXIT.done;
	},
};

import { EXIT, type Exit } from './failure.ts';
import { done } from './output.ts';
import { deploymentId } from './project.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: ['dpl_…'], optional: 1 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const id = deploymentId(args.positionals[0] ?? '');
		const path = `/api/v1/builds/${encodeURIComponent(id)}/retry`;
		const queued = (await ask(findServer(data), { method: 'POST', path })) as { id: string; already: boolean };
		out.result({ build: queued.id, already: queued.already, retries: id }, [
			done(queued.already ? `On its way already as ${queued.id}` : `Queued again as ${queued.id}`),
			`follow it: jibe logs --build ${queued.id} -f`,
		]);
		return EXIT.done;
	},
};

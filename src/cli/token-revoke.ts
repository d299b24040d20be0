import { EXIT, type Exit } from './failure.ts';
import { done } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: ['ID'], optional: 1 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const id = args.positionals[0] ?? '';
		await ask(findServer(data), { method: 'DELETE', path: `/api/v1/tokens/${encodeURIComponent(id)}` });
		out.result({ id, revoked: true }, [done(`Revoked ${id}`)]);
		return EXIT.done;
	},
};

import { EXIT, type Exit } from './failure.ts';
import { done } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: ['NAME'], optional: 1 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const name = args.positionals[0] ?? '';
		await ask(findServer(data), { method: 'DELETE', path: `/api/v1/repositories/${encodeURIComponent(name)}` });
		out.result({ repository: name, removed: true }, [done(`Removed ${name}`, 'what it deployed goes on')]);
		return EXIT.done;
	},
};

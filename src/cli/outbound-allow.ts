import { EXIT, type Exit } from './failure.ts';
import { done } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: ['ADDRESS'], optional: 1 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const address = args.positionals[0] ?? '';
		await ask(findServer(data), { method: 'PUT', path: '/api/v1/outbound', json: { address } });
		out.result({ address, allowed: true }, [done(`Allowed ${address}`, 'control connects to it when a user names it')]);
		return EXIT.done;
	},
};

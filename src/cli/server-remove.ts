import { EXIT, type Exit } from './failure.ts';
import { done } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

/** At once: control and the servers of its region refuse it from now on. What runs there is to be drained before. */
export const verb: Verb = {
	syntax: { options: {}, positionals: ['SERVER'], optional: 1 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const server = args.positionals[0] ?? '';
		await ask(findServer(data), { method: 'DELETE', path: `/api/v1/servers/${encodeURIComponent(server)}` });
		out.result({ server, removed: true }, [done(`Removed ${server}`, 'on that machine: jibe down')]);
		return EXIT.done;
	},
};

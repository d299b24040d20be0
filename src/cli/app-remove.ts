import { EXIT, usage, type Exit } from './failure.ts';
import { done } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: { yes: 'flag' }, positionals: ['APP'], optional: 1 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const app = args.positionals[0] ?? '';
		if (!args.flag('yes'))
			throw usage(`this stops ${app} in every region and environment`, `repeat it with --yes: jibe app remove ${app} --yes`);
		await ask(findServer(data), { method: 'DELETE', path: `/api/v1/apps/${encodeURIComponent(app)}` });
		out.result({ app, removed: true }, [done(`Removed ${app}`)]);
		return EXIT.done;
	},
};

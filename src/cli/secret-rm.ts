import { EXIT, type Exit } from './failure.ts';
import { done } from './output.ts';
import { needApp } from './project.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: { app: 'value' }, positionals: ['NAME'], optional: 1 },
	async run({ args, out, environment, data }: Invocation): Promise<Exit> {
		const [name = ''] = args.positionals;
		const app = await needApp(args.value('app') ?? undefined);
		const path = `/api/v1/apps/${encodeURIComponent(app)}/secrets/removals`;
		await ask(findServer(data), { method: 'POST', path, json: { environment, name } });
		out.result({ app, environment, removed: name }, [done(`Removed ${name}`, 'with all its versions')]);
		return EXIT.done;
	},
};

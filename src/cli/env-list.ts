import { EXIT, type Exit } from './failure.ts';
import { needApp } from './project.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: { app: 'value' }, positionals: ['APP'], optional: 0 },
	async run({ args, out, environment, data }: Invocation): Promise<Exit> {
		const app = await needApp(args.positionals[0] ?? args.value('app') ?? undefined);
		const path = `/api/v1/apps/${encodeURIComponent(app)}/env?environment=${encodeURIComponent(environment)}`;
		const answer = (await ask(findServer(data), { path })) as { values: Record<string, string>; staged: string[] };
		const { values, staged } = answer;
		const lines = Object.entries(values).map(
			([name, value]) => `${name}=${value}${staged.includes(name) ? '   (from the next deploy on)' : ''}`,
		);
		out.result({ app, environment, ...answer }, lines.length === 0 ? [`Nothing is set by jibe env for ${app} (${environment}).`] : lines);
		return EXIT.done;
	},
};

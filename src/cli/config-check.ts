import { EXIT, type Exit } from './failure.ts';
import { projectDirectory, readProject } from './project.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: ['DIR'], optional: 0 },
	async run({ args, out, environment }: Invocation): Promise<Exit> {
		const { directory, config, assumed } = await readProject(projectDirectory(args.positionals[0]), environment);
		for (const line of assumed) out.say(`Assumed: ${line}`);
		out.result({ valid: true, directory, environment, assumed, config }, [`✓ jibe.json of ${config.app} is valid (${environment})`]);
		return EXIT.done;
	},
};

import { conclude } from './conclude.ts';
import { EXIT, usage, type Exit } from './failure.ts';
import { follow, NoDeployment } from './follow.ts';
import { readHidden } from './hidden.ts';
import { done } from './output.ts';
import { needApp } from './project.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

/** Shorter values stand in ordinary words: logs are not searched for them. */
const SHORTEST_SCRUBBED = 6;

export const verb: Verb = {
	syntax: { options: { app: 'value', stage: 'flag', 'revoke-old': 'flag', detach: 'flag' }, positionals: ['NAME', '…'], optional: 1 },
	async run({ args, out, environment, data }: Invocation): Promise<Exit> {
		const [name = '', ...more] = args.positionals;
		if (more.length > 0 || name.includes('=')) {
			const hint = `jibe secret set ${name.split('=')[0]} < file   or type it when asked`;
			throw usage('the value of a secret is no argument: everybody on this machine could read it', hint);
		}
		if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) throw usage(`"${name}" can't be the name of a secret`);
		const app = await needApp(args.value('app') ?? undefined);
		const server = findServer(data);
		const value = await readHidden(`The value of ${name} for ${app} (${environment}); it is not shown:`, out);
		if (value.length < SHORTEST_SCRUBBED) out.say("a value as short as this is not taken out of the app's logs");
		const stage = args.flag('stage');
		const request = {
			method: 'PUT' as const,
			path: `/api/v1/apps/${encodeURIComponent(app)}/secrets`,
			json: { environment, name, value, stage, revokeOld: args.flag('revoke-old') },
		};
		if (stage) {
			const answer = (await ask(server, request)) as { version: number };
			out.result({ app, environment, staged: name, version: answer.version }, [done(`Staged ${name}`, 'the next deploy takes it live')]);
			return EXIT.done;
		}
		try {
			return conclude(out, await follow({ server, out, request, app, environment, detach: args.flag('detach') }), {});
		} catch (error) {
			if (!(error instanceof NoDeployment)) throw error;
			out.result({ app, environment, set: name }, [done(`Set ${name}`, `nothing that serves in ${environment} lists it in "secrets"`)]);
			return EXIT.done;
		}
	},
};

import { systemClock } from '#clock/clock.ts';
import { joinTokenAnswer } from '#wire/join.ts';
import { EXIT, usage, type Exit } from './failure.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

const MINUTE_MS = 60_000;

/** The line to paste on the new server. */
export const verb: Verb = {
	syntax: { options: { region: 'value', roles: 'list', labels: 'list', name: 'value' }, positionals: [], optional: 0 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const region = args.value('region');
		if (region === null) throw usage('--region is missing', 'such as: jibe server add --region fra');
		const json = { region, roles: args.list('roles'), labels: args.list('labels') ?? [], name: args.value('name') };
		const answer = joinTokenAnswer.parse(await ask(findServer(data), { method: 'POST', path: '/api/v1/servers/tokens', json }));
		const minutes = Math.round((answer.expiresAt - systemClock.now()) / MINUTE_MS);
		const command = `jibe agent join ${answer.join}`;
		out.say(`For one server of region ${region} (${answer.roles.join(', ')}), within ${minutes} min. Run there:`);
		out.result({ ...answer, command }, [command]);
		return EXIT.done;
	},
};

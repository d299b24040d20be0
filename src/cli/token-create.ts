import { EXIT, usage, type Exit } from './failure.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

const ROLES = ['viewer', 'deployer', 'admin'];

export const verb: Verb = {
	syntax: { options: { role: 'value', apps: 'list', environments: 'list', days: 'value' }, positionals: ['NAME'], optional: 1 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const role = args.value('role') ?? 'deployer';
		if (!ROLES.includes(role)) throw usage(`--role takes one of: ${ROLES.join(', ')}`);
		const days = args.value('days');
		if (days !== null && !/^[1-9]\d{0,3}$/.test(days)) throw usage('--days takes a number of days');
		const json = {
			name: args.positionals[0],
			role,
			apps: args.list('apps'),
			environments: args.list('environments'),
			expiresInDays: days === null ? null : Number(days),
		};
		const answer = (await ask(findServer(data), { method: 'POST', path: '/api/v1/tokens', json })) as {
			token: { id: string };
			secret: string;
		};
		out.say(`Token ${answer.token.id} (${role}); it is shown this once.`);
		out.result(answer, [answer.secret]);
		return EXIT.done;
	},
};

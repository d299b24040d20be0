import { systemClock } from '#clock/clock.ts';
import type { Deployment } from '#wire/api.ts';
import { EXIT, usage, type Exit } from './failure.ts';
import { ago, table } from './output.ts';
import { appOf } from './project.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

const DEFAULT_LIMIT = '20';

export const verb: Verb = {
	syntax: { options: { limit: 'value' }, positionals: ['APP'], optional: 0 },
	async run({ args, out, environment, data }: Invocation): Promise<Exit> {
		const limit = args.value('limit') ?? DEFAULT_LIMIT;
		if (!/^[1-9]\d{0,3}$/.test(limit)) throw usage('--limit takes a number from 1 to 9999');
		const app = await appOf(args.positionals[0]);
		const query = new URLSearchParams({ environment, limit, ...(app === null ? {} : { app }) });
		const answer = (await ask(findServer(data), { path: `/api/v1/deployments?${query.toString()}` })) as { deployments: Deployment[] };
		const rows = answer.deployments.map((one) => [
			one.id,
			ago(systemClock.now() - one.createdAt),
			one.app,
			one.kind,
			`v${one.release}`,
			one.state + (one.reason === null ? '' : ` (${one.reason})`),
			one.commit === null ? '-' : one.commit.slice(0, 10) + (one.dirty ? '+' : ''),
			one.by,
		]);
		const head = ['deployment', 'when', 'app', 'kind', 'release', 'state', 'commit', 'by'];
		out.result({ deployments: answer.deployments }, rows.length === 0 ? ['No deployments yet.'] : table(head, rows));
		return EXIT.done;
	},
};

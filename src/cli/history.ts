import { systemClock } from '#clock/clock.ts';
import type { Deployment } from '#wire/api.ts';
import type { BuildView } from '#wire/builds.ts';
import { EXIT, usage, type Exit } from './failure.ts';
import { ago, seconds, table } from './output.ts';
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
		const path = `/api/v1/deployments?${query.toString()}`;
		const { deployments, builds = [] } = (await ask(findServer(data), { path })) as { deployments: Deployment[]; builds?: BuildView[] };
		const all = [...deployments, ...builds].toSorted((a, b) => b.createdAt - a.createdAt).slice(0, Number(limit));
		const head = ['deployment', 'when', 'app', 'kind', 'release', 'state', 'took', 'commit', 'by'];
		out.result({ deployments, builds }, all.length === 0 ? ['No deployments yet.'] : table(head, all.map(row)));
		return EXIT.done;
	},
};

function row(one: Deployment | BuildView): string[] {
	const began = one.stages[0]?.at ?? one.createdAt;
	return [
		one.id,
		ago(systemClock.now() - one.createdAt),
		one.app,
		'release' in one ? one.kind : 'build',
		'release' in one ? `v${one.release}` : '-',
		one.state + (one.reason === null ? '' : ` (${one.reason})`),
		one.endedAt === null ? '-' : seconds(Math.max(0, one.endedAt - began)),
		one.commit === null ? '-' : one.commit.slice(0, 10) + (one.dirty === true ? '+' : ''),
		one.by,
	];
}

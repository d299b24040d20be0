import { systemClock } from '#clock/clock.ts';
import { pullRequestsAnswer } from '#wire/repositories.ts';
import { EXIT, type Exit } from './failure.ts';
import { ago, table } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

const SHORT_COMMIT = 12;

export const verb: Verb = {
	syntax: { options: {}, positionals: ['NAME'], optional: 0 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const name = args.positionals[0];
		const query = name === undefined ? '' : `?repository=${encodeURIComponent(name)}`;
		const { pullRequests } = pullRequestsAnswer.parse(await ask(findServer(data), { path: `/api/v1/pull-requests${query}` }));
		const now = systemClock.now();
		const rows = pullRequests.map(({ repository, number, state, commit, approved, from, author, title, seenAt }) => [
			`${repository} ${number}`,
			approved?.commit === commit ? `approved by ${approved.by}` : state === 'open' ? 'waits' : state,
			commit.slice(0, SHORT_COMMIT),
			from,
			author,
			ago(now - seenAt),
			title,
		]);
		const lines =
			rows.length === 0
				? ['No pull request from a fork.']
				: table(['pull request', 'state', 'commit', 'from', 'by', 'seen', 'title'], rows);
		out.result({ pullRequests }, lines);
		return EXIT.done;
	},
};

import { z } from 'zod';
import { pullRequest } from '#wire/repositories.ts';
import { EXIT, usage, type Exit } from './failure.ts';
import { done } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

const SHORT_COMMIT = 12;

/** The commit has to be named: it is the one that somebody looked at. */
export const verb: Verb = {
	syntax: { options: { commit: 'value' }, positionals: ['NAME', 'NUMBER'], optional: 2 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const [name = '', number = ''] = args.positionals;
		const commit = args.value('commit');
		if (commit === null) throw usage('which commit did you look at?', `jibe repo pulls ${name}   shows them; then --commit`);
		const path = `/api/v1/repositories/${encodeURIComponent(name)}/pull-requests/${encodeURIComponent(number)}/approvals`;
		const answer = z.object({ pullRequest }).parse(await ask(findServer(data), { method: 'POST', path, json: { commit } }));
		const approved = answer.pullRequest.commit.slice(0, SHORT_COMMIT);
		out.result(answer, [done(`Approved #${number} of ${name}`, `${approved} of ${answer.pullRequest.from}, without secrets`)]);
		return EXIT.done;
	},
};

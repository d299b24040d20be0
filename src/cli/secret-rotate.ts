import { EXIT, type Exit } from './failure.ts';
import { done } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

interface Answer {
	keyId: string;
	rewrapped: number;
	lost: { app: string; environment: string; name: string }[];
}

export const verb: Verb = {
	syntax: { options: { 'lost-key': 'flag' }, positionals: [], optional: 0 },
	async run({ args, out, data }: Invocation): Promise<Exit> {
		const lostKey = args.flag('lost-key');
		const answer = (await ask(findServer(data), { method: 'POST', path: '/api/v1/secrets/rotations', json: { lostKey } })) as Answer;
		const lost = answer.lost.map(({ app, environment, name }) => `  ${name} of ${app} (${environment})`);
		const more = lost.length === 0 ? [] : ['These are lost; set each of them again with `jibe secret set`:', ...lost];
		out.result({ ...answer }, [done(`The master key is ${answer.keyId} now`, `${answer.rewrapped} versions rewrapped`), ...more]);
		return EXIT.done;
	},
};

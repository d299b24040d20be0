import { outboundAnswer } from '#wire/repositories.ts';
import { EXIT, type Exit } from './failure.ts';
import { isoTime } from '#clock/clock.ts';
import { table } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: [], optional: 0 },
	async run({ out, data }: Invocation): Promise<Exit> {
		const { allowed } = outboundAnswer.parse(await ask(findServer(data), { path: '/api/v1/outbound' }));
		const rows = allowed.map(({ address, by, at }) => [address, by, isoTime(at)]);
		out.result({ allowed }, rows.length === 0 ? ['Only addresses of the public internet.'] : table(['address', 'by', 'since'], rows));
		return EXIT.done;
	},
};

import { EXIT, usage, type Exit } from './failure.ts';
import { VERBS, type Invocation, type Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: ['VERB', '…'], optional: 0 },
	run({ args, out }: Invocation): Promise<Exit> {
		const wanted = args.positionals.join(' ');
		const named = Object.entries(VERBS).filter(([name]) => wanted === '' || name === wanted || name.startsWith(`${wanted} `));
		if (named.length === 0) throw usage(`unknown verb "${wanted}"`, 'jibe help lists the verbs');
		out.result({ verbs: named.map(([name, { usage: line, summary }]) => ({ name, usage: line, summary })) }, [
			...(wanted === '' ? ['Edit, one command, live everywhere, safely; and back again faster than that.', ''] : []),
			...named.flatMap(([, { usage: line, summary }]) => [`  jibe ${line}`, `      ${summary}`]),
			'',
			'  Every verb takes --env E (production by default), --data DIR, --json and --verbose.',
		]);
		return Promise.resolve(EXIT.done);
	},
};

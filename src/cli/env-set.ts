import { changeEnv } from './env-change.ts';
import { usage, type Exit } from './failure.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: { app: 'value', stage: 'flag', detach: 'flag' }, positionals: ['NAME=VALUE', '…'], optional: 1 },
	run(invocation: Invocation): Promise<Exit> {
		const set: Record<string, string> = {};
		for (const word of invocation.args.positionals) {
			const equals = word.indexOf('=');
			if (equals < 1) throw usage(`"${word}" is not NAME=VALUE`);
			set[word.slice(0, equals)] = word.slice(equals + 1);
		}
		return changeEnv(invocation, { set, unset: [] });
	},
};

import { changeEnv } from './env-change.ts';
import type { Exit } from './failure.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: { app: 'value', stage: 'flag', detach: 'flag' }, positionals: ['NAME', '…'], optional: 1 },
	run(invocation: Invocation): Promise<Exit> {
		return changeEnv(invocation, { set: {}, unset: invocation.args.positionals });
	},
};

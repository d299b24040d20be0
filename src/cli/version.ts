import { EXIT, type Exit } from './failure.ts';
import { ownPackage } from './installed/package.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: { version: 'flag' }, positionals: [], optional: 0 },
	run({ out }: Invocation): Promise<Exit> {
		const { version: jibe, schema, postgres } = ownPackage();
		out.result({ jibe, node: process.versions.node, schema, postgres }, [`jibe ${jibe} (Node ${process.versions.node})`]);
		return Promise.resolve(EXIT.done);
	},
};

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { EXIT, type Exit } from './failure.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: { version: 'flag' }, positionals: [], optional: 0 },
	run({ out }: Invocation): Promise<Exit> {
		const jibe = ownVersion();
		out.result({ jibe, node: process.versions.node }, [`jibe ${jibe} (Node ${process.versions.node})`]);
		return Promise.resolve(EXIT.done);
	},
};

/** From the package that this file, or the bundle that it became, belongs to. */
export function ownVersion(): string {
	const up = import.meta.filename.endsWith('.ts') ? ['..', '..'] : ['..'];
	const manifest = JSON.parse(readFileSync(join(import.meta.dirname, ...up, 'package.json'), 'utf8')) as { version: string };
	return manifest.version;
}

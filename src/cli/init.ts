import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { detectApp } from './detect.ts';
import { EXIT, Failure, type Exit } from './failure.ts';
import { projectDirectory } from './project.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: ['DIR'], optional: 0 },
	run({ args, out }: Invocation): Promise<Exit> {
		const directory = projectDirectory(args.positionals[0]);
		const file = join(directory, 'jibe.json');
		if (existsSync(file)) throw new Failure('exists', EXIT.usage, `${file} is there already`, { hint: 'jibe config check looks at it' });
		const { app, entry, assumed } = detectApp(directory);
		writeFileSync(file, `${JSON.stringify({ app, runtime: 'fetch', entry }, null, '\t')}\n`, { flag: 'wx' });
		out.result({ file, app, entry }, [`✓ Wrote ${file}`, ...assumed.map((line) => `  ${line}`), '  jibe deploy takes it live']);
		return Promise.resolve(EXIT.done);
	},
};

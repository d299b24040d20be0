import { reached } from '#wire/reached.ts';
import { EXIT, type Exit } from './failure.ts';
import { table } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

interface App {
	app: string;
	environments: { environment: string; serving: number | null; url: string; host?: string | null }[];
}

export const verb: Verb = {
	syntax: { options: {}, positionals: [], optional: 0 },
	async run({ out, data }: Invocation): Promise<Exit> {
		const { apps } = (await ask(findServer(data), { path: '/api/v1/apps' })) as { apps: App[] };
		const rows = apps.flatMap(({ app, environments }) =>
			environments.map((one) => [app, one.environment, one.serving === null ? '-' : `v${one.serving}`, reached(one)]),
		);
		out.result(
			{ apps },
			rows.length === 0 ? ['No apps yet: jibe deploy makes the first.'] : table(['app', 'environment', 'serves', 'url'], rows),
		);
		return EXIT.done;
	},
};

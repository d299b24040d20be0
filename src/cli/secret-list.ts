import { systemClock } from '#clock/clock.ts';
import type { SecretsList } from '#wire/api.ts';
import { EXIT, type Exit } from './failure.ts';
import { ago, table } from './output.ts';
import { needApp } from './project.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: { app: 'value' }, positionals: ['APP'], optional: 0 },
	async run({ args, out, environment, data }: Invocation): Promise<Exit> {
		const app = await needApp(args.positionals[0] ?? args.value('app') ?? undefined);
		const path = `/api/v1/apps/${encodeURIComponent(app)}/secrets?environment=${encodeURIComponent(environment)}`;
		const answer = (await ask(findServer(data), { path })) as SecretsList;
		const now = systemClock.now();
		const rows = answer.secrets.flatMap(({ name, versions }) =>
			versions.map(({ version, state, setAt, by }) => [name, String(version), state, ago(now - setAt), by]),
		);
		const lines = rows.length === 0 ? [`${app} has no secrets in ${environment}.`] : table(['name', 'version', 'state', 'set', 'by'], rows);
		out.result({ app, environment, ...answer }, lines);
		return EXIT.done;
	},
};

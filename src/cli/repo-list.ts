import { systemClock } from '#clock/clock.ts';
import { repositoriesAnswer } from '#wire/repositories.ts';
import { EXIT, type Exit } from './failure.ts';
import { ago, table } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: { options: {}, positionals: [], optional: 0 },
	async run({ out, data }: Invocation): Promise<Exit> {
		const { repositories } = repositoriesAnswer.parse(await ask(findServer(data), { path: '/api/v1/repositories' }));
		const now = systemClock.now();
		const rows = repositories.map(({ name, forge, apps, url, hook, last }) => [
			name,
			forge,
			apps.map(({ app }) => app).join(','),
			url ?? '-',
			hook ?? '-',
			last === null
				? 'nothing yet'
				: `${last.event} ${last.ref?.replace(/^refs\/(heads\/)?/, '') ?? ''} ${ago(now - last.at)}: ${last.state}`,
		]);
		const outcomes = repositories.flatMap(({ name, last }) => {
			const mark = last?.state === 'failed' || last?.state === 'waiting' ? '!' : ' ';
			return last?.outcome ? [`${mark} ${name}: ${last.outcome}`] : [];
		});
		const none = ['No repository yet; "jibe repo add NAME URL" adds one, and so does a first "git push".'];
		const lines =
			repositories.length === 0 ? none : [...table(['repository', 'forge', 'apps', 'url', 'webhook', 'last'], rows), ...outcomes];
		out.result({ repositories }, lines);
		return EXIT.done;
	},
};

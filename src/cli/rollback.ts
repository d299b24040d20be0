import { systemClock } from '#clock/clock.ts';
import { usage, type Exit } from './failure.ts';
import { conclude } from './conclude.ts';
import { follow } from './follow.ts';
import { deploymentId, needApp } from './project.ts';
import { ask, findServer, type Server } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: {
		options: { to: 'value', again: 'flag', 'past-migration': 'flag', reason: 'value', detach: 'flag' },
		positionals: ['APP or dpl_…'],
		optional: 0,
	},
	async run({ args, out, environment, data }: Invocation): Promise<Exit> {
		const bootMs = systemClock.monotonic();
		const server = findServer(data);
		const word = args.positionals[0];
		const undo = word?.startsWith('dpl_') ? deploymentId(word) : null;
		const app = undo === null ? await needApp(word) : await appOfDeployment(server, undo);
		const json = {
			environment,
			to: releaseNumber(args.value('to')),
			undo,
			again: args.flag('again'),
			...(args.flag('past-migration') ? { pastMigration: true } : {}),
			reason: args.value('reason'),
		};
		const path = `/api/v1/apps/${app}/rollbacks`;
		const outcome = await follow({ server, out, request: { method: 'POST', path, json }, app, environment, detach: args.flag('detach') });
		return conclude(out, outcome, { timings: { bootMs } });
	},
};

async function appOfDeployment(server: Server, id: string): Promise<string> {
	const answer = (await ask(server, { path: `/api/v1/deployments/${encodeURIComponent(id)}` })) as { deployment: { app: string } };
	return answer.deployment.app;
}

function releaseNumber(text: string | null): number | null {
	if (text === null) return null;
	if (!/^v?[1-9]\d*$/.test(text)) throw usage(`--to takes a release such as v41, not "${text}"`);
	return Number(text.replace('v', ''));
}

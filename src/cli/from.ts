import type { AppStatus, PromotionRequest } from '#wire/api.ts';
import { conclude } from './conclude.ts';
import { usage, type Exit } from './failure.ts';
import { follow } from './follow.ts';
import { ancestorsOf } from './git.ts';
import type { Project } from './project.ts';
import { ask, findServer } from './server.ts';
import type { Invocation } from './verbs.ts';

/** `jibe deploy --from staging`: nothing is built and nothing sent, what serves there is deployed here as well. */
export async function deployFrom(from: string, invocation: Invocation, project: Project, bootMs: number): Promise<Exit> {
	const { args, out, environment, data } = invocation;
	const { app } = project.config;
	if (from === environment) throw usage(`--from ${from} is where it would go`, 'name the environment to go to with --env');
	const server = findServer(data);
	const there = `/api/v1/apps/${app}/status?environment=${encodeURIComponent(from)}`;
	const { serving, commit } = (await ask(server, { path: there })) as AppStatus;
	if (serving !== null) out.say(`v${serving}, which serves ${from}, goes to ${environment}`);
	const json: PromotionRequest = {
		environment,
		from,
		config: project.config,
		ancestors: commit === null ? [] : await ancestorsOf(project.directory, commit),
		force: args.flag('force'),
		now: args.flag('now'),
		reason: args.value('reason'),
	};
	const path = `/api/v1/apps/${app}/promotions`;
	const outcome = await follow({ server, out, request: { method: 'POST', path, json }, app, environment, detach: args.flag('detach') });
	return conclude(out, outcome, { timings: { bootMs } });
}

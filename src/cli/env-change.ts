import type { Exit } from './failure.ts';
import { EXIT, usage } from './failure.ts';
import { follow, NoDeployment } from './follow.ts';
import { conclude } from './conclude.ts';
import { done } from './output.ts';
import { needApp } from './project.ts';
import { ask, findServer } from './server.ts';
import type { Invocation } from './verbs.ts';

/** A change of an environment's variables is a new release of the same artifact, and is deployed like one. */
export async function changeEnv(invocation: Invocation, change: { set: Record<string, string>; unset: string[] }): Promise<Exit> {
	const { args, out, environment, data } = invocation;
	const names = [...Object.keys(change.set), ...change.unset];
	for (const name of names) if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) throw usage(`"${name}" can't be the name of a variable`);
	const app = await needApp(args.value('app') ?? undefined);
	const server = findServer(data);
	const stage = args.flag('stage');
	const request = {
		method: 'PUT' as const,
		path: `/api/v1/apps/${encodeURIComponent(app)}/env`,
		json: { environment, ...change, stage },
	};
	if (stage) {
		await ask(server, request);
		out.result({ app, environment, staged: names }, [done(`Staged ${names.join(', ')}`, 'the next deploy takes it live')]);
		return EXIT.done;
	}
	try {
		return conclude(out, await follow({ server, out, request, app, environment, detach: args.flag('detach') }), {});
	} catch (error) {
		if (!(error instanceof NoDeployment)) throw error;
		out.result({ app, environment, set: names }, [done(`Set ${names.join(', ')}`, `${app} serves nothing yet in ${environment}`)]);
		return EXIT.done;
	}
}

import type { AppStatus, ReleaseAnswer } from '#wire/api.ts';
import { changeFrom, inWords, isNothing } from './change.ts';
import { compile } from './compile.ts';
import { EXIT, type Exit } from './failure.ts';
import { gitFacts } from './git.ts';
import { count } from './output.ts';
import { projectDirectory, readProject } from './project.ts';
import { ApiFailure, ask, findServer, type Server } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

/** What a deploy would do, without doing it. */
export const verb: Verb = {
	syntax: { options: {}, positionals: ['DIR'], optional: 0 },
	async run(invocation: Invocation): Promise<Exit> {
		const { args, out, environment, data } = invocation;
		const directory = projectDirectory(args.positionals[0]);
		const project = await readProject(directory, environment);
		const { config } = project;
		const server = findServer(data);
		const built = await compile(invocation, project, `${server.url.origin}/${config.app}`, null);
		const [status, all] = await Promise.all([statusOf(server, config.app, environment), regionNames(server)]);
		const regions = config.regions === 'all' ? all : config.regions;
		const git = await gitFacts(directory);
		const serving = status?.serving ?? null;
		const change = changeFrom(serving === null ? null : await releaseOf(server, config.app, serving), built, config);
		const same = change !== null && isNothing(change);
		const fields = {
			app: config.app,
			environment,
			artifact: built.artifact,
			serving,
			same,
			change,
			uploadFiles: built.newBlobs.size,
			regions,
			strategy: config.strategy,
			commit: git?.commit ?? null,
			dirty: git?.dirty ?? null,
		};
		out.result(fields, [
			same
				? `v${serving} serves this already: a deploy would change nothing`
				: `A deploy makes a new release of ${config.app} (${environment})`,
			`  serves now: ${serving === null ? 'nothing' : `v${serving}`}`,
			...(change === null ? [] : inWords(change)),
			`  ${count(built.newBlobs.size, 'file')} to upload`,
			`  first ${regions[0]} behind a probe gate, then ${count(regions.length - 1, 'region')} at once; then a watch of ${config.strategy.watch}`,
			...(git?.dirty === true ? ['! there are changes that are not committed'] : []),
		]);
		return EXIT.done;
	},
};

async function statusOf(server: Server, app: string, environment: string): Promise<AppStatus | null> {
	try {
		return (await ask(server, { path: `/api/v1/apps/${app}/status?environment=${environment}` })) as AppStatus;
	} catch (error) {
		if (error instanceof ApiFailure && error.status === 404) return null;
		throw error;
	}
}

/** null: it is not kept any more. */
async function releaseOf(server: Server, app: string, release: number): Promise<ReleaseAnswer | null> {
	try {
		return (await ask(server, { path: `/api/v1/apps/${app}/releases/${release}` })) as ReleaseAnswer;
	} catch (error) {
		if (error instanceof ApiFailure && error.status === 404) return null;
		throw error;
	}
}

async function regionNames(server: Server): Promise<string[]> {
	const { regions } = (await ask(server, { path: '/api/v1/regions' })) as { regions: { name: string }[] };
	return regions.map(({ name }) => name);
}

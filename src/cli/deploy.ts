import { BuildError } from '#build/build-error.ts';
import type { BuildResult } from '#build/result.ts';
import { systemClock } from '#clock/clock.ts';
import type { DeploymentState, DeployRequest } from '#wire/api.ts';
import type { AppConfig } from '#wire/config.ts';
import type { Arguments } from './arguments.ts';
import { asFailures, compile } from './compile.ts';
import { conclude } from './conclude.ts';
import { usage, type Exit } from './failure.ts';
import type { Outcome } from './follow.ts';
import { gitFacts } from './git.ts';
import { projectDirectory, readProject, type Project } from './project.ts';
import { Sending } from './send.ts';
import type { Tests } from './tests.ts';
import { ApiFailure, findServer, type Server } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

export const verb: Verb = {
	syntax: {
		options: {
			from: 'value',
			regions: 'list',
			strategy: 'value',
			reason: 'value',
			now: 'flag',
			force: 'flag',
			detach: 'flag',
			remote: 'flag',
		},
		positionals: ['DIR'],
		optional: 0,
	},
	async run(invocation: Invocation): Promise<Exit> {
		const bootMs = systemClock.monotonic();
		const { args, out, environment, data } = invocation;
		const directory = projectDirectory(args.positionals[0]);
		const from = args.value('from');
		if (from !== null) {
			const { deployFrom } = await import('./from.ts');
			return deployFrom(from, invocation, narrowed(await readProject(directory, environment), args), bootMs);
		}
		if (args.flag('remote')) {
			const { deployRemote } = await import('./remote/remote.ts');
			return deployRemote(invocation, directory, bootMs);
		}
		const git = gitFacts(directory);
		const project = narrowed(await readProject(directory, environment), args);
		if (project.config.build !== undefined) {
			// What they make is made in a sandbox or not at all, so that it is the same wherever it is made.
			out.say('Its build steps run on a builder, as with --remote');
			const { deployRemote } = await import('./remote/remote.ts');
			return deployRemote(invocation, directory, bootMs);
		}
		const server = findServer(data);
		const here = await buildAndSend({ invocation, project, server, directory, git }).catch(elsewhere);
		if ('platform' in here) {
			out.say(`${here.message}: it is built on a builder of that platform`);
			const { deployRemote } = await import('./remote/remote.ts');
			return deployRemote(invocation, directory, bootMs, here.platform);
		}
		const { sending, outcome, built } = here;
		const { uploadedBytes, sentAtMs } = sending;
		const uploadMs = outcome.firstByteMs === null ? 0 : outcome.firstByteMs - sentAtMs;
		const exit = conclude(out, outcome, { uploadedBytes, modules: built.modules, timings: { bootMs, ...built.timings, uploadMs } });
		if (outcome.sample) {
			const { sendSample } = await import('./remote/sample.ts');
			await sendSample(invocation, server, project, { artifact: built.artifact, deployment: outcome.deployment.id });
		}
		return exit;
	},
};

/** What was made here does not run there, and a builder can make it. @throws any other failure */
function elsewhere(failure: unknown): { platform: string; message: string } {
	if (!(failure instanceof ApiFailure && failure.code === 'platform_differs')) throw failure;
	const { wanted, builder } = failure.data as { wanted: string; builder: boolean };
	if (!builder) throw failure;
	return { platform: wanted, message: failure.message };
}

interface Way {
	invocation: Invocation;
	project: Project;
	server: Server;
	directory: string;
	git: Promise<DeployRequest['git']>;
}

/**
 * A file that changes on the way, or bytes that the build cache lost, show only when they are to be sent: then all of it
 * happens once more, from nothing.
 */
async function buildAndSend(way: Way): Promise<{ sending: Sending; outcome: Outcome; built: BuildResult }> {
	const { invocation, project } = way;
	return asFailures(project.config.app, invocation.environment, async () => {
		try {
			return await once(way);
		} catch (error) {
			if (!(error instanceof BuildError) || error.code !== 'changed_meanwhile') throw error;
			invocation.out.say(`! ${error.message}: building again`);
			return await once(way);
		}
	});
}

async function once({ invocation, project, server, directory, git }: Way) {
	const stages = new Stages();
	const built = await compile(invocation, project, `${server.url.origin}/${project.config.app}`, stages);
	const beside = await testsOf(invocation, project, built, stages);
	try {
		stages.enter('Uploading');
		const flags = Object.fromEntries(beside.map(({ kind }) => [kind === 'tests' ? 'testing' : 'checking', true]));
		const request = { ...requestOf(invocation, project, built, await git, stages), ...flags };
		const sending = new Sending({ invocation, server, directory, built, request, beside });
		return { sending, outcome: await sending.send(), built };
	} finally {
		for (const tests of beside) tests.stop();
	}
}

/** Tests and checks that run meanwhile; none where they are over: before what is asked to be quick or to be left alone. */
async function testsOf(invocation: Invocation, project: Project, built: BuildResult, stages: Stages): Promise<Tests[]> {
	if (project.config.test === undefined && !project.config.types) return [];
	const { Tests } = await import('./tests.ts');
	const first = invocation.args.flag('now') || invocation.args.flag('detach');
	const running = (['tests', 'checks'] as const).flatMap((kind) => Tests.start({ invocation, project, built, kind }) ?? []);
	if (!first) return running;
	if (running.length > 0) stages.enter('Testing');
	await Promise.all(running.map((tests) => tests.passed())).finally(() => running.forEach((tests) => tests.stop()));
	return [];
}

/** The stages that this command goes through, for control's record of the deployment. */
export class Stages {
	readonly list: { state: DeploymentState; at: number }[] = [];
	enter(state: DeploymentState): void {
		this.list.push({ state, at: systemClock.now() });
	}
}

function requestOf(
	{ args, environment }: Invocation,
	{ config }: Project,
	built: BuildResult,
	git: DeployRequest['git'],
	stages: Stages,
): DeployRequest {
	return {
		environment,
		artifact: built.artifact,
		manifest: built.delta,
		vendor: built.vendor?.root ?? null,
		vendorManifest: null,
		config,
		git,
		force: args.flag('force'),
		now: args.flag('now'),
		reason: args.value('reason'),
		stages: stages.list,
		modules: built.modules,
	};
}

const STRATEGIES = ['walk', 'canary', 'blue-green', 'rolling'] as const;

/** `--regions` and `--strategy` stand over what jibe.json says. */
function narrowed(project: Project, args: Arguments): Project {
	const config: AppConfig = { ...project.config };
	const regions = args.list('regions');
	if (regions !== null) config.regions = regions.length === 1 && regions[0] === 'all' ? 'all' : regions;
	const wanted = args.value('strategy');
	if (wanted !== null) {
		const type = STRATEGIES.find((name) => name === wanted);
		if (type === undefined) throw usage(`--strategy takes one of: ${STRATEGIES.join(', ')}`);
		// Control fills in what the strategy needs beyond this.
		if (config.strategy.type !== type) config.strategy = { type, watch: config.strategy.watch } as AppConfig['strategy'];
	}
	return { ...project, config };
}

import { join } from 'node:path';
import { buildApp, type BuildInput } from '#build/build.ts';
import type { BuildResult } from '#build/result.ts';
import { BuildError, isUsage } from '#build/build-error.ts';
import type { AppConfig } from '#wire/config.ts';
import { unsentFields } from './conclude.ts';
import type { Stages } from './deploy.ts';
import { EXIT, Failure } from './failure.ts';
import { count, done, seconds } from './output.ts';
import { cacheDirectory } from './places.ts';
import type { Project } from './project.ts';
import type { Invocation } from './verbs.ts';

/** From a directory to an artifact, told as it goes. @throws Failure (exit 1 when the app's code is wrong) */
export async function compile(
	{ out, environment }: Pick<Invocation, 'out' | 'environment'>,
	{ directory, config, assumed }: Project,
	target: string,
	stages: Stages | null,
): Promise<BuildResult> {
	for (const line of assumed) out.say(`Assumed: ${line}`);
	out.now(`Compiling ${config.entry}…`);
	stages?.enter('Building');
	return asFailures(config.app, environment, async () => {
		const built = await buildApp(buildInput(directory, config, target));
		for (const warning of built.warnings) out.say(`! ${warning}`);
		const { compiled, cached } = built.modules;
		const ms = built.timings.scanMs + built.timings.compileMs;
		out.say(done(`Built in ${seconds(ms)}`, `${count(compiled, 'module')} compiled, ${cached} from cache`));
		return built;
	});
}

/** What a build is asked for later can still show a fault of the app: a file that changed meanwhile. */
export async function asFailures<T>(app: string, environment: string, work: () => Promise<T>): Promise<T> {
	try {
		return await work();
	} catch (error) {
		if (!(error instanceof BuildError)) throw error;
		throw buildFailed(error, app, environment);
	}
}

/** The cache is shared by all apps of a person. */
export function buildInput(dir: string, { entry = '', include, exclude }: AppConfig, target: string): BuildInput {
	const cacheDir = join(cacheDirectory(), 'build');
	return { dir, config: { entry, include, exclude }, cacheDir, nodeVersion: process.versions.node, target };
}

function buildFailed(error: BuildError, app: string, environment: string): Failure {
	const exit = isUsage(error.code) ? EXIT.usage : EXIT.app;
	const { code, file, line, column } = error;
	return new Failure(code, exit, error.describe(), {
		cause: error.cause,
		fields: { ...unsentFields({ app, environment }, { state: 'BuildFailed', reason: code }), file, line, column },
	});
}

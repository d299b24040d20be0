import { ConfigError, configFor, parseConfigFile } from '#wire/config-file.ts';
import type { AppConfig } from '#wire/config.ts';
import type { Repository } from '#wire/repositories.ts';
import { Refusal } from '../ports.ts';
import { pathsIn, readObjects, type Where } from './objects.ts';

/** The apps of a commit: those that its repository was made with, or those whose jibe.json lies in it. */

const MAX_APPS = 100;
/** A jibe.json further down is a test's, or somebody else's. */
const MAX_DEPTH = 4;
const MAX_CONFIG_BYTES = 1024 * 1024;
/** Who wrote a repository's row because it was pushed, and not asked for. */
export const BY_PUSH = 'push:';

export interface FoundApp {
	app: string;
	directory: string;
	/** Of production; null: it has no jibe.json, and what it is, is found out when it is built. */
	config: AppConfig | null;
}

/** @throws Refusal 422 bad_config, too_many_apps */
export async function appsIn(where: Where, commit: string, name: string, row: Pick<Repository, 'apps' | 'by'> | null): Promise<FoundApp[]> {
	if (row && !row.by.startsWith(BY_PUSH)) return named(where, commit, row.apps);
	const root = await read(where, commit, '');
	if (root !== undefined) return [{ app: root?.app ?? name, directory: '', config: root }];
	const directories = (await pathsIn(where, commit)).flatMap(configDirectory);
	if (directories.length > MAX_APPS)
		throw new Refusal('too_many_apps', 422, `${directories.length} folders have a jibe.json, and ${MAX_APPS} may`);
	if (directories.length === 0) return [{ app: name, directory: '', config: null }];
	const found = await Promise.all(directories.map(async (directory) => ({ directory, config: (await read(where, commit, directory))! })));
	const apps = found.map(({ directory, config }) => ({ app: config.app, directory, config }));
	const twice = apps.find(({ app }, at) => apps.findIndex((other) => other.app === app) !== at);
	if (twice)
		throw new Refusal(
			'app_twice',
			422,
			`two folders have a jibe.json that says the app is ${twice.app}; ${twice.directory} is one of them`,
		);
	return apps;
}

async function named(where: Where, commit: string, apps: Repository['apps']): Promise<FoundApp[]> {
	return Promise.all(
		apps.map(async ({ app, directory }) => {
			const config = await read(where, commit, directory);
			if (config && config.app !== app)
				throw new Refusal(
					'app_mismatch',
					422,
					`${fileOf(directory)} says the app is ${config.app}, and the repository says that ${app} is there`,
					'"jibe repo add" changes what the repository says',
				);
			return { app, directory, config: config ?? null };
		}),
	);
}

function configDirectory(path: string): string[] {
	const parts = path.split('/');
	if (parts.pop() !== 'jibe.json' || parts.length > MAX_DEPTH) return [];
	return parts.some((part) => part === 'node_modules' || part.startsWith('.')) ? [] : [parts.join('/')];
}

/** undefined: there is none. */
async function read(where: Where, commit: string, directory: string): Promise<AppConfig | undefined> {
	const file = fileOf(directory);
	const spec = `${commit}:${file}`;
	const object = (await readObjects(where, [spec])).get(spec);
	if (!object || object.type !== 'blob') return undefined;
	if (object.bytes.length > MAX_CONFIG_BYTES) throw new Refusal('bad_config', 422, `${file} has more than ${MAX_CONFIG_BYTES} bytes`);
	try {
		// What may be left out, because the directory shows it, is found when it is built.
		return configFor(parseConfigFile(object.bytes.toString(), file, { dockerfile: true, entry: 'server.ts' }));
	} catch (error) {
		if (error instanceof ConfigError) throw new Refusal('bad_config', 422, error.message);
		throw error;
	}
}

function fileOf(directory: string): string {
	return directory === '' ? 'jibe.json' : `${directory}/jibe.json`;
}

import { durationMs, type AppConfig } from './config.ts';
import type { Path } from './jsonc.ts';

/** Rules of jibe.json that concern more than one key, or what a schema can't say. Decided on the merged configuration. */
export function breaches(config: AppConfig, detected: { dockerfile?: boolean }): Breach[] {
	return [
		...unsupported(config),
		...runtimeBreaches(config, detected),
		...pathBreaches(config),
		...regionBreaches(config),
		...nameBreaches(config),
		...timeBreaches(config),
	];
}

interface Breach {
	path: Path;
	message: string;
}

/** What has its place in the file, and nothing behind it yet: said before a deploy, not found out after it. */
function unsupported({ runtime, types }: AppConfig): Breach[] {
	const found: Breach[] = [];
	const instead = 'this version runs "fetch": a module whose default export answers requests';
	if (runtime !== 'fetch') found.push({ path: ['runtime'], message: `runtime "${runtime}" is not there yet; ${instead}` });
	if (types)
		found.push({ path: ['types'], message: '"types" is not there yet: have "test" check them, as in "tsc --noEmit && node --test"' });
	return found;
}

const KEY_OF_RUNTIME = { fetch: 'entry', process: 'start', container: 'image', static: 'dir' } as const;

const MEANING = {
	entry: 'the module whose default export answers requests, such as "src/server.ts"',
	start: 'the command that listens on $PORT, such as "./bin/notes"',
	image: 'an image such as "registry/notes:tag", or a Dockerfile beside jibe.json',
	dir: 'the directory to serve, such as "dist"',
} as const;

function runtimeBreaches(config: AppConfig, detected: { dockerfile?: boolean }): Breach[] {
	const found: Breach[] = [];
	const needed = KEY_OF_RUNTIME[config.runtime];
	const given = config[needed] !== undefined || (config.runtime === 'container' && detected.dockerfile === true);
	if (!given) found.push({ path: [needed], message: `runtime "${config.runtime}" needs "${needed}": ${MEANING[needed]}` });
	for (const [runtime, key] of Object.entries(KEY_OF_RUNTIME)) {
		// A container may be told what to run.
		if (key === needed || config[key] === undefined || (key === 'start' && config.runtime === 'container')) continue;
		found.push({ path: [key], message: `"${key}" belongs to runtime "${runtime}", and this app's is "${config.runtime}"` });
	}
	return found;
}

function pathBreaches(config: AppConfig): Breach[] {
	const listed = (key: 'include' | 'exclude') => config[key].map((value, i) => ({ path: [key, i], value }));
	const paths = [
		{ path: ['entry'], value: config.entry },
		{ path: ['dir'], value: config.dir },
		...listed('include'),
		...listed('exclude'),
	];
	return paths
		.filter(({ value }) => value !== undefined && !staysInside(value))
		.map(({ path, value }) => ({ path, message: `"${value}" must lie below jibe.json's directory: no leading / and no ".."` }));
}

function staysInside(path: string): boolean {
	return path !== '' && !path.startsWith('/') && !path.includes('\\') && !path.includes('\0') && !path.split('/').includes('..');
}

function regionBreaches(config: AppConfig): Breach[] {
	const { regions, servers, strategy } = config;
	const found: Breach[] = twice(servers, ['servers']);
	if (regions !== 'all') found.push(...twice(regions, ['regions']));
	const waves = 'waves' in strategy ? (strategy.waves ?? []) : [];
	const path = ['strategy', 'waves'];
	// Regions that an environment leaves out may be named by waves and counted by minRegions: the rollout narrows both.
	found.push(...twice(waves.flatMap((wave) => wave), path)); // prettier-ignore
	for (const [i, wave] of waves.entries()) {
		if (wave === 'rest' && i !== waves.length - 1) found.push({ path: [...path, i], message: '"rest" can only be the last wave' });
	}
	if (strategy.type === 'canary' && !strategy.ramp.every((weight, i) => i === 0 || weight > strategy.ramp[i - 1]!)) {
		found.push({ path: ['strategy', 'ramp'], message: 'the weights of "ramp" must grow' });
	}
	return found;
}

function twice(names: readonly string[], path: Path): Breach[] {
	const doubled = new Set(names.filter((name, i) => names.indexOf(name) !== i));
	return [...doubled].map((name) => ({ path, message: `"${name}" stands here twice` }));
}

/** What Jibe sets itself for every instance. */
const RESERVED = /^(PORT|JIBE_.*)$/;

function nameBreaches({ env, secrets }: AppConfig): Breach[] {
	const found: Breach[] = twice(secrets, ['secrets']);
	for (const name of Object.keys(env)) {
		if (RESERVED.test(name)) found.push({ path: ['env', name], message: `"${name}" is set by Jibe itself` });
		if (secrets.includes(name)) found.push({ path: ['env', name], message: `"${name}" is also listed in "secrets": keep one` });
	}
	for (const [i, name] of secrets.entries()) {
		if (RESERVED.test(name)) found.push({ path: ['secrets', i], message: `"${name}" is set by Jibe itself` });
	}
	return found;
}

const MAX_HEALTH_TIMEOUT_MS = 30_000;
const MAX_DURATION_MS = 24 * 3_600_000;

function timeBreaches({ health, strategy, drain }: AppConfig): Breach[] {
	const found: Breach[] = [];
	const limit = (path: Path, value: string, maxMs: number) => {
		const ms = durationMs(value);
		if (ms > maxMs) found.push({ path, message: `"${value}" is longer than the limit of ${maxMs / 1000} s` });
	};
	if (health) {
		limit(['health', 'timeout'], health.timeout, MAX_HEALTH_TIMEOUT_MS);
		if (durationMs(health.timeout) === 0) found.push({ path: ['health', 'timeout'], message: 'a timeout of 0 fails every check' });
	}
	limit(['strategy', 'watch'], strategy.watch, MAX_DURATION_MS);
	if (strategy.type === 'canary') limit(['strategy', 'window'], strategy.window, MAX_DURATION_MS);
	limit(['drain', 'requests'], drain.requests, MAX_DURATION_MS);
	limit(['drain', 'streams'], drain.streams, MAX_DURATION_MS);
	return found;
}

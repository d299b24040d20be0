import { durationMs, type AppConfig, type StepConfig } from './config.ts';
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
		...stepBreaches(config),
	];
}

interface Breach {
	path: Path;
	message: string;
}

/** What has its place in the file, and nothing behind it yet: said before a deploy, not found out after it. */
function unsupported({ runtime }: AppConfig): Breach[] {
	if (runtime === 'fetch') return [];
	const instead = 'this version runs "fetch": a module whose default export answers requests';
	return [{ path: ['runtime'], message: `runtime "${runtime}" is not there yet; ${instead}` }];
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
	const listed = (key: 'include' | 'exclude' | 'watch') => (config[key] ?? []).map((value, i) => ({ path: [key, i], value }));
	const paths = [
		{ path: ['entry'], value: config.entry },
		{ path: ['dir'], value: config.dir },
		...listed('include'),
		...listed('exclude'),
		...listed('watch'),
		...(config.migrate?.files ?? []).map((value, i) => ({ path: ['migrate', 'files', i], value })),
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

const MAX_STEP_MS = 30 * 60_000;
const SET_IN_SANDBOX = /^(HOME|PATH|PWD|TZ|LANG|LC_.*|SOURCE_DATE_EPOCH|TMPDIR|LD_.*|JIBE_.*)$/;

function stepBreaches({ build, test, types, smoke, migrate }: AppConfig): Breach[] {
	const named = (key: 'build' | 'test', steps: AppConfig['test']) =>
		typeof steps === 'object' ? Object.entries(steps).map(([name, step]) => ({ path: [key, name] as const, name, step })) : [];
	const all = [...named('build', build), ...named('test', test)];
	const found = all.flatMap((one) => stepBreach(one, all));
	const timed = [
		{ path: ['smoke'], step: smoke },
		{ path: ['migrate', 'before'], step: migrate?.before },
		{ path: ['migrate', 'after'], step: migrate?.after },
	];
	for (const { path, step } of timed) if (typeof step === 'object') found.push(...timeoutBreach(path, step.timeout));
	const names = new Set(all.map(({ name }) => name));
	if (typeof build === 'string' && names.has('build')) found.push({ path: ['test', 'build'], message: '"build" is a step already' });
	if (types && names.has('types'))
		found.push({ path: ['types'], message: 'there is a step called "types" already: leave one of them out' });
	if (typeof test === 'string' && names.has('test')) found.push({ path: ['build', 'test'], message: '"test" is a step already' });
	return found.length === 0 ? cycleBreach(all) : found;
}

interface NamedStep {
	path: readonly ['build' | 'test', string];
	name: string;
	step: StepConfig;
}

function stepBreach({ path, name, step }: NamedStep, all: readonly NamedStep[]): Breach[] {
	const found: Breach[] = [...twice(step.needs, [...path, 'needs']), ...timeoutBreach(path, step.timeout)];
	if (all.some((other) => other.name === name && other.path[0] !== path[0] && path[0] === 'test')) {
		found.push({ path, message: `"${name}" is also a step of "build": one name, one step` });
	}
	for (const [i, need] of step.needs.entries()) {
		const needed = all.find((other) => other.name === need);
		const place = [...path, 'needs', i];
		if (!needed) found.push({ path: place, message: `there is no step "${need}"; there are ${all.map((one) => one.name).join(', ')}` });
		else if (path[0] === 'build' && needed.path[0] === 'test') {
			found.push({ path: place, message: `"${need}" is a test: what is built can't wait for it` });
		}
	}
	for (const key of ['inputs', 'outputs'] as const) {
		for (const [i, glob] of (step[key] ?? []).entries()) {
			if (staysInside(glob.replace(/^!/, ''))) continue;
			found.push({ path: [...path, key, i], message: `"${glob}" must lie below jibe.json's directory: no leading / and no ".."` });
		}
	}
	for (const variable of Object.keys(step.env)) {
		if (SET_IN_SANDBOX.test(variable)) found.push({ path: [...path, 'env', variable], message: `"${variable}" is set by Jibe itself` });
	}
	return found;
}

function timeoutBreach(path: Path, timeout: string): Breach[] {
	const ms = durationMs(timeout);
	if (ms > 0 && ms <= MAX_STEP_MS) return [];
	return [{ path: [...path, 'timeout'], message: `"${timeout}" must be more than 0 and at most ${MAX_STEP_MS / 60_000} minutes` }];
}

/** Takes away what waits for nothing that is left, until nothing goes: what is left then waits for itself. */
function cycleBreach(all: readonly NamedStep[]): Breach[] {
	let left = [...all];
	for (;;) {
		const waiting = left.filter(({ step }) => step.needs.some((need) => left.some(({ name }) => name === need)));
		if (waiting.length === 0) return [];
		if (waiting.length === left.length) break;
		left = waiting;
	}
	const names = left.map(({ name }) => name).join(', ');
	return [{ path: [...left[0]!.path, 'needs'], message: `these steps wait for each other: ${names}` }];
}

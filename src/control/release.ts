import { DEFAULT_MEMORY_MIB, durationMs, type AppConfig } from '#wire/config.ts';
import type { NewRelease } from './ports.ts';
import { Refusal } from './ports.ts';

/** jibe.json as agents and edges need it: the one place where the one becomes the other. */

/** Without `health` in jibe.json any answer below 500 on `/` is healthy. */
const DEFAULT_HEALTH = { path: '/', timeoutMs: 2_000, strict: false };

/** `env`: what `jibe env` set, over jibe.json's. @throws Refusal 422 */
export function releaseSpec(
	of: { app: string; environment: string; artifact: NewRelease['artifact']; vendor: NewRelease['vendor'] },
	config: AppConfig,
	env: Readonly<Record<string, string>>,
): NewRelease['spec'] {
	return {
		...of,
		runtime: { kind: config.runtime, node: process.versions.node },
		entry: entryOf(config),
		env: withSecrets(config, { ...config.env, ...env }),
		health: config.health ? { path: config.health.path, timeoutMs: durationMs(config.health.timeout), strict: true } : DEFAULT_HEALTH,
		memoryMiB: config.memory ?? DEFAULT_MEMORY_MIB,
		cpuMillis: config.cpu === undefined ? null : Math.max(1, Math.round(config.cpu * 1000)),
		drain: { requestsMs: durationMs(config.drain.requests), streamsMs: durationMs(config.drain.streams) },
		warm: config.warm,
		domains: config.domains,
		userKey: config.userKey ?? null,
		trustedProxies: config.trustedProxies,
	};
}

function entryOf(config: AppConfig): string {
	const entry = { fetch: config.entry, process: config.start, static: config.dir, container: config.image }[config.runtime];
	if (entry) return entry;
	const key = { fetch: 'entry', process: 'start', static: 'dir', container: 'image' }[config.runtime];
	throw new Refusal(
		'config_incomplete',
		422,
		`jibe.json of ${config.app} has "runtime": "${config.runtime}" but no "${key}"`,
		`add "${key}"`,
	);
}

/** A secret that has no value would be noticed by the app's users first. */
function withSecrets(config: AppConfig, env: Record<string, string>): Record<string, string> {
	const missing = config.secrets.filter((name) => !(name in env));
	if (missing.length === 0) return env;
	throw new Refusal(
		'secret_missing',
		422,
		`${config.app} needs ${missing.join(', ')}, and nobody has set a value`,
		`jibe env set ${missing[0]}=…`,
	);
}

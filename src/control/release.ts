import { DEFAULT_MEMORY_MIB, durationMs, type AppConfig } from '#wire/config.ts';
import type { NewRelease } from './ports.ts';
import { Refusal } from './ports.ts';

/** jibe.json as agents and edges need it: the one place where the one becomes the other. */

/** Without `health` in jibe.json any answer below 500 on `/` is healthy. */
const DEFAULT_HEALTH = { path: '/', timeoutMs: 2_000, strict: false };

/** `env`: what `jibe env` set, over jibe.json's. `secrets`: versions; their values go to nobody but the instances. @throws Refusal 422 */
export function releaseSpec(
	of: { app: string; environment: string; artifact: NewRelease['artifact']; vendor: NewRelease['vendor'] },
	config: AppConfig,
	env: Readonly<Record<string, string>>,
	secrets: Readonly<Record<string, number>>,
): NewRelease['spec'] {
	return {
		...of,
		runtime: { kind: config.runtime, node: process.versions.node },
		entry: entryOf(config),
		env: withoutSecrets(config, { ...config.env, ...env }),
		...(config.secrets.length > 0 ? { secrets: { ...secrets } } : {}),
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

/** A variable that became a secret is one: what `jibe env` says of it counts no more. */
function withoutSecrets({ secrets }: AppConfig, env: Record<string, string>): Record<string, string> {
	return Object.fromEntries(Object.entries(env).filter(([name]) => !secrets.includes(name)));
}

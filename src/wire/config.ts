import { z } from 'zod';
import { appName, environmentName, regionName, serverLabel } from './names.ts';

/** jibe.json. The JSON Schema that is published is generated from this; docs/config.md is checked against it. */

export const DEFAULT_MEMORY_MIB = 512;

/** `500ms`, `2s`, `5m`, `1h`. */
export const duration = z.string().regex(/^\d+(ms|s|m|h)$/, 'a number with ms, s, m or h, such as "2s"');

const envName = z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/);
const wave = z.union([z.literal('rest'), z.array(regionName).min(1)]);

export const strategy = z.discriminatedUnion('type', [
	z.strictObject({
		type: z.literal('walk'),
		watch: duration.default('5m'),
		minRegions: z.int().positive().optional(),
		waves: z.array(wave).optional(),
	}),
	z.strictObject({
		type: z.literal('canary'),
		ramp: z.array(z.number().positive().max(100)).default([5, 25, 100]),
		window: duration.default('5m'),
		waves: z.array(wave).optional(),
		watch: duration.default('5m'),
		minRegions: z.int().positive().optional(),
		onWindowEnd: z.enum(['promote', 'hold', 'rollback']).default('promote'),
	}),
	z.strictObject({ type: z.literal('blue-green'), watch: duration.default('5m'), minRegions: z.int().positive().optional() }),
	z.strictObject({ type: z.literal('rolling'), watch: duration.default('5m'), minRegions: z.int().positive().optional() }),
]);

const settings = {
	runtime: z.enum(['fetch', 'process', 'container', 'static']).default('fetch'),
	entry: z.string().optional(),
	build: z.string().optional(),
	start: z.string().optional(),
	image: z.string().optional(),
	dir: z.string().optional(),
	test: z.string().optional(),
	types: z.boolean().default(false),
	regions: z.union([z.literal('all'), z.array(regionName).min(1)]).default('all'),
	instances: z.int().positive().max(100).default(1),
	health: z.strictObject({ path: z.string().startsWith('/').default('/'), timeout: duration.default('2s') }).optional(),
	strategy: strategy.default({ type: 'walk', watch: '5m' }),
	env: z.record(envName, z.string()).default({}),
	secrets: z.array(envName).default([]),
	domains: z.array(z.string().regex(/^[a-z0-9.-]+$/)).default([]),
	/** Limit of memory of one instance, MiB. */
	memory: z.int().min(64).default(DEFAULT_MEMORY_MIB),
	/** Limit of CPU of one instance, cores. */
	cpu: z.number().positive().optional(),
	include: z.array(z.string()).default([]),
	exclude: z.array(z.string()).default([]),
	/** Labels that a server must have to be given instances. */
	servers: z.array(serverLabel).max(20).default([]),
	drain: z
		.strictObject({ requests: duration.default('30s'), streams: duration.default('10m') })
		.default({ requests: '30s', streams: '10m' }),
	warm: z.enum(['frozen', 'running', 'off']).default('frozen'),
	trustedProxies: z.array(z.string()).default([]),
	userKey: z
		.string()
		.regex(/^(header|cookie):[A-Za-z0-9_-]+$/, 'header:NAME or cookie:NAME')
		.optional(),
};

/** One environment's configuration, after `environments` was merged over the top and defaults were filled in. */
export const appConfig = z.strictObject({ app: appName, ...settings });
export type AppConfig = z.infer<typeof appConfig>;
export type Strategy = z.infer<typeof strategy>;

const { ...overridable } = settings;
const partialSettings = z.strictObject(overridable).omit({ runtime: true }).partial();

/** The file itself. */
export const configFile = z.strictObject({
	$schema: z.string().optional(),
	app: appName,
	...settings,
	environments: z.record(environmentName, partialSettings).default({}),
});
export type ConfigFile = z.infer<typeof configFile>;

const UNIT_MS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 } as const;

export function durationMs(text: string): number {
	const match = /^(\d+)(ms|s|m|h)$/.exec(text);
	if (!match) throw new Error(`not a duration: ${text}`);
	return Number(match[1]) * UNIT_MS[match[2] as keyof typeof UNIT_MS];
}

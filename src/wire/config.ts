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

export const stepName = z.string().regex(/^[a-z0-9][a-z0-9-]{0,39}$/, 'lower-case letters, digits and hyphens, at most 40');
const MAX_STEPS = 50;
const MAX_COMMAND_CHARACTERS = 16_384;
const command = z.string().min(1).max(MAX_COMMAND_CHARACTERS);

const stepSettings = {
	/** For `sh -e`, in the app's directory. */
	run: command,
	/** Globs below the app's directory: the step sees these files and no others. Left out: all of them. */
	inputs: z.array(z.string()).min(1).optional(),
	/** Globs of what it makes. Left out: a build step's is whatever it wrote, a test's nothing. */
	outputs: z.array(z.string()).optional(),
	env: z.record(envName, z.string()).default({}),
	/** Build secrets that it finds as files under /run/secrets. */
	secrets: z.array(envName).default([]),
	network: z.boolean().default(false),
	timeout: duration.default('10m'),
	/** Steps that come before it, and whose outputs it sees. */
	needs: z.array(stepName).default([]),
	/** SOURCE_DATE_EPOCH is the commit's time instead of 0. */
	commitTime: z.boolean().default(false),
	/** Takes symbols and debugging information out of the programs that it makes. */
	strip: z.boolean().default(false),
};
const buildStep = z.strictObject(stepSettings);
/** `gate: "promotion"`: it runs beside the deploy, and holds the pointers after the first region. */
const testStep = z.strictObject({ ...stepSettings, gate: z.literal('promotion').optional() });
export type StepConfig = z.infer<typeof testStep>;

const tooMany = `at most ${MAX_STEPS} steps`;
const buildSteps = z.union([command, z.record(stepName, buildStep).refine((steps) => Object.keys(steps).length <= MAX_STEPS, tooMany)]);
const testSteps = z.union([command, z.record(stepName, testStep).refine((steps) => Object.keys(steps).length <= MAX_STEPS, tooMany)]);

/** Asked of a prepared release before the walk, and of the live one after it: JIBE_URL is where it answers. */
export const smoke = z.strictObject({
	run: command,
	env: z.record(envName, z.string()).default({}),
	timeout: duration.default('60s'),
});
const migration = z.strictObject({
	run: command,
	env: z.record(envName, z.string()).default({}),
	timeout: duration.default('10m'),
});
export const migrate = z.strictObject({
	/** Expands the schema, before anything is prepared. At least once: it must be repeatable. */
	before: z.union([command, migration]).optional(),
	/** Contracts it, once the way back has ended. */
	after: z.union([command, migration]).optional(),
	/** SQL files that are read for statements that lock, or break the release before. */
	files: z.array(z.string()).optional(),
	/** true: what is found in them refuses the deploy; else it is a warning. */
	protect: z.boolean().default(false),
});

const settings = {
	runtime: z.enum(['fetch', 'process', 'container', 'static']).default('fetch'),
	entry: z.string().optional(),
	build: buildSteps.optional(),
	start: z.string().optional(),
	image: z.string().optional(),
	dir: z.string().optional(),
	test: testSteps.optional(),
	smoke: z.union([command, smoke]).optional(),
	migrate: migrate.optional(),
	/** Globs from the repository's root: a push that changes none of them, nor the app's own directory, builds nothing. */
	watch: z.array(z.string()).optional(),
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

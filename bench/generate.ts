import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/**
 * A synthetic Hono API, the same bytes for the same size: `modules` TypeScript files, of which `routes` are route
 * files, each with a zod schema and a service of its own, over a layer of shared libraries.
 */
export interface GeneratedApi {
	dir: string;
	modules: number;
	routes: number;
}

export const API_SIZES = { 217: 48, 2000: 440, 10_000: 2200 } as const;
export type ApiSize = keyof typeof API_SIZES;

const PER_FOLDER = 40;
const LIBS_PER_ROUTE = 3;
const REPOSITORY = join(import.meta.dirname, '..');
const PACKAGES = ['hono', 'zod'] as const;

export interface GenerateOptions {
	modules: ApiSize;
	/** Name of the app in jibe.json. */
	app?: string;
	/** More keys for jibe.json. */
	config?: Record<string, unknown>;
	/** `copy` is what a user has; `link` is quicker; `none` leaves node_modules to `npm ci`. */
	nodeModules?: 'copy' | 'link' | 'none';
	/** Where hono and zod are installed. */
	packagesFrom?: string;
}

export function generateApi(dir: string, options: GenerateOptions): GeneratedApi {
	const routes = API_SIZES[options.modules];
	const libs = options.modules - 2 - 3 * routes;
	const files = new Map<string, string>();
	for (let i = 0; i < libs; i++) files.set(`src/libs/${place(i)}.ts`, libSource(i));
	for (let i = 0; i < routes; i++) {
		files.set(`src/schemas/${place(i)}.ts`, schemaSource(i));
		files.set(`src/services/${place(i)}.ts`, serviceSource(i, libs));
		files.set(`src/routes/${place(i)}.ts`, routeSource(i, libs, 'r0'));
	}
	files.set('src/app.ts', appSource(routes));
	files.set('src/server.ts', SERVER_SOURCE);
	files.set('tsconfig.json', TSCONFIG);
	files.set('.gitignore', 'node_modules/\ndist/\n');
	files.set('jibe.json', `${JSON.stringify(jibeJson(options), null, '\t')}\n`);
	files.set('package.json', `${JSON.stringify(packageJson(), null, '\t')}\n`);
	files.set('package-lock.json', `${JSON.stringify(packageLock(), null, '\t')}\n`);
	for (const [path, text] of files) {
		mkdirSync(dirname(join(dir, path)), { recursive: true });
		writeFileSync(join(dir, path), text);
	}
	installPackages(dir, options);
	return { dir, modules: options.modules, routes };
}

/**
 * Edits `count` route handlers so that their answers show it; the same seed edits the same ones.
 * Returns the URL paths whose `revision` is now `revision`.
 */
export function editHandlers(dir: string, count: number, seed: number, revision = `e${seed}`): string[] {
	const routes = readFileSync(join(dir, 'src/app.ts'), 'utf8').match(/^import /gm)!.length - 1;
	const chosen = new Set<number>();
	for (let state = seed * 2_654_435_761 + 12_345; chosen.size < Math.min(count, routes);) {
		state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
		chosen.add(state % routes);
	}
	return [...chosen].map((i) => {
		const file = join(dir, `src/routes/${place(i)}.ts`);
		const before = readFileSync(file, 'utf8');
		const after = before.replace(/const revision = '[^']*';/, `const revision = '${revision}';`);
		if (after === before) throw new Error(`${file} already answers with revision ${revision}: use another seed or revision`);
		writeFileSync(file, after);
		return `${routePath(i)}/about`;
	});
}

/** `area-01/m-0052`: folders of a size people keep. */
function place(i: number): string {
	return `area-${String(Math.floor(i / PER_FOLDER)).padStart(2, '0')}/m-${String(i).padStart(4, '0')}`;
}

function routePath(i: number): string {
	return `/api/m-${String(i).padStart(4, '0')}`;
}

function libSource(i: number): string {
	const below = i >= 10 ? `import { combine as below } from '../../libs/${place(Math.floor(i / 3))}.ts';\n` : '';
	const call = i >= 10 ? 'below(parts.slice(1), seed + 1)' : 'parts.join("-")';
	return `${below}
/** How the parts of lib ${i} are joined. */
export interface Options${i} {
	readonly separator: string;
	readonly limit: number;
	readonly upper?: boolean;
}

export type Part = string | number;

const DEFAULTS: Options${i} = { separator: '-', limit: ${10 + (i % 7)} };

// Joins what it is given, deterministically.
export function combine(parts: readonly Part[], seed = ${i}): string {
	if (parts.length < 2) return String(parts[0] ?? seed);
	const text = ${call};
	return text.slice(0, DEFAULTS.limit * 8);
}

export function checksum${i}(text: string, options: Partial<Options${i}> = {}): number {
	const { limit } = { ...DEFAULTS, ...options };
	let sum = ${i} >>> 0;
	for (let at = 0; at < Math.min(text.length, limit * 16); at++) {
		sum = (Math.imul(sum, 31) + text.charCodeAt(at)) >>> 0;
	}
	return sum;
}

export class Counter${i} {
	#counts = new Map<string, number>();
	add(key: string, by: number = 1): number {
		const next = (this.#counts.get(key) ?? 0) + by;
		this.#counts.set(key, next);
		return next;
	}
	get size(): number {
		return this.#counts.size;
	}
}
`;
}

function schemaSource(i: number): string {
	return `import { z } from 'zod';

/** What a client sends to create item ${i}. */
export const input${i} = z.object({
	name: z.string().min(1).max(${40 + (i % 20)}),
	amount: z.number().int().nonnegative(),
	tags: z.array(z.string()).max(8).default([]),
	kind: z.enum(['small', 'medium', 'large']).default('small'),
});

export type Input${i} = z.infer<typeof input${i}>;

export const query${i} = z.object({
	limit: z.coerce.number().int().min(1).max(100).default(20),
	after: z.string().optional(),
});

export type Query${i} = z.infer<typeof query${i}>;
`;
}

function serviceSource(i: number, libs: number): string {
	const [a, b] = libsOf(i, libs);
	return `import type { Input${i}, Query${i} } from '../../schemas/${place(i)}.ts';
import { checksum${a}, combine } from '../../libs/${place(a)}.ts';
import { Counter${b} } from '../../libs/${place(b)}.ts';

export interface Item${i} extends Input${i} {
	readonly id: string;
	readonly version: number;
}

const items = new Map<string, Item${i}>();
const counter = new Counter${b}();

export function create(input: Input${i}): Item${i} {
	const id = combine([input.name, input.kind, checksum${a}(input.name)]);
	const item: Item${i} = { ...input, id, version: counter.add(id) };
	items.set(id, item);
	return item;
}

export function list({ limit, after }: Query${i}): { items: Item${i}[]; total: number } {
	const all = [...items.values()].filter((item) => after === undefined || item.id > after);
	return { items: all.slice(0, limit), total: all.length };
}

export function find(id: string): Item${i} | undefined {
	return items.get(id);
}
`;
}

function routeSource(i: number, libs: number, revision: string): string {
	const third = libsOf(i, libs)[2];
	return `import { Hono } from 'hono';
import { input${i}, query${i} } from '../../schemas/${place(i)}.ts';
import { create, find, list } from '../../services/${place(i)}.ts';
import { checksum${third} } from '../../libs/${place(third)}.ts';

const revision = '${revision}';

export const route${i} = new Hono();

route${i}.get('/about', (c) => c.json({ route: ${i}, revision, checksum: checksum${third}(revision) }));

route${i}.get('/', (c) => {
	const query = query${i}.safeParse(c.req.query());
	if (!query.success) return c.json({ error: 'bad_query', issues: query.error.issues }, 400);
	return c.json({ revision, ...list(query.data) });
});

route${i}.get('/:id', (c) => {
	const item = find(c.req.param('id'));
	return item ? c.json({ revision, item }) : c.json({ error: 'not_found' }, 404);
});

// Creates one; what it answers is what later reads give.
route${i}.post('/', async (c) => {
	const body: unknown = await c.req.json().catch(() => null);
	const input = input${i}.safeParse(body);
	if (!input.success) return c.json({ error: 'bad_input', issues: input.error.issues }, 400);
	return c.json({ revision, item: create(input.data) }, 201);
});
`;
}

/** Every lib is used by some route; low ones, through the others, by most. */
function libsOf(i: number, libs: number): [number, number, number] {
	return [(i * LIBS_PER_ROUTE) % libs, (i * LIBS_PER_ROUTE + 1) % libs, (i * LIBS_PER_ROUTE + 2) % libs];
}

function appSource(routes: number): string {
	const each = <T>(make: (i: number) => T) => Array.from({ length: routes }, (_, i) => make(i));
	return `import { Hono } from 'hono';
${each((i) => `import { route${i} } from './routes/${place(i)}.ts';`).join('\n')}

export const app = new Hono();

app.get('/healthz', (c) => c.json({ ok: true }));
app.get('/pid', (c) => c.json({ pid: process.pid, version: version(), region: process.env['JIBE_REGION'] ?? null }));
app.get('/', (c) => c.text('ok'));
${each((i) => `app.route('${routePath(i)}', route${i});`).join('\n')}

function version(): string {
	return process.env['JIBE_RELEASE'] ?? 'dev';
}
`;
}

const SERVER_SOURCE = `import { app } from './app.ts';

export default app;
`;

const TSCONFIG = `${JSON.stringify(
	{
		compilerOptions: {
			target: 'es2024',
			module: 'nodenext',
			strict: true,
			noEmit: true,
			allowImportingTsExtensions: true,
			isolatedModules: true,
			skipLibCheck: true,
		},
		include: ['src'],
	},
	null,
	'\t',
)}\n`;

function jibeJson(options: GenerateOptions): Record<string, unknown> {
	return { app: options.app ?? 'api', runtime: 'fetch', entry: 'src/server.ts', health: { path: '/healthz' }, ...options.config };
}

interface Lock {
	packages: Record<string, Record<string, unknown> & { version: string }>;
}

function repositoryLock(): Lock {
	return JSON.parse(readFileSync(join(REPOSITORY, 'package-lock.json'), 'utf8')) as Lock;
}

function packageJson(): Record<string, unknown> {
	const lock = repositoryLock();
	const dependencies = Object.fromEntries(PACKAGES.map((name) => [name, lock.packages[`node_modules/${name}`]!.version]));
	return { name: 'api', version: '1.0.0', private: true, type: 'module', dependencies };
}

function packageLock(): Record<string, unknown> {
	const lock = repositoryLock();
	const { name, version, dependencies } = packageJson();
	const packages: Record<string, unknown> = { '': { name, version, dependencies } };
	for (const each of PACKAGES) packages[`node_modules/${each}`] = lock.packages[`node_modules/${each}`];
	return { name, version, lockfileVersion: 3, requires: true, packages };
}

function installPackages(dir: string, options: GenerateOptions): void {
	const how = options.nodeModules ?? 'copy';
	if (how === 'none') return;
	const from = options.packagesFrom ?? join(REPOSITORY, 'node_modules');
	mkdirSync(join(dir, 'node_modules'), { recursive: true });
	for (const name of PACKAGES) {
		const target = join(dir, 'node_modules', name);
		if (existsSync(target)) continue;
		if (how === 'link') symlinkSync(join(from, name), target);
		else cpSync(join(from, name), target, { recursive: true });
	}
}

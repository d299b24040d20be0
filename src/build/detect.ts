import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { readPackageJson, type PackageJson } from './closure.ts';

/** What an app without jibe.json is, and why that is assumed. */

export interface DetectedApp {
	app: string;
	runtime: 'fetch' | 'process' | 'static';
	/** fetch: the entry module. */
	entry?: string;
	/** process: the start command. */
	start?: string;
	/** static: the folder that is served. */
	dir?: string;
	/** One sentence each. */
	assumptions: string[];
}

const ENTRIES = ['src/server', 'src/index', 'src/main', 'src/app', 'server', 'index', 'main', 'app'];
const EXTENSIONS = ['.ts', '.tsx', '.mts', '.js', '.mjs'];
const STATIC_FOLDERS = ['.', 'dist', 'public', 'build', 'site'];
const MAX_NAME = 40;

/** null: nothing here tells what it is. */
export function detectApp(dir: string): DetectedApp | null {
	const manifest = readPackageJson(dir);
	const { app, why } = nameOf(dir, manifest);
	return detectFetch(dir, app, why, manifest) ?? detectProcess(dir, app, why, manifest) ?? detectStatic(dir, app, why);
}

function nameOf(dir: string, manifest: PackageJson | null): { app: string; why: string } {
	const named = appName((manifest?.name ?? '').replace(/^@[^/]+\//, ''));
	if (named !== '') return { app: named, why: `The app is called "${named}", as package.json says.` };
	const app = appName(basename(dir)) || 'app';
	return { app, why: `The app is called "${app}", after its folder.` };
}

function appName(text: string): string {
	const plain = text.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-').slice(0, MAX_NAME); // prettier-ignore
	return plain.replace(/^-+|-+$/g, '');
}

function detectFetch(dir: string, app: string, why: string, manifest: PackageJson | null): DetectedApp | null {
	const declared = [manifest?.main, exportedMain(manifest?.exports)]
		.filter((path) => path !== undefined)
		.map((path) => path.replace(/^\.\//, ''));
	const guessed = ENTRIES.flatMap((entry) => EXTENSIONS.map((extension) => entry + extension));
	for (const entry of [...declared, ...guessed]) {
		if (!/\.[cm]?[jt]sx?$/.test(entry) || !existsSync(join(dir, entry))) continue;
		if (!exportsDefault(readFileSync(join(dir, entry), 'utf8'))) continue;
		return { app, runtime: 'fetch', entry, assumptions: [why, `${entry} exports what answers requests, so the runtime is "fetch".`] };
	}
	return null;
}

function exportsDefault(source: string): boolean {
	const code = source.replaceAll(/\/\*[\s\S]*?\*\/|\/\/[^\n]*/g, '');
	return /\bexport\s+default\b|\bexport\s*\{[^}]*\bas\s+default\b/.test(code);
}

function exportedMain(exports: unknown): string | undefined {
	let value: unknown = exports;
	while (typeof value === 'object' && value !== null) {
		const table = value as Record<string, unknown>;
		value = table['.'] ?? table['import'] ?? table['node'] ?? table['default'];
	}
	return typeof value === 'string' ? value : undefined;
}

function detectProcess(dir: string, app: string, why: string, manifest: PackageJson | null): DetectedApp | null {
	const start = (manifest as { scripts?: Record<string, string> } | null)?.scripts?.['start'];
	if (start !== undefined) {
		return {
			app,
			runtime: 'process',
			start: 'npm start',
			assumptions: [why, `package.json has a start script (${start}), so the runtime is "process".`],
		};
	}
	if (existsSync(join(dir, 'Procfile'))) {
		const web = /^web:\s*(.+)$/m.exec(readFileSync(join(dir, 'Procfile'), 'utf8'))?.[1];
		if (web !== undefined) return { app, runtime: 'process', start: web, assumptions: [why, `The Procfile starts "web" with \`${web}\`.`] };
	}
	const script = manifest
		? ENTRIES.flatMap((entry) => EXTENSIONS.map((extension) => entry + extension)).find((path) => existsSync(join(dir, path)))
		: undefined;
	if (script === undefined) return null;
	return {
		app,
		runtime: 'process',
		start: `node ${script}`,
		assumptions: [why, `${script} exports no default, so it is taken to listen on $PORT by itself: the runtime is "process".`],
	};
}

function detectStatic(dir: string, app: string, why: string): DetectedApp | null {
	const folder = STATIC_FOLDERS.find((name) => existsSync(join(dir, name)) && readdirSync(join(dir, name)).includes('index.html'));
	if (folder === undefined) return null;
	return {
		app,
		runtime: 'static',
		dir: folder,
		assumptions: [why, `There is ${folder === '.' ? '' : `${folder}/`}index.html, so files are served as they are.`],
	};
}

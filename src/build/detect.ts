import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { readPackageJson, type PackageJson } from './closure.ts';
import { detectLanguage } from './detect-language.ts';
import { detectSite } from './detect-site.ts';

/** What an app without jibe.json is, and why that is assumed. */

export interface DetectedApp extends Detection {
	app: string;
}

export interface Detection {
	runtime: 'fetch' | 'process' | 'static' | 'container';
	/** fetch: the entry module. */
	entry?: string;
	/** process: the start command. */
	start?: string;
	/** static: the folder that is served. */
	dir?: string;
	/** As `build` in jibe.json. */
	build?: Record<string, { run: string; outputs?: string[]; strip?: boolean }>;
	test?: string;
	/** One sentence each. */
	assumptions: string[];
}

const ENTRIES = ['src/server', 'src/index', 'src/main', 'src/app', 'src/worker', 'server', 'index', 'main', 'app', 'worker'];
const EXTENSIONS = ['.ts', '.tsx', '.mts', '.js', '.mjs'];
const STATIC_FOLDERS = ['.', 'dist', 'public', 'build', 'site'];
const MAX_NAME = 40;

/** null: nothing here tells what it is. */
export function detectApp(dir: string): DetectedApp | null {
	const manifest = readPackageJson(dir);
	const { app, why } = nameOf(dir, manifest);
	const found =
		detectFetch(dir, manifest) ??
		detectDockerfile(dir) ??
		detectLanguage(dir, app) ??
		detectSite(dir, manifest) ??
		detectProcess(dir, manifest) ??
		detectStatic(dir);
	return found && { app, ...withProcfile(dir, found), assumptions: [why, ...withProcfile(dir, found).assumptions] };
}

function nameOf(dir: string, manifest: PackageJson | null): { app: string; why: string } {
	const said: [string, string | undefined][] = [
		['package.json', manifest?.name?.replace(/^@[^/]+\//, '')],
		['go.mod', textOf(dir, 'go.mod').match(/^module\s+"?\S*?([^/\s"]+?)(?:\/v\d+)?"?\s*$/m)?.[1]],
		['Cargo.toml', textOf(dir, 'Cargo.toml').match(/^\[package\][^[]*?^name\s*=\s*"([^"]+)"/m)?.[1]],
		['pyproject.toml', textOf(dir, 'pyproject.toml').match(/^\[(?:project|tool\.poetry)\][^[]*?^name\s*=\s*"([^"]+)"/m)?.[1]],
	];
	for (const [file, name = ''] of said) {
		const named = appName(name);
		if (named !== '') return { app: named, why: `The app is called "${named}", as ${file} says.` };
	}
	const app = appName(basename(dir)) || 'app';
	return { app, why: `The app is called "${app}", after its folder.` };
}

function appName(text: string): string {
	const plain = text.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-').slice(0, MAX_NAME); // prettier-ignore
	return plain.replace(/^-+|-+$/g, '');
}

/** The module that `runtime: "fetch"` would start with; null when none is there. */
export function detectEntry(dir: string): string | null {
	return detectFetch(dir, readPackageJson(dir))?.entry ?? null;
}

function detectFetch(dir: string, manifest: PackageJson | null): Detection | null {
	const { source, module } = (manifest ?? {}) as { source?: unknown; module?: unknown };
	const declared = [source, manifest?.main, module, exportedMain(manifest?.exports)]
		.filter((path) => typeof path === 'string')
		.map((path) => path.replace(/^\.\//, ''));
	const guessed = ENTRIES.flatMap((entry) => EXTENSIONS.map((extension) => entry + extension));
	for (const entry of [...declared, ...guessed]) {
		// What package.json names is somebody else's word.
		if (entry.startsWith('/') || entry.split('/').includes('..')) continue;
		if (!/\.[cm]?[jt]sx?$/.test(entry) || !existsSync(join(dir, entry))) continue;
		if (!exportsDefault(readFileSync(join(dir, entry), 'utf8'))) continue;
		return { runtime: 'fetch', entry, assumptions: [`${entry} exports what answers requests, so the runtime is "fetch".`] };
	}
	return null;
}

function exportsDefault(source: string): boolean {
	const code = source.replaceAll(/\/\*[\s\S]*?\*\/|\/\/[^\n]*/g, '');
	if (/\bexport\s+default\b|\bexport\s*\{[^}]*\bas\s+default\b/.test(code)) return true;
	return /\bmodule\.exports\b/.test(code) && !/\.listen\s*\(/.test(code);
}

function exportedMain(exports: unknown): string | undefined {
	let value: unknown = exports;
	while (typeof value === 'object' && value !== null) {
		const table = value as Record<string, unknown>;
		value = table['.'] ?? table['import'] ?? table['node'] ?? table['default'];
	}
	return typeof value === 'string' ? value : undefined;
}

function detectDockerfile(dir: string): Detection | null {
	if (!existsSync(join(dir, 'Dockerfile'))) return null;
	return { runtime: 'container', assumptions: ['There is a Dockerfile, so the runtime is "container".'] };
}

function detectProcess(dir: string, manifest: PackageJson | null): Detection | null {
	const { start, build } = (manifest as { scripts?: Record<string, string> } | null)?.scripts ?? {};
	if (start !== undefined) {
		return {
			runtime: 'process',
			start: 'npm start',
			...(build === undefined ? {} : { build: { build: { run: 'npm run build' } } }),
			assumptions: [
				`package.json has a start script (${start}), so the runtime is "process".`,
				...(build === undefined ? [] : [`It has a build script (${build}), which is run before.`]),
			],
		};
	}
	if (procfileOf(dir) !== null) return { runtime: 'process', assumptions: [] };
	const script = manifest
		? ENTRIES.flatMap((entry) => EXTENSIONS.map((extension) => entry + extension)).find((path) => existsSync(join(dir, path)))
		: undefined;
	if (script === undefined) return null;
	const why = `${script} exports no default, so it is taken to listen on $PORT by itself: the runtime is "process".`;
	return { runtime: 'process', start: `node ${script}`, assumptions: [why] };
}

/** It says itself how it is started, whatever it is written in. */
function withProcfile(dir: string, found: Detection): Detection {
	const web = procfileOf(dir);
	if (found.runtime !== 'process' || web === null || found.start === 'npm start') return found;
	return { ...found, start: web, assumptions: [...found.assumptions, `The Procfile starts "web" with \`${web}\`.`] };
}

function procfileOf(dir: string): string | null {
	return /^web:\s*(.+)$/m.exec(textOf(dir, 'Procfile'))?.[1] ?? null;
}

function detectStatic(dir: string): Detection | null {
	const folder = STATIC_FOLDERS.find((name) => existsSync(join(dir, name)) && readdirSync(join(dir, name)).includes('index.html'));
	if (folder === undefined) return null;
	const why = `There is ${folder === '.' ? '' : `${folder}/`}index.html, so files are served as they are.`;
	return { runtime: 'static', dir: folder, assumptions: [why] };
}

function textOf(dir: string, name: string): string {
	return existsSync(join(dir, name)) ? readFileSync(join(dir, name), 'utf8') : '';
}

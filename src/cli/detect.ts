import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { detectApp as detectAny } from '#build/detect.ts';
import { EXIT, Failure } from './failure.ts';

/** What kind of app a directory holds when no jibe.json says so, and what gave it away. */
export interface Guess {
	app: string;
	entry: string;
	/** Sentences for a person. */
	assumed: string[];
}

const ENTRIES = ['server', 'index', 'app', 'main', 'worker'];
const FOLDERS = ['src/', ''];
const EXTENSIONS = ['.ts', '.tsx', '.mts', '.js', '.mjs'];
const MAX_NAME_CHARS = 40;

/** @throws Failure (no_app) when nothing here looks like an app that this version runs */
export function detectApp(directory: string): Guess {
	const manifest = readManifest(directory);
	const entry = detectEntry(directory, manifest);
	if (entry === null)
		throw new Failure('no_app', EXIT.usage, `no jibe.json in ${directory}, and nothing in it looks like an app`, {
			hint: adviceFor(directory),
		});
	const from =
		typeof manifest?.['name'] === 'string' && slug(manifest['name']) !== '' ? 'the name in package.json' : "the directory's name";
	const app = slug(typeof manifest?.['name'] === 'string' ? manifest['name'] : '') || slug(basename(directory)) || 'app';
	return { app, entry, assumed: [`app "${app}" (${from})`, `runtime "fetch" with entry ${entry} (it has a default export)`] };
}

/** The module that `runtime: "fetch"` would start with; null when none is there. */
export function detectEntry(directory: string, manifest = readManifest(directory)): string | null {
	const named = [manifest?.['source'], manifest?.['main'], manifest?.['module']].filter((path) => typeof path === 'string');
	const usual = FOLDERS.flatMap((folder) => ENTRIES.flatMap((name) => EXTENSIONS.map((extension) => `${folder}${name}${extension}`)));
	for (const path of [...usual, ...named.map((file) => file.replace(/^\.\//, ''))]) {
		if (path.startsWith('/') || path.split('/').includes('..') || !EXTENSIONS.some((extension) => path.endsWith(extension))) continue;
		const file = join(directory, path);
		if (existsSync(file) && hasDefaultExport(readFileSync(file, 'utf8'))) return path;
	}
	return null;
}

function hasDefaultExport(source: string): boolean {
	return /\bexport\s+default\b|\bexport\s*\{[^}]*\bas\s+default\b|\bmodule\.exports\b/.test(source);
}

function adviceFor(directory: string): string {
	const found = detectAny(directory);
	const what =
		found === null || found.runtime === 'fetch'
			? ''
			: `${found.assumptions.slice(1).join(' ')} This version does not run "${found.runtime}".\n`;
	return `${what}an app's entry exports default { fetch(request) {…} }; jibe init writes a jibe.json that names it`;
}

function slug(name: string): string {
	const words = name.toLowerCase().replace(/^@[^/]*\//, '').replace(/[^a-z0-9]+/g, '-'); // prettier-ignore
	return words.slice(0, MAX_NAME_CHARS).replace(/^-+|-+$/g, '');
}

function readManifest(directory: string): Record<string, unknown> | null {
	try {
		return JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8')) as Record<string, unknown>;
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
		throw new Failure('bad_package_json', EXIT.usage, `package.json in ${directory} can't be read: ${(error as Error).message}`, {
			cause: error,
		});
	}
}

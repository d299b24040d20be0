import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { BuildError, placeOf } from './build-error.ts';
import { DEFAULT_OPTIONS, type CompileOptions } from './compile.ts';

/** What a build takes from tsconfig.json: how to compile, and whether there are `paths`. Type checking is not a build's matter. */
export interface TsConfig {
	path: string | null;
	options: CompileOptions;
	hasPaths: boolean;
	/** Every file read: absolute. */
	consulted: string[];
}

interface Settings {
	jsx?: string;
	jsxImportSource?: string;
	jsxFactory?: string;
	jsxFragmentFactory?: string;
	experimentalDecorators?: boolean;
	emitDecoratorMetadata?: boolean;
	useDefineForClassFields?: boolean;
	paths?: object;
	baseUrl?: string;
}

const MAX_EXTENDS = 16;

export function readTsConfig(dir: string): TsConfig {
	const path = nearest(dir);
	if (path === null) return { path, options: DEFAULT_OPTIONS, hasPaths: false, consulted: [] };
	const consulted: string[] = [];
	const settings = read(path, consulted);
	const classic = settings.jsx === 'react';
	return {
		path,
		hasPaths: settings.paths !== undefined || settings.baseUrl !== undefined,
		consulted,
		options: {
			jsx: {
				runtime: classic ? 'classic' : 'automatic',
				importSource: settings.jsxImportSource ?? 'react',
				...(classic && settings.jsxFactory !== undefined ? { pragma: settings.jsxFactory } : {}),
				...(classic && settings.jsxFragmentFactory !== undefined ? { pragmaFrag: settings.jsxFragmentFactory } : {}),
			},
			decorators: { legacy: settings.experimentalDecorators ?? false, metadata: settings.emitDecoratorMetadata ?? false },
			defineFields: settings.useDefineForClassFields ?? true,
		},
	};
}

function nearest(dir: string): string | null {
	for (let at = dir; ; at = dirname(at)) {
		const path = join(at, 'tsconfig.json');
		if (existsSync(path)) return path;
		if (existsSync(join(at, '.git')) || existsSync(join(at, 'package-lock.json')) || at === dirname(at)) return null;
	}
}

function read(path: string, consulted: string[]): Settings {
	if (consulted.length >= MAX_EXTENDS)
		throw new BuildError('bad_config', `${path}: more than ${MAX_EXTENDS} tsconfig files extend each other`);
	consulted.push(path);
	const value = parseJsonc(path, readFileSync(path, 'utf8')) as { extends?: string | string[]; compilerOptions?: Settings };
	let settings: Settings = {};
	for (const parent of [value.extends ?? []].flat()) settings = { ...settings, ...read(extended(path, parent), consulted) };
	return { ...settings, ...value.compilerOptions };
}

function extended(from: string, specifier: string): string {
	if (specifier.startsWith('.') || specifier.startsWith('/')) {
		const path = resolve(dirname(from), specifier);
		return existsSync(path) ? path : `${path}.json`;
	}
	const require = createRequire(from);
	for (const name of [specifier, `${specifier}.json`, `${specifier}/tsconfig.json`]) {
		try {
			return require.resolve(name);
		} catch {
			// The next spelling may be it.
		}
	}
	throw new BuildError('bad_config', `${from} extends "${specifier}", which is not installed`, {
		hint: 'Run `npm ci`, then deploy again.',
	});
}

/** JSON with comments and trailing commas. */
export function parseJsonc(path: string, text: string): unknown {
	const plain = text
		.replace(/^\uFEFF/, '')
		.replace(/("(?:[^"\\]|\\.)*")|\/\/[^\n]*|\/\*[\s\S]*?\*\//g, (all, string?: string) => string ?? all.replace(/[^\n]/g, ' '))
		.replace(/("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])/g, (_all, string?: string) => string ?? ' ');
	try {
		return JSON.parse(plain);
	} catch (cause) {
		const at = /position (\d+)/.exec((cause as Error).message);
		const place = at ? placeOf(path, text, Number(at[1])) : { file: path };
		throw new BuildError('bad_config', `${path} is not JSON: ${(cause as Error).message}`, { ...place, cause });
	}
}

import { mkdirSync, readFileSync, realpathSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { sha256 } from '#digest/digest.ts';
import type { AppConfig } from '#wire/config.ts';
import { EXIT, Failure, usage } from './failure.ts';
import { cacheDirectory } from './places.ts';

/** A directory to deploy, and what its jibe.json says for one environment. */
export interface Project {
	directory: string;
	/** Where this project's caches are. */
	cache: string;
	config: AppConfig;
	/** Without jibe.json, or without an entry in it: what was assumed, for a person. */
	assumed: string[];
}

const FILE = 'jibe.json';

/** The directory of a verb's optional DIR. @throws Failure (no_directory) */
export function projectDirectory(word: string | undefined): string {
	const directory = resolve(word ?? '.');
	try {
		if (!statSync(directory).isDirectory()) throw usage(`${directory} is not a directory`);
		return realpathSync(directory);
	} catch (cause) {
		if (cause instanceof Failure) throw cause;
		throw new Failure('no_directory', EXIT.usage, `there is no directory ${directory}`, { cause });
	}
}

/** @throws Failure (config) with every problem of jibe.json and its place */
export async function readProject(directory: string, environment: string): Promise<Project> {
	const cache = join(cacheDirectory(), 'projects', sha256(directory).slice(7, 23));
	const text = readConfigText(directory);
	if (text === null) return { directory, cache, ...(await assumeProject(directory, environment)) };
	const memory = join(cache, `config.${environment}.json`);
	const key = sha256(`${statSync(import.meta.filename).mtimeMs}\0${text}`);
	const remembered = recall(memory, key);
	if (remembered !== null) return { directory, cache, config: remembered, assumed: [] };
	const { config, assumed } = await validate(directory, environment, text);
	// What was detected can change while the file stays the same.
	if (assumed.length === 0) store(memory, { key, config });
	return { directory, cache, config, assumed };
}

/** The text of jibe.json; null when there is none. */
export function readConfigText(directory: string): string | null {
	try {
		return readFileSync(join(directory, FILE), 'utf8');
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
		throw new Failure('config', EXIT.usage, `${join(directory, FILE)} can't be read: ${(error as Error).message}`, { cause: error });
	}
}

/** The validator is loaded only here: it costs more than all the rest of a deploy's start. */
async function validate(directory: string, environment: string, text: string): Promise<{ config: AppConfig; assumed: string[] }> {
	const { configFor, ConfigError, parseConfigFile } = await import('#wire/config-file.ts');
	const { detectEntry } = await import('#build/detect.ts');
	const { asUsage } = await import('./detect.ts');
	const entry = /"entry"/.test(text) ? null : asUsage(() => detectEntry(directory));
	try {
		const config = configFor(parseConfigFile(text, join(directory, FILE), { entry }), environment);
		return { config, assumed: entry !== null && config.entry === entry ? [`The entry is ${entry}.`] : [] };
	} catch (cause) {
		if (!(cause instanceof ConfigError)) throw cause;
		const { problems } = cause;
		throw new Failure('config', EXIT.usage, cause.message, { hint: 'docs/config.md describes every key', fields: { problems } });
	}
}

async function assumeProject(directory: string, environment: string): Promise<{ config: AppConfig; assumed: string[] }> {
	const { detectApp } = await import('./detect.ts');
	const { app, entry, assumed } = detectApp(directory);
	const { config } = await validate(directory, environment, JSON.stringify({ app, entry }));
	return { config, assumed };
}

/**
 * The app that a verb is about: the word given, else that of the jibe.json here. A rollback must not wait for a
 * validator, nor be refused because of a key that is wrong.
 */
export async function appOf(word: string | undefined): Promise<string | null> {
	if (word !== undefined) return word;
	const text = readConfigText('.');
	if (text === null) return assumedName();
	try {
		return nameIn(JSON.parse(text));
	} catch {
		const { parseJsonc } = await import('#wire/jsonc.ts'); // it has comments, or is broken: then this says where
		return nameIn(parseJsonc(text).value);
	}
}

/** As `jibe deploy` would call what is here; null when there is no app here. */
async function assumedName(): Promise<string | null> {
	const { detectApp } = await import('./detect.ts');
	try {
		return detectApp(realpathSync('.')).app;
	} catch (error) {
		if (error instanceof Failure && error.code === 'no_app') return null;
		throw error;
	}
}

export async function needApp(word: string | undefined): Promise<string> {
	const app = await appOf(word);
	if (app === null) throw usage('which app?', 'name it, or run this where its jibe.json is; jibe app list shows all');
	return app;
}

const DEPLOYMENT_ID = /^dpl_[0-9a-hjkmnp-tv-z]{8,26}$/;

/** @throws Failure (usage) when the word can't be the id of a deployment */
export function deploymentId(word: string): string {
	if (DEPLOYMENT_ID.test(word)) return word;
	throw usage(`"${word}" is not the id of a deployment`, 'it is dpl_ and letters and digits after it; jibe history lists them');
}

function nameIn(value: unknown): string | null {
	return typeof value === 'object' && value !== null && 'app' in value && typeof value.app === 'string' ? value.app : null;
}

function recall(file: string, key: string): AppConfig | null {
	try {
		const memory = JSON.parse(readFileSync(file, 'utf8')) as { key: string; config: AppConfig };
		return memory.key === key ? memory.config : null;
	} catch {
		return null; // none yet, or cut short: it is written again
	}
}

function store(file: string, memory: object): void {
	mkdirSync(join(file, '..'), { recursive: true, mode: 0o700 });
	const draft = `${file}.${process.pid}`;
	writeFileSync(draft, JSON.stringify(memory), { mode: 0o600 });
	renameSync(draft, file);
}

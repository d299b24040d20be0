import { z } from 'zod';
import { breaches } from './config-rules.ts';
import { appConfig, configFile, type AppConfig } from './config.ts';
import { JsoncError, parseJsonc, type Json, type Jsonc, type Path, type Position } from './jsonc.ts';
import { PRODUCTION } from './names.ts';
import { nearest } from './nearest.ts';

/**
 * The text of jibe.json → one configuration per environment. `environments` is merged over the top while both are
 * still raw, because a schema that has filled in its defaults can't tell them from what was written.
 * @throws ConfigError with every problem found, each with its place
 */
export function parseConfigFile(text: string, file: string, detected: Detected = {}): ConfigFileResult {
	const source = { file, document: readDocument(text, file) };
	const { environments, ...top } = splitEnvironments(source);
	const names = Object.keys(environments);
	const problems: ConfigProblem[] = [];
	const base = readEnvironment(source, null, top, detected, problems);
	// What is wrong at the top is wrong in every environment: said once.
	const configs = new Map<string, AppConfig>();
	for (const name of problems.length === 0 ? names : []) {
		const config = readEnvironment(source, name, mergeOver(top, environments[name]!), detected, problems);
		if (config) configs.set(name, config);
	}
	if (problems.length > 0 || !base) throw new ConfigError(file, problems);
	return { file, app: base.app, environments: names, configs, base };
}

/** The configuration of an environment: what `environments` says of it, else the top of the file. */
export function configFor(result: ConfigFileResult, environment: string = PRODUCTION): AppConfig {
	return result.configs.get(environment) ?? result.base;
}

/** The JSON Schema that editors use, as published in docs/jibe.schema.json. */
export function configJsonSchema(): object {
	return { title: 'jibe.json', ...z.toJSONSchema(configFile, { io: 'input' }) };
}

/** What the caller found out by looking at the directory, for keys the file may leave out. */
export interface Detected {
	/** The module that `runtime: "fetch"` starts with. */
	entry?: string | null;
	/** There is a Dockerfile. */
	dockerfile?: boolean;
}

export interface ConfigFileResult {
	file: string;
	app: string;
	/** Those that the file names. */
	environments: string[];
	configs: ReadonlyMap<string, AppConfig>;
	base: AppConfig;
}

export interface ConfigProblem {
	path: Path;
	position: Position;
	message: string;
}

export class ConfigError extends Error {
	readonly code = 'bad_config';
	readonly file: string;
	readonly problems: readonly ConfigProblem[];
	constructor(file: string, problems: readonly ConfigProblem[], options?: ErrorOptions) {
		const shown = problems.slice(0, MAX_PROBLEMS_SHOWN);
		const lines = shown.map(({ position, message }) => `${file}:${position.line}:${position.column}: ${message}`);
		if (problems.length > shown.length) lines.push(`and ${problems.length - shown.length} more`);
		super(lines.join('\n'), options);
		this.file = file;
		this.problems = problems;
	}
}

const MAX_PROBLEMS_SHOWN = 10;
const MAX_ENVIRONMENTS = 100;

type Fields = { [key: string]: Json };
interface Source {
	file: string;
	document: Jsonc;
}

function readDocument(text: string, file: string): Jsonc {
	try {
		return parseJsonc(text);
	} catch (cause) {
		if (!(cause instanceof JsoncError)) throw cause;
		throw new ConfigError(file, [{ path: [], position: cause.position, message: cause.message }], { cause });
	}
}

function splitEnvironments({ file, document }: Source): Fields & { environments: { [name: string]: Fields } } {
	const fail = (path: Path, message: string) => new ConfigError(file, [{ path, position: place(document, path), message }]);
	const fields = document.value;
	if (!isFields(fields)) throw fail([], `jibe.json holds one object, not ${kindOf(fields)}`);
	const { environments = {}, $schema: _schema, ...top } = fields;
	if (!isFields(environments)) throw fail(['environments'], `"environments": expected an object, got ${kindOf(environments)}`);
	const named: { [name: string]: Fields } = {};
	if (Object.keys(environments).length > MAX_ENVIRONMENTS) throw fail(['environments'], `more than ${MAX_ENVIRONMENTS} environments`);
	for (const [name, overrides] of Object.entries(environments)) {
		const path = ['environments', name];
		if (!appConfig.shape.app.safeParse(name).success) {
			throw fail(path, `"${name}" can't be an environment's name: lower-case letters, digits and single hyphens, at most 40`);
		}
		if (!isFields(overrides)) throw fail(path, `"environments.${name}": expected an object, got ${kindOf(overrides)}`);
		for (const key of ['app', 'runtime', 'environments']) {
			if (key in overrides) throw fail([...path, key], `"${key}" is the same in every environment: it stands at the top only`);
		}
		named[name] = overrides;
	}
	return { ...top, environments: named };
}

/** Objects that are lists of settings merge key by key; everything else is replaced, a strategy as a whole too. */
const MERGED_BY_KEY: readonly string[] = ['env', 'health', 'drain'];

function mergeOver(top: Fields, overrides: Fields): Fields {
	const merged: Fields = { ...top, ...overrides };
	for (const key of MERGED_BY_KEY) {
		const [below, above] = [top[key], overrides[key]];
		if (isFields(below) && isFields(above)) merged[key] = { ...below, ...above };
	}
	return merged;
}

function readEnvironment(
	source: Source,
	name: string | null,
	raw: Fields,
	detected: Detected,
	problems: ConfigProblem[],
): AppConfig | null {
	const found = (path: Path, message: string) => {
		const inEnvironment = name === null ? null : firstPlace(source.document, ['environments', name, ...path], 3);
		problems.push({ path, position: inEnvironment ?? place(source.document, path), message });
	};
	const parsed = appConfig.safeParse(raw);
	if (!parsed.success) {
		for (const issue of parsed.error.issues) for (const { path, message } of explain(issue, raw)) found(path, message);
		return null;
	}
	const config = parsed.data;
	if (config.runtime === 'fetch' && config.entry === undefined && detected.entry) config.entry = detected.entry;
	if (config.entry?.startsWith('./')) config.entry = config.entry.slice(2);
	const broken = breaches(config, detected);
	for (const { path, message } of broken) found(path, message);
	return broken.length === 0 ? config : null;
}

/** The place of the longest part of the path that the text has, of at least `least` names. */
function firstPlace(document: Jsonc, path: Path, least: number): Position | null {
	for (let length = path.length; length >= least; length--) {
		const found = document.locate(path.slice(0, length));
		if (found) return found;
	}
	return null;
}

function place(document: Jsonc, path: Path): Position {
	return firstPlace(document, path, 0) ?? { line: 1, column: 1 };
}

type Issue = z.core.$ZodIssue;

function explain(issue: Issue, raw: Fields): { path: Path; message: string }[] {
	const path = issue.path as Path;
	const name = `"${path.join('.')}"`;
	switch (issue.code) {
		case 'unrecognized_keys':
			return issue.keys.map((key) => ({ path: [...path, key], message: unknownKey(key, path) }));
		case 'invalid_union': {
			const inside = insideUnion(issue);
			if (inside.length > 0) {
				return inside.flatMap((inner) => explain({ ...inner, path: [...issue.path, ...inner.path] }, raw));
			}
			const choices = [...new Set(issue.errors.flat().map((error) => expectation(error)))];
			// A discriminated union lists what its discriminator may be; zod's types leave it out.
			const options = (issue as { options?: unknown[] }).options?.map((option) => JSON.stringify(option));
			const expected = options ?? choices;
			return [{ path, message: `${name}: expected ${expected.join(' or ')}, got ${shown(valueAt(raw, path))}` }];
		}
		case 'invalid_key':
			return [{ path, message: `"${path.at(-1)}" can't be the name of ${KEY_RULES[String(path[0])] ?? KEY_RULES['env']}` }];
		case 'too_small':
		case 'too_big':
		case 'invalid_type':
		case 'invalid_value':
			if (valueAt(raw, path) === undefined) return [{ path, message: `${name} is missing: expected ${expectation(issue)}` }];
			return [{ path, message: `${name}: expected ${expectation(issue)}, got ${shown(valueAt(raw, path))}` }];
		default:
			return [{ path, message: `${name}: ${issue.message}, got ${shown(valueAt(raw, path))}` }];
	}
}

const A_STEP = 'a step: lower-case letters, digits and hyphens, at most 40';
const KEY_RULES: Record<string, string> = {
	env: 'a variable: letters, digits and _ only, no digit first',
	build: A_STEP,
	test: A_STEP,
};

/** What is wrong within the alternative that was meant: the one of the value's own kind. */
function insideUnion(issue: z.core.$ZodIssueInvalidUnion): Issue[] {
	const ofKind = (error: Issue) => error.path.length > 0 || error.code === 'unrecognized_keys' || error.code === 'custom';
	return issue.errors.find((errors) => errors.length > 0 && errors.every(ofKind)) ?? [];
}

function expectation(issue: Issue): string {
	if (issue.code === 'too_small') return `${issue.inclusive ? 'at least' : 'more than'} ${issue.minimum}${unitOf(issue.origin)}`;
	if (issue.code === 'too_big') return `${issue.inclusive ? 'at most' : 'less than'} ${issue.maximum}${unitOf(issue.origin)}`;
	if (issue.code === 'invalid_value') return issue.values.map((value) => JSON.stringify(value)).join(' or ');
	if (issue.code !== 'invalid_type') return issue.message;
	const article = /^[aeio]/.test(issue.expected) ? 'an' : 'a';
	return issue.expected === 'int' ? 'a whole number' : issue.expected === 'array' ? 'a list' : `${article} ${issue.expected}`;
}

function unitOf(origin: string): string {
	return origin === 'string' ? ' characters' : origin === 'array' ? ' items' : '';
}

function unknownKey(key: string, path: Path): string {
	const known = knownKeys(path);
	const near = nearest(key, known);
	const where = path.length === 0 ? '' : ` in "${path.join('.')}"`;
	const help = near === null ? `known are ${known.join(', ')}` : `did you mean "${near}"?`;
	return `unknown key "${key}"${where}; ${help}`;
}

/** The keys that the schema knows at a path, over all alternatives of a union. */
function knownKeys(path: Path): string[] {
	let nodes: SchemaNode[] = [z.toJSONSchema(configFile, { io: 'input' }) as SchemaNode];
	for (const key of path) {
		nodes = nodes.flatMap((node) => below(node, key)).flatMap(alternatives);
	}
	return [...new Set(nodes.flatMap((node) => Object.keys(node.properties ?? {})))].filter((key) => key !== '$schema');
}

function below(node: SchemaNode, key: string | number): SchemaNode[] {
	const named = node.properties?.[key];
	const others = typeof node.additionalProperties === 'object' ? node.additionalProperties : undefined;
	return [named ?? others, node.items].filter((next) => next !== undefined);
}

interface SchemaNode {
	additionalProperties?: SchemaNode | boolean;
	properties?: Record<string, SchemaNode>;
	items?: SchemaNode;
	anyOf?: SchemaNode[];
	oneOf?: SchemaNode[];
}

function alternatives(node: SchemaNode): SchemaNode[] {
	return [node, ...(node.anyOf ?? []), ...(node.oneOf ?? [])];
}

function valueAt(raw: Json | undefined, path: Path): Json | undefined {
	return path.reduce<Json | undefined>((value, key) => (isFields(value) || Array.isArray(value) ? (value as Fields)[key] : undefined), raw);
}

function isFields(value: Json | undefined): value is Fields {
	return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function kindOf(value: Json): string {
	return value === null ? 'null' : Array.isArray(value) ? 'a list' : `a ${typeof value}`;
}

const MAX_VALUE_SHOWN_CHARS = 60;

function shown(value: Json | undefined): string {
	const text = JSON.stringify(value) ?? 'nothing';
	return text.length <= MAX_VALUE_SHOWN_CHARS ? text : `${text.slice(0, MAX_VALUE_SHOWN_CHARS)}…`;
}

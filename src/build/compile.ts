import { createRequire } from 'node:module';
import { canonicalJson, sha256, type Digest } from '#digest/digest.ts';
import type * as Parser from 'oxc-parser';
import type * as Transformer from 'oxc-transform';
import { BuildError, placeOf } from './build-error.ts';
import type { Facts, ImportFact } from './facts.ts';

/**
 * One source file → JavaScript, its source map, and the facts that linking needs. Depends on nothing but the
 * arguments, so that its result can be cached by them. oxc is loaded on the first call: a build in which nothing
 * changed never pays for it.
 */

export type Loader = 'ts' | 'tsx' | 'js' | 'jsx';

export interface CompileOptions {
	jsx: { importSource: string; runtime: 'automatic' | 'classic'; pragma?: string; pragmaFrag?: string };
	decorators: { legacy: boolean; metadata: boolean };
	defineFields: boolean;
}

export const DEFAULT_OPTIONS: CompileOptions = {
	jsx: { importSource: 'react', runtime: 'automatic' },
	decorators: { legacy: false, metadata: false },
	defineFields: true,
};

export interface Compiled {
	code: Buffer;
	map: Buffer;
	facts: Facts;
}

/** Part of every action's key: what else than source and options decides the output. Raised with each dependency bump. */
export const TOOLCHAIN = 'oxc-transform@0.158.0 oxc-parser@0.158.0 jibe-compile@2';
const MAX_MODULE_BYTES = 10 * 1024 * 1024;

/** `sha256` of everything that the output depends on: never a path, never a time. */
export function actionKey(source: Digest, loader: Loader, options: CompileOptions): Digest {
	return sha256(`jibe.module.v1\0${TOOLCHAIN}\0${canonicalJson(options)}\0${loader}\0${source}`);
}

/** @throws BuildError for a fault in the source. */
export function compileModule(file: string, source: string, loader: Loader, options: CompileOptions): Compiled {
	if (source.length > MAX_MODULE_BYTES)
		throw new BuildError('module_too_large', `${file} is larger than a module may be (10 MiB)`, { file });
	const made = transformed(file, source, source, loader, options) ?? withBareSource(file, source, loader, options);
	// Whose map it is, its place in the artifact says: equal sources have equal maps.
	const map = { version: 3, sources: [''], names: made.names, mappings: made.mappings };
	return { code: Buffer.from(made.code), map: Buffer.from(JSON.stringify(map)), facts: made.facts };
}

interface Made {
	code: string;
	names: string[];
	mappings: string;
	facts: Facts;
}

/**
 * The quick way: comments of the output lie on lines of their own, and are dropped with their lines, from the map too.
 * null: one lies elsewhere.
 */
function transformed(file: string, source: string, original: string, loader: Loader, options: CompileOptions): Made | null {
	const { parser, transformer } = oxc();
	const result = transformer.transformSync(`module.${loader}`, source, transformOptions(loader, options));
	throwSyntax(file, original, result.errors);
	const output = endingInNewline(result.code);
	const parsed = parser.parseSync('module.js', output, { lang: 'js' });
	const bare = source !== original;
	const kept = withoutCommentLines(output, result.map?.mappings ?? '', bare ? [] : parsed.comments);
	if (kept === null || (!bare && source.includes('const enum'))) return null;
	refuseWhatNodeCantParse(file, original, kept.code, parsed);
	return { ...kept, names: result.map?.names ?? [], facts: factsOf(output, kept.code, source, parsed) };
}

/** The slow way: comments become white space of the same length before anything else. */
function withBareSource(file: string, source: string, loader: Loader, options: CompileOptions): Made {
	const parsed = oxc().parser.parseSync(`module.${loader}`, source, { lang: loader });
	// A space at the end tells it from the original even where nothing was blanked.
	const made = transformed(file, `${withoutComments(source, parsed)} `, source, loader, options);
	if (made) return made;
	throw new Error(`${file}: comments were taken out, yet there are some`);
}

/** Proposals that pass every tool on the way and end as a syntax error on the server. */
function refuseWhatNodeCantParse(file: string, source: string, code: string, parsed: Parser.ParseResult): void {
	if (!/(?:^|\s)@[\w$(]|\baccessor\s/.test(code)) return;
	visit(parsed.program, (node) => {
		const decorated = Array.isArray(node['decorators']) && node['decorators'].length > 0;
		if (!decorated && node['type'] !== 'AccessorProperty') return;
		const at = Math.max(0, source.search(decorated ? /(?:^|\s)@[\w$(]/ : /\baccessor\s/));
		throw new BuildError('unsupported', decorated ? "Node can't run decorators yet" : "Node can't run `accessor` fields yet", {
			...placeOf(file, source, at),
			hint: decorated
				? 'Set "experimentalDecorators": true in tsconfig.json to have them compiled (and depend on @oxc-project/runtime), or do without.'
				: 'Write a getter and a setter.',
		});
	});
}

function withoutCommentLines(
	code: string,
	mappings: string,
	comments: readonly Parser.Comment[],
): { code: string; mappings: string } | null {
	if (comments.length === 0) return { code, mappings };
	const dropped = new Set<number>();
	let line = 0;
	let at = 0;
	const advance = (to: number) => {
		for (let next = code.indexOf('\n', at); next >= 0 && next < to; next = code.indexOf('\n', at)) {
			line++;
			at = next + 1;
		}
	};
	for (const { start, end } of comments) {
		advance(start);
		const lineEnd = code.indexOf('\n', end);
		if (code.slice(at, start).trim() !== '' || code.slice(end, lineEnd < 0 ? code.length : lineEnd).trim() !== '') return null;
		const first = line;
		advance(end);
		for (let each = first; each <= line; each++) dropped.add(each);
	}
	const groups = mappings.split(';');
	for (const each of dropped) if ((groups[each] ?? '') !== '') return null;
	const keep = (_: string, index: number) => !dropped.has(index);
	return { code: code.split('\n').filter(keep).join('\n'), mappings: groups.filter(keep).join(';') };
}

function endingInNewline(code: string): string {
	return code.endsWith('\n') || code === '' ? code : `${code}\n`;
}

interface Oxc {
	parser: typeof Parser;
	transformer: typeof Transformer;
}
let loaded: Oxc | undefined;

function oxc(): Oxc {
	if (loaded) return loaded;
	const require = createRequire(import.meta.url);
	loaded = { parser: require('oxc-parser') as Oxc['parser'], transformer: require('oxc-transform') as Oxc['transformer'] };
	return loaded;
}

function transformOptions(loader: Loader, options: CompileOptions): Transformer.TransformOptions {
	const { jsx, decorators } = options;
	return {
		lang: loader,
		sourcemap: true,
		// The release pins a Node that knows all of it; lowering would ask for helpers that the app does not have.
		target: 'esnext',
		jsx: {
			runtime: jsx.runtime,
			...(jsx.runtime === 'automatic'
				? { importSource: jsx.importSource }
				: { pragma: jsx.pragma ?? 'React.createElement', pragmaFrag: jsx.pragmaFrag ?? 'React.Fragment' }),
		},
		decorator: { legacy: decorators.legacy, emitDecoratorMetadata: decorators.metadata },
		...(options.defineFields
			? {}
			: { assumptions: { setPublicClassFields: true }, typescript: { removeClassFieldsWithoutInitializer: true } }),
	};
}

interface Fault {
	message: string;
	labels: { start: number; message: string | null }[];
	helpMessage: string | null;
	severity: string;
}

function throwSyntax(file: string, source: string, errors: readonly Fault[]): void {
	const error = errors.find((each) => String(each.severity) === 'Error');
	if (!error) return;
	const at = error.labels[0] === undefined ? { file } : placeOf(file, source, error.labels[0].start);
	throw new BuildError('syntax', error.message, { ...at, ...(error.helpMessage === null ? {} : { hint: error.helpMessage }) });
}

/**
 * Comments become white space of the same length, so that the map stays true and an edited comment compiles to the
 * same code. Comments that tell a compiler how to treat JSX are kept.
 */
function withoutComments(source: string, parsed: Parser.ParseResult): string {
	if (!source.includes('//') && !source.includes('/*')) return source;
	const parts: string[] = [];
	let at = 0;
	for (const { start, end, value } of parsed.comments) {
		if (/@jsx/.test(value)) continue;
		parts.push(source.slice(at, start), source.slice(start, end).replace(/[^\n\r\u2028\u2029]/g, ' '));
		at = end;
	}
	return parts.join('') + source.slice(at);
}

/** `output` is what was parsed, `code` is it without comments. */
function factsOf(output: string, code: string, source: string, parsed: Parser.ParseResult): Facts {
	const module = parsed.module;
	const imports = [...staticImports(module), ...urls(output, module), ...requires(code, parsed)];
	const exports: string[] = [];
	const stars: string[] = [];
	for (const { entries } of module.staticExports) {
		for (const entry of entries) {
			const name = entry.exportName.kind === 'Default' ? 'default' : entry.exportName.name;
			if (name !== null) exports.push(name);
			if (!entry.moduleRequest) continue;
			const whole = entry.importName.kind === 'AllButDefault' || entry.importName.kind === 'All';
			if (entry.importName.kind === 'AllButDefault') stars.push(entry.moduleRequest.value);
			const taken = whole || entry.importName.name === null ? null : [entry.importName.name];
			imports.push([entry.moduleRequest.value, 'import', taken]);
		}
	}
	const patterns: Facts['patterns'] = [];
	let computed = false;
	for (const { moduleRequest } of module.dynamicImports) {
		const asked = dynamicRequest(output.slice(moduleRequest.start, moduleRequest.end));
		if (typeof asked === 'string') imports.push([asked, 'dynamic', null]);
		else if (asked) patterns.push(asked);
		else computed = true;
	}
	return {
		esm: module.hasModuleSyntax,
		imports: merged(imports),
		exports: exports.sort(),
		stars: [...new Set(stars)].sort(),
		constEnums: constEnums(source),
		patterns,
		computed,
		spawns: /\b(?:new\s+Worker|fork|spawn|spawnSync|execFile|execFileSync|createRequire)\s*\(/.test(code),
		listens: /\b(?:listen|serve)\s*\(/.test(code),
	};
}

function staticImports(module: Parser.EcmaScriptModule): ImportFact[] {
	return module.staticImports.map(({ moduleRequest, entries }) => {
		const names = entries.map(({ importName }) => (importName.kind === 'Default' ? 'default' : importName.name));
		return [moduleRequest.value, 'import', names.includes(null) ? null : (names as string[])];
	});
}

/** `new URL('./x', import.meta.url)`. */
function urls(code: string, module: Parser.EcmaScriptModule): ImportFact[] {
	return module.importMetas.flatMap(({ start, end }): ImportFact[] => {
		if (!/^\s*\.url\s*\)/.test(code.slice(end, end + 20))) return [];
		const before = /\bnew\s+URL\(\s*(["'`])(\.{1,2}\/[^"'`$]*)\1\s*,\s*$/.exec(code.slice(Math.max(0, start - 500), start));
		return before ? [[before[2]!, 'url', null]] : [];
	});
}

/** `require('x')` and `require.resolve('x')`: looked for by text first, since a syntax tree costs ten times the rest. */
function requires(code: string, parsed: Parser.ParseResult): ImportFact[] {
	if (!/\brequire\s*(?:\.\s*resolve\s*)?\(/.test(code)) return [];
	const found: ImportFact[] = [];
	visit(parsed.program, (node) => {
		if (node['type'] !== 'CallExpression') return;
		const callee = node['callee'] as Node;
		const direct = callee['type'] === 'Identifier' && callee['name'] === 'require';
		const object = callee['object'] as Node | undefined;
		const property = callee['property'] as Node | undefined;
		const resolve = object?.['type'] === 'Identifier' && object['name'] === 'require' && property?.['name'] === 'resolve';
		const argument = (node['arguments'] as Node[])[0];
		if ((direct || resolve) && argument?.['type'] === 'Literal' && typeof argument['value'] === 'string') {
			found.push([argument['value'], resolve ? 'url' : 'require', null]);
		}
	});
	return found;
}

export type Node = Record<string, unknown>;

export function visit(value: unknown, seen: (node: Node) => void): void {
	if (Array.isArray(value)) for (const item of value) visit(item, seen);
	else if (typeof value === 'object' && value !== null) {
		if (typeof (value as Node)['type'] === 'string') seen(value as Node);
		for (const member of Object.values(value)) if (typeof member === 'object' && member !== null) visit(member, seen);
	}
}

/** A literal, or the folder and ending of a template, or null. */
function dynamicRequest(text: string): string | [string, string] | null {
	const literal = /^(["'`])([^"'`$\\]*)\1$/.exec(text);
	if (literal) return literal[2]!;
	const template = /^`(\.{1,2}\/[^`$\\]*)\$\{[\s\S]*\}([^`$\\]*)`$/.exec(text);
	if (template) return [template[1]!, template[2]!];
	const sum = /^["'](\.{1,2}\/[^"'\\]*)["']\s*\+[\s\S]*?(?:\+\s*["']([^"'\\]*)["'])?$/.exec(text);
	return sum ? [sum[1]!, sum[2] ?? ''] : null;
}

function constEnums(source: string): string[] {
	if (!source.includes('const enum')) return [];
	return [...source.matchAll(/\bexport\s+(?:declare\s+)?const\s+enum\s+([\w$]+)/g)].map((match) => match[1]!).sort();
}

/** One fact per specifier and kind. */
function merged(imports: ImportFact[]): ImportFact[] {
	const kept = new Map<string, ImportFact>();
	for (const [specifier, kind, names] of imports) {
		const key = `${kind}\0${specifier}`;
		const known = kept.get(key);
		const all = known ? (known[2] ?? []).concat(names ?? []) : names;
		kept.set(key, [specifier, kind, all && [...new Set(all)].sort()]);
	}
	return [...kept.values()];
}

/** Where in a source an import of `specifier` (or of the name within it) stands, for an error. */
export function findImport(source: string, loader: Loader, specifier: string, name?: string): number {
	const quoted = [`'${specifier}'`, `"${specifier}"`, `\`${specifier}\``].map((text) => source.indexOf(text)).filter((at) => at >= 0);
	const fallback = quoted.length > 0 ? Math.min(...quoted) : 0;
	const { module } = oxc().parser.parseSync(`module.${loader}`, source, { lang: loader });
	const spans = [
		...module.staticImports.filter((each) => each.moduleRequest.value === specifier).map((each) => [each.start, each.moduleRequest.start]),
		...module.staticExports
			.filter((each) => each.entries.some((entry) => entry.moduleRequest?.value === specifier))
			.map((each) => [each.start, each.entries.find((entry) => entry.moduleRequest)!.moduleRequest!.start]),
	] as [number, number][];
	for (const [start, request] of spans) {
		if (name === undefined) return request;
		const at = source.slice(start, request).search(new RegExp(`\\b${name.replaceAll('$', '\\$')}\\b`));
		if (at >= 0) return start + at;
	}
	return spans[0]?.[1] ?? fallback;
}

/** Whether compiled code awaits outside of functions, and where in the code. */
export function topLevelAwait(code: string): boolean {
	if (!/\bawait\b/.test(code)) return false;
	let found = false;
	const walk = (value: unknown): void => {
		if (found) return;
		if (Array.isArray(value)) return value.forEach(walk);
		if (typeof value !== 'object' || value === null) return;
		const node = value as Node;
		const type = node['type'];
		if (type === 'AwaitExpression' || (type === 'ForOfStatement' && node['await'] === true)) found = true;
		if (type === 'VariableDeclaration' && node['kind'] === 'await using') found = true;
		if (typeof type === 'string' && /Function|^MethodDefinition$|^PropertyDefinition$|^StaticBlock$/.test(type)) return;
		Object.values(node).forEach(walk);
	};
	walk(parseBody(code));
	return found;
}

/** The statements of compiled code. */
export function parseBody(code: string): Node[] {
	return oxc().parser.parseSync('module.js', code, { lang: 'js' }).program.body as unknown as Node[];
}

/** Whether a type of this name is declared in a source: why a value of that name can't be imported from it. */
export function declaresType(source: string, name: string): boolean {
	const escaped = name.replaceAll('$', '\\$');
	return new RegExp(
		`\\b(?:interface|type|declare\\s+\\w+)\\s+${escaped}\\b|\\bexport\\s+type\\s*\\{[^}]*\\b${escaped}\\b|\\{[^}]*\\btype\\s+(?:[\\w$]+\\s+as\\s+)?${escaped}\\b`,
	).test(source);
}

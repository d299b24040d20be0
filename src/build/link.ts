import type { AppIndex, ModuleRecord, ModuleTarget } from '#store/app-index.ts';
import { compareUtf8 } from '#digest/digest.ts';
import { BuildError, placeOf, type BuildErrorCode } from './build-error.ts';
import { declaresType, findImport, topLevelAwait, type Loader } from './compile.ts';
import type { Facts, ImportFact } from './facts.ts';
import { candidates, type Problem, type Resolver } from './resolve.ts';

/** From the entry to everything it reaches: which modules there are, and what each of their specifiers means. */

export interface LoadedModule {
	format: ModuleRecord['format'];
	facts: Facts;
	/** Compiled code, for the few questions that need it. */
	code: () => string;
}

export interface LinkInput {
	entry: string;
	resolver: Resolver;
	/** Every source in the app, for imports of computed names. */
	sources: () => string[];
	/** @throws BuildError for a fault in the source */
	load: (path: string) => LoadedModule;
	source: (path: string) => string;
}

export interface Linked {
	index: AppIndex;
	warnings: string[];
	/** Real files that modules name by URL, though .gitignore may leave them out. */
	namedFiles: Set<string>;
}

export function isSource(path: string): boolean {
	return /\.(?:[cm]?[jt]s|[jt]sx)$/.test(path) && !/\.d\.[cm]?ts$/.test(path);
}

export function isTest(path: string): boolean {
	return /(?:^|\/)(?:__tests__|__mocks__)\/|\.(?:test|spec|bench)\.[cm]?[jt]sx?$/.test(path);
}

export function loaderOf(path: string): Loader {
	if (path.endsWith('.tsx')) return 'tsx';
	if (path.endsWith('.jsx')) return 'jsx';
	return /\.[cm]?ts$/.test(path) ? 'ts' : 'js';
}

/** @throws BuildError for the first import that leads nowhere, or asks for what is not there. */
export function link(input: LinkInput): Linked {
	const graph = new Graph(input);
	graph.walk();
	graph.checkNames();
	graph.checkRequires();
	return graph.result();
}

class Graph {
	readonly #input: LinkInput;
	readonly #modules = new Map<string, LoadedModule>();
	readonly #records = new Map<string, ModuleRecord>();
	readonly #queue: string[] = [];
	readonly #warnings: string[] = [];
	readonly #namedFiles = new Set<string>();
	readonly #vendor = new Set<string>();
	#materialise = false;
	#dynamic = false;

	constructor(input: LinkInput) {
		this.#input = input;
	}

	walk(): void {
		this.#queue.push(this.#input.entry);
		for (let path = this.#queue.pop(); path !== undefined; path = this.#queue.pop()) {
			if (!this.#modules.has(path)) this.#add(path, this.#input.load(path));
		}
	}

	#add(path: string, module: LoadedModule): void {
		const { facts, format } = module;
		const record: ModuleRecord = { format, resolve: {} };
		this.#modules.set(path, module);
		this.#records.set(path, record);
		const required: Record<string, ModuleTarget> = {};
		for (const fact of facts.imports) {
			if (fact[1] === 'url') this.#url(path, fact[0]);
			else {
				const target = this.#resolve(path, fact);
				if (target !== null) (fact[1] === 'require' ? required : record.resolve)[fact[0]] = target;
			}
		}
		for (const [specifier, target] of Object.entries(required)) {
			const known = record.resolve[specifier];
			if (known === undefined) record.resolve[specifier] = target;
			else if (known !== target) (record.require ??= {})[specifier] = target;
		}
		for (const pattern of facts.patterns) this.#pattern(path, record, pattern);
		if (facts.spawns) this.#materialise = true;
		if (facts.computed) this.#takeAll(path);
	}

	#resolve(path: string, [specifier, kind]: ImportFact): ModuleTarget | null {
		const found = this.#input.resolver.resolve(path, specifier, kind === 'require' ? 'require' : 'import');
		if ('problem' in found) {
			// Optional packages are asked for in a `try`: a package that isn't there is the program's own affair then.
			if (kind !== 'import' && found.problem.reason === 'missing' && !specifier.startsWith('.')) {
				this.#warnings.push(`${path} asks for "${specifier}" at run time, which is not installed`);
				return null;
			}
			throw this.#unresolved(path, specifier, found.problem);
		}
		const { target } = found;
		if (target.startsWith('vendor:')) this.#vendor.add(target.slice('vendor:'.length));
		else if (target.startsWith('file:')) this.#namedFiles.add(target.slice('file:'.length));
		else if (!target.startsWith('node:')) this.#queue.push(target);
		return target;
	}

	#unresolved(path: string, specifier: string, problem: Problem): BuildError {
		const codes: Record<Problem['reason'], BuildErrorCode> = {
			missing: 'unresolved_import',
			outside: 'unresolved_import',
			not_a_dependency: 'unresolved_import',
			no_lockfile: 'no_lockfile',
			not_installed: 'not_installed',
		};
		const at = this.#placeOfImport(path, specifier);
		return new BuildError(codes[problem.reason], `can't resolve an import: ${problem.message}`, {
			...at,
			...(problem.hint === null ? {} : { hint: problem.hint }),
		});
	}

	#placeOfImport(path: string, specifier: string, name?: string) {
		const source = this.#input.source(path);
		return placeOf(path, source, findImport(source, loaderOf(path), specifier, name));
	}

	/** `new URL('./x', import.meta.url)`: code is compiled, anything else is a real file. */
	#url(path: string, specifier: string): void {
		if (!specifier.startsWith('.')) return;
		const found = this.#input.resolver.resolve(path, specifier, 'import');
		if ('problem' in found) return; // A folder, or a file that the program writes.
		const target = found.target.replace(/^file:/, '');
		if (isSource(target)) {
			this.#queue.push(target);
			this.#materialise = true;
		} else this.#namedFiles.add(target);
	}

	/** `import(`./routes/${name}.ts`)`: every file that it could mean. */
	#pattern(path: string, record: ModuleRecord, [prefix, suffix]: [string, string]): void {
		const folder = joined(path, prefix);
		let matches = 0;
		for (const source of this.#input.sources()) {
			if (!source.startsWith(folder) || source === path) continue;
			const rest = source.slice(folder.length);
			for (const spelled of spellings(rest)) {
				if (!spelled.endsWith(suffix) || (suffix === '' && spelled === '')) continue;
				record.resolve[prefix + spelled] = source;
				this.#queue.push(source);
				matches++;
			}
		}
		if (matches === 0) this.#warnings.push(`${path} has import(\`${prefix}\${…}${suffix}\`), which matches no file`);
	}

	/** `import(name)`: anything of the app may be meant. */
	#takeAll(path: string): void {
		if (this.#dynamic) return;
		this.#dynamic = true;
		this.#materialise = true;
		this.#warnings.push(`${path} has an import() of a computed name: every source of the app is shipped`);
		for (const source of this.#input.sources()) {
			if (this.#modules.has(source) || isTest(source)) continue;
			try {
				this.#add(source, this.#input.load(source));
			} catch (error) {
				if (!(error instanceof BuildError)) throw error;
				this.#modules.delete(source);
				this.#records.delete(source);
				this.#warnings.push(`${source} is left out: ${error.message}`);
			}
		}
	}

	/** Every name imported from a module of the app must be there: types are gone by now, and what is not there fails at start. */
	checkNames(): void {
		for (const [path, { facts }] of this.#modules) {
			for (const [specifier, kind, names] of facts.imports) {
				if (kind !== 'import' || names === null || names.length === 0) continue;
				const target = this.#records.get(path)?.resolve[specifier];
				const module = target === undefined ? undefined : this.#modules.get(target);
				if (!module || module.format === 'commonjs') continue;
				for (const name of names) this.#checkName(path, specifier, target!, name);
			}
		}
	}

	#checkName(path: string, specifier: string, target: string, name: string): void {
		const source = this.#modules.get(target)!;
		if (source.facts.constEnums.includes(name)) {
			throw new BuildError(
				'const_enum',
				`"${name}" is a const enum of ${target}: modules are compiled one by one, so its values can't be inlined here`,
				{
					...this.#placeOfImport(path, specifier, name),
					hint: `Make it a plain \`enum\`, or an object \`as const\`, in ${target}.`,
				},
			);
		}
		const exported = this.#exportsOf(target, new Set());
		if (exported === null || exported.has(name)) return;
		const at = this.#placeOfImport(path, specifier, name);
		if (source.format === 'json' || source.format === 'text') {
			throw new BuildError('missing_export', `${target} has only a default export`, {
				...at,
				hint: 'Import the whole, and take what you need from it.',
			});
		}
		if (this.#isType(target, name, new Set())) {
			throw new BuildError('type_export', `"${name}" is a type of ${target}, but imported or re-exported as a value`, {
				...at,
				hint: `Write \`type ${name}\`: modules are compiled one by one, so only the word tells that nothing of it is left at run time.`,
			});
		}
		throw new BuildError('missing_export', `${target} has no export named "${name}"`, at);
	}

	/** null: not known before it runs. */
	#exportsOf(path: string, seen: Set<string>): Set<string> | null {
		const module = this.#modules.get(path);
		if (!module || module.format === 'commonjs') return null;
		const names = new Set(module.facts.exports);
		seen.add(path);
		for (const star of module.facts.stars) {
			const target = this.#records.get(path)?.resolve[star];
			if (target === undefined || !this.#modules.has(target)) return null;
			if (seen.has(target)) continue;
			const more = this.#exportsOf(target, seen);
			if (more === null) return null;
			for (const name of more) if (name !== 'default') names.add(name);
		}
		return names;
	}

	#isType(path: string, name: string, seen: Set<string>): boolean {
		if (seen.has(path) || !isSource(path)) return false;
		seen.add(path);
		if (declaresType(this.#input.source(path), name)) return true;
		const stars = this.#modules.get(path)?.facts.stars ?? [];
		return stars.some((star) => {
			const target = this.#records.get(path)?.resolve[star];
			return target !== undefined && this.#isType(target, name, seen);
		});
	}

	/** `require()` of a module that awaits at its top level throws at run time: said here instead. */
	checkRequires(): void {
		for (const [path, { facts }] of this.#modules) {
			for (const [specifier, kind] of facts.imports) {
				if (kind !== 'require') continue;
				const record = this.#records.get(path);
				const target = record?.require?.[specifier] ?? record?.resolve[specifier];
				const waiting = target === undefined ? null : this.#awaits(target, new Set());
				if (waiting === null) continue;
				throw new BuildError('require_async', `"${specifier}" is loaded by require(), but ${waiting} awaits at its top level`, {
					...this.#placeOfImport(path, specifier),
					hint: 'Load it with `await import()`, or move the await into a function.',
				});
			}
		}
	}

	#awaits(path: string, seen: Set<string>): string | null {
		const module = this.#modules.get(path);
		if (!module || seen.has(path) || module.format !== 'module') return null;
		seen.add(path);
		if (topLevelAwait(module.code())) return path;
		for (const [specifier, kind] of module.facts.imports) {
			const target = kind === 'import' ? this.#records.get(path)?.resolve[specifier] : undefined;
			const waiting = target === undefined ? null : this.#awaits(target, seen);
			if (waiting !== null) return waiting;
		}
		return null;
	}

	result(): Linked {
		const sorted = [...this.#records.keys()].sort(compareUtf8);
		return {
			index: {
				format: 1,
				entry: this.#input.entry,
				materialise: this.#materialise,
				dynamic: this.#dynamic,
				modules: Object.fromEntries(sorted.map((path) => [path, this.#records.get(path)!])),
				vendor: [...this.#vendor].sort(compareUtf8),
			},
			warnings: this.#warnings,
			namedFiles: this.#namedFiles,
		};
	}
}

function joined(from: string, relative: string): string {
	const names = from.split('/').slice(0, -1);
	const parts = relative.split('/');
	for (const name of parts) {
		if (name === '..') names.pop();
		else if (name !== '.' && name !== '') names.push(name);
	}
	return names.join('/') + (relative.endsWith('/') && names.length > 0 ? '/' : '');
}

/** How a program may spell a source's path: as it is, with the extension it will have, or without. */
function spellings(path: string): string[] {
	const dot = path.lastIndexOf('.');
	const bare = path.slice(0, dot);
	return ['.js', '.mjs', '.cjs', '.jsx', '']
		.map((extension) => bare + extension)
		.filter((spelled) => candidates(spelled).includes(path))
		.concat(path)
		.filter((spelled, i, all) => all.indexOf(spelled) === i);
}

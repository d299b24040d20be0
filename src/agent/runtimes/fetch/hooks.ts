import {
	isBuiltin,
	registerHooks,
	type LoadFnOutput,
	type LoadHookContext,
	type ResolveFnOutput,
	type ResolveHookContext,
} from 'node:module';
import { pathToFileURL } from 'node:url';
import type { AppIndex } from '#store/app-index.ts';
import type { ModulePack } from '#store/module-pack.ts';

/**
 * The app's modules come from its pack, at the URLs that the files would have. Resolving is a look-up in the map made
 * at build time and never touches the disk; what is not the app's own is Node's business.
 */
export interface ModuleSource {
	/** From now on modules below `root` come from `pack`. Call once. */
	use(pack: ModulePack, root: string): void;
	url(path: string): string;
}

export function hookModules(vendor: string | null): ModuleSource {
	let app: App | null = null;
	const vendorUrl = vendor === null ? null : `${pathToFileURL(vendor).href}/`;
	registerHooks({
		resolve: (specifier, context, next) => (app && resolve(app, vendorUrl, specifier, context)) ?? next(specifier, context),
		load: (url, context, next) => (app && load(app, url, context)) ?? next(url, context),
	});
	return {
		use: (pack, root) => (app = { pack, modules: pack.index.modules, url: `${pathToFileURL(root).href}/` }),
		url: (path) => (app?.url ?? '') + encodePath(path),
	};
}

interface App {
	pack: ModulePack;
	modules: AppIndex['modules'];
	/** URL of the release directory, with a slash at its end. */
	url: string;
}

function resolve(app: App, vendorUrl: string | null, specifier: string, context: ResolveHookContext): ResolveFnOutput | null {
	const parent = context.parentURL === undefined ? null : ownPath(app, context.parentURL);
	const from = parent === null ? undefined : moduleAt(app, parent);
	if (from) {
		const required = context.conditions.includes('require') ? own(from.require, specifier) : undefined;
		const target = required ?? own(from.resolve, specifier);
		if (target !== undefined) return locate(app, vendorUrl, target, context);
	}
	return computed(app, specifier, context);
}

function locate(app: App, vendorUrl: string | null, target: string, context: ResolveHookContext): ResolveFnOutput | null {
	if (target.startsWith('vendor:')) {
		return vendorUrl === null ? null : { url: vendorUrl + encodePath(target.slice('vendor:'.length)), shortCircuit: true };
	}
	if (target.startsWith('file:')) return { url: app.url + encodePath(target.slice('file:'.length)), shortCircuit: true };
	if (isBuiltin(target)) return { url: target.startsWith('node:') ? target : `node:${target}`, format: 'builtin', shortCircuit: true };
	return found(app, target, '', context);
}

/** A name made up at run time: `import(new URL(…))`, or a relative path that no map could hold. */
function computed(app: App, specifier: string, context: ResolveHookContext): ResolveFnOutput | null {
	const { parentURL: parentUrl } = context;
	const relative = specifier.startsWith('./') || specifier.startsWith('../');
	if (!specifier.startsWith('file:') && !relative && !specifier.startsWith('/')) return null;
	if (relative && !parentUrl?.startsWith(app.url)) return null;
	const url = specifier.startsWith('/') ? pathToFileURL(specifier) : URL.parse(specifier, parentUrl);
	const path = url && ownPath(app, url.href);
	return url && path !== null ? found(app, path, url.search + url.hash, context) : null;
}

function found(app: App, path: string, suffix: string, context: ResolveHookContext): ResolveFnOutput | null {
	const record = moduleAt(app, path);
	if (!record) return null;
	// JSON and text have a default export without import attributes: as modules that we write.
	const common = record.format === 'commonjs' || (record.format !== 'module' && context.conditions.includes('require'));
	const format = common ? 'commonjs' : 'module';
	return { url: app.url + encodePath(path) + suffix, format, shortCircuit: true };
}

function load(app: App, url: string, context: LoadHookContext): LoadFnOutput | null {
	const path = ownPath(app, url);
	const record = path === null ? undefined : moduleAt(app, path);
	const body = path === null || !record ? null : app.pack.slice(path);
	if (!body || !record) return null;
	const source = body.toString();
	if (record.format === 'module' || record.format === 'commonjs') return { format: record.format, source, shortCircuit: true };
	// JSON.parse, not a literal: `__proto__` is a key like any other in JSON.
	const value = record.format === 'json' ? `JSON.parse(${JSON.stringify(source)})` : JSON.stringify(source);
	if (context.conditions.includes('require')) return { format: 'commonjs', source: `module.exports = ${value};`, shortCircuit: true };
	if (context.importAttributes['type'] === 'json') return { format: 'json', source, shortCircuit: true };
	return { format: 'module', source: `export default ${value};`, shortCircuit: true };
}

/** The path below the release directory, or null when the URL is not below it. */
function ownPath(app: App, url: string): string | null {
	if (!url.startsWith(app.url)) return null;
	const path = url.slice(app.url.length);
	if (!/[?#%]/.test(path)) return path;
	try {
		return decodeURIComponent(path.replace(/[?#].*/s, ''));
	} catch {
		return null; // a stray %: no path of ours is written so
	}
}

function moduleAt(app: App, path: string): AppIndex['modules'][string] | undefined {
	return own(app.modules, path);
}

function own<T>(record: Record<string, T> | undefined, key: string): T | undefined {
	return record && Object.hasOwn(record, key) ? record[key] : undefined;
}

/** As `pathToFileURL` writes it; most paths need nothing. */
function encodePath(path: string): string {
	return /^[\w./@-]*$/.test(path) ? path : pathToFileURL(`/${path}`).href.slice('file:///'.length);
}

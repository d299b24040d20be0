/**
 * `index.json` at the root of a `fetch` app's artifact: how its modules refer to each other, decided at build time,
 * so that a server resolves by looking up a map and never searches the disk. Beside it lie
 * `modules/<path>` (compiled JavaScript, or the raw text of a JSON or text module), `maps/<path>.map`, and
 * `files/<path>` (every real file). Paths are those of the app's sources: `modules/src/server.ts`.
 */
export interface AppIndex {
	format: 1;
	/** The entry module's path. */
	entry: string;
	/** Modules must be real files too before the app starts: it makes workers or child processes, or computes paths. */
	materialise: boolean;
	/** The app has an `import()` of a computed name: what `resolve` lacks may be any of `modules`, by its URL. */
	dynamic: boolean;
	modules: Record<string, ModuleRecord>;
	/** Packages whose files the modules import, in order: worth importing before there is an app. `hono/dist/index.js` below node_modules. */
	vendor: string[];
}

export interface ModuleRecord {
	/** `json` and `text` hold the raw text; their default export is the parsed value, or the string. */
	format: 'module' | 'commonjs' | 'json' | 'text';
	/** Specifier → target for `import`, and for `require` where `require` does not say otherwise. */
	resolve: Record<string, ModuleTarget>;
	/** Specifier → target for `require()` where it differs from `import` of the same specifier. */
	require?: Record<string, ModuleTarget>;
}

/** `src/b.ts` (a module of the app) · `vendor:hono/dist/index.js` (below node_modules) · `node:fs` · `file:addon.node` (a real file of the app). */
export type ModuleTarget = string;

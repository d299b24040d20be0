/** What linking needs to know of a module, read from its compiled code; two sources with equal facts link alike. */
export interface Facts {
	/** Has import, export or import.meta. */
	esm: boolean;
	imports: ImportFact[];
	/** Names it exports itself; `default` is one of them. */
	exports: string[];
	/** Specifiers of its `export * from`. */
	stars: string[];
	/** Names of `const enum`s it exports. */
	constEnums: string[];
	/** Folders and endings of `import()`s with a template: `["./routes/", ".ts"]`. */
	patterns: [prefix: string, suffix: string][];
	/** An `import()` of something computed. */
	computed: boolean;
	/** Makes workers or child processes, or a `require` of its own. */
	spawns: boolean;
	/** Calls something named listen or serve. */
	listens: boolean;
}

export type ImportKind = 'import' | 'dynamic' | 'require' | 'url';

/** `names`: null where all of it is taken, or nothing by name. */
export type ImportFact = [specifier: string, kind: ImportKind, names: string[] | null];

export const NO_FACTS: Facts = {
	esm: false,
	imports: [],
	exports: ['default'],
	stars: [],
	constEnums: [],
	patterns: [],
	computed: false,
	spawns: false,
	listens: false,
};

/** What an agent and an instance of a `fetch` app say to each other, and how the instance is born. */

/** Where an instance reads its `Birth` to the end, once. */
export const BIRTH_DESCRIPTOR = 3;

/** Not among its arguments nor in its environment, which the kernel shows to others as they were at the start. */
export interface Birth {
	/** Directory of its two sockets, `http` and `control`. */
	sockets: string;
	/** `<…>/node_modules`, as the instance sees it; null without dependencies. */
	vendor: string | null;
	/** Files below it that the last release imported, to import before there is an app. */
	preimport: string[];
	/** Directory of V8's compile cache; null for none. */
	compileCache: string | null;
	/** Somebody waits for it: it does not exercise for long, nor write what was compiled of the packages to the cache. */
	hurried: boolean;
	/** The app's own variables: applied after the program itself is loaded, before any package is. */
	env: Record<string, string>;
	/** Those of `env` whose values are nobody's to read in its output. */
	secrets: string[];
}

export interface Load {
	type: 'load';
	/** The release directory as the instance sees it: cwd, and the root of all modules' URLs. */
	root: string;
	/** The module pack, and the one of source maps. */
	pack: string;
	maps: string;
	/** Variables that are known only now: JIBE_REGION, JIBE_RELEASE, JIBE_DEPLOYMENT, JIBE_DATA_DIR. */
	env: Record<string, string>;
}

export type InstancePhase = 'prepared' | 'serving' | 'warm' | 'draining';

export type Order =
	| Load
	/** `rests`: it is about to be frozen. `keepCompiled`: one of the instances that rest writes what it compiled to the cache, for those that start later. */
	| { type: 'state'; state: Exclude<InstancePhase, 'draining'>; rests?: boolean; keepCompiled?: boolean }
	/** Finish what is in flight; answered by a `drained` of this `id`. A `state` after it calls it off. */
	| { type: 'drain'; id: string; requestsMs: number; streamsMs: number };

export type Report =
	| { type: 'idle' }
	| { type: 'loaded'; importMs: number; upgrades: boolean }
	| { type: 'failed'; reason: 'app_throws' | 'app_listens' | 'no_fetch' | 'start'; detail: string }
	/** `id`: of the order. One that crossed its own calling-off must not be taken for the next. */
	| { type: 'drained'; id: string; cut: number }
	/** Told to be warm, and as small as it gets: it may be frozen. */
	| { type: 'rested' };

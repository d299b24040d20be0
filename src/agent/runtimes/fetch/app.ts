import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';

/** What the entry of a `fetch` app exports, whichever way it was written. */
export interface FetchApp {
	fetch(request: Request, env: object, context: ExecutionContext): Response | Promise<Response>;
	/** An app of Express or Connect answers in Node's own way; it is asked instead of `fetch`. */
	listener?(request: IncomingMessage, response: ServerResponse): unknown;
	upgrade?(request: IncomingMessage, socket: Duplex, head: Buffer): unknown;
	/** Called after the pointer moved here, and before the drain. */
	activate?(): unknown;
	deactivate?(): unknown;
}

export interface ExecutionContext {
	/** Work that goes on after the answer; the drain waits for it. */
	waitUntil(work: Promise<unknown>): void;
	passThroughOnException(): void;
}

/** Null when the module has no `fetch` to call. */
export function findApp(module: Record<string, unknown>): FetchApp | null {
	// A CommonJS entry's exports are the default; compiled TypeScript puts its own `default` below that.
	const candidates = [module['default'], property(module['default'], 'default'), module];
	for (const candidate of candidates) {
		if (isNodeApp(candidate))
			return { fetch: () => new Response(null, { status: 501 }), listener: candidate, ...lifeOf(candidate, module) };
		const fetch = isPlainFunction(candidate) ? candidate : property(candidate, 'fetch');
		if (typeof fetch !== 'function') continue;
		return { fetch: bind(candidate, fetch) as FetchApp['fetch'], ...lifeOf(candidate, module) };
	}
	return null;
}

function lifeOf(app: unknown, module: Record<string, unknown>): Pick<FetchApp, 'upgrade' | 'activate' | 'deactivate'> {
	// On an Express app these names are not ours.
	const method = (name: string) => (isNodeApp(app) ? undefined : bind(app, property(app, name))) ?? bind(undefined, module[name]);
	return {
		upgrade: method('upgrade') as FetchApp['upgrade'],
		activate: method('activate') as FetchApp['activate'],
		deactivate: method('deactivate') as FetchApp['deactivate'],
	};
}

/** A function `(request, response)` that has `use` and `handle`, as Express's and Connect's apps have. */
function isNodeApp(value: unknown): value is NonNullable<FetchApp['listener']> {
	if (typeof value !== 'function' || typeof property(value, 'fetch') === 'function') return false;
	return typeof property(value, 'handle') === 'function' && typeof property(value, 'use') === 'function';
}

function isPlainFunction(value: unknown): value is (...args: unknown[]) => unknown {
	return typeof value === 'function' && typeof property(value, 'fetch') !== 'function';
}

function property(value: unknown, name: string): unknown {
	if ((typeof value !== 'object' && typeof value !== 'function') || value === null) return undefined;
	return (value as Record<string, unknown>)[name];
}

function bind(to: unknown, method: unknown): unknown {
	// Not the function's own `bind`: an app may have put a route of that name there.
	return typeof method === 'function' ? (Function.prototype.bind.call(method, to) as unknown) : undefined;
}

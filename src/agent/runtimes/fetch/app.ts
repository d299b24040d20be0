import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';

/** What the entry of a `fetch` app exports, whichever way it was written. */
export interface FetchApp {
	fetch(request: Request, env: object, context: ExecutionContext): Response | Promise<Response>;
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
		const fetch = isPlainFunction(candidate) ? candidate : property(candidate, 'fetch');
		if (typeof fetch !== 'function') continue;
		const method = (name: string) => bind(candidate, property(candidate, name)) ?? bind(undefined, module[name]);
		return {
			fetch: fetch.bind(candidate) as FetchApp['fetch'],
			upgrade: method('upgrade') as FetchApp['upgrade'],
			activate: method('activate') as FetchApp['activate'],
			deactivate: method('deactivate') as FetchApp['deactivate'],
		};
	}
	return null;
}

function isPlainFunction(value: unknown): value is (...args: unknown[]) => unknown {
	return typeof value === 'function' && typeof property(value, 'fetch') !== 'function';
}

function property(value: unknown, name: string): unknown {
	if ((typeof value !== 'object' && typeof value !== 'function') || value === null) return undefined;
	return (value as Record<string, unknown>)[name];
}

function bind(to: unknown, method: unknown): unknown {
	return typeof method === 'function' ? (method.bind(to) as unknown) : undefined;
}

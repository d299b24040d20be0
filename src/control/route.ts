import type { IncomingMessage, ServerResponse } from 'node:http';
import type { z } from 'zod';
import type { Caller, Role } from './access.ts';

/** One row of the API's table: what the router checks, what the OpenAPI document says, and who answers. */
export interface Route {
	method: 'GET' | 'POST' | 'PUT' | 'DELETE';
	/** Below the root, Hono's syntax: `/api/v1/apps/:app/status`. */
	path: string;
	summary: string;
	/** `public`: no token. `program`: the credential of a depot. `builder`: that of a builder. Else the least role; scope is checked by `:app` and `environment`. */
	role: Role | 'public' | 'program' | 'builder';
	params?: z.ZodObject;
	query?: z.ZodObject;
	/** JSON. */
	body?: z.ZodType;
	/** Or raw bytes up to this many. */
	uploadBytes?: number;
	/** Schema of the JSON answer, or of each line when `lines`; a media type for others; null: 204. */
	answer: z.ZodType | string | null;
	lines?: boolean;
	handle(ask: Ask): Promise<unknown>;
}

export interface Ask {
	params: Record<string, string>;
	query: unknown;
	body: unknown;
	/** Present for routes with `uploadBytes`. */
	upload: Buffer;
	/** Present unless the route is public or for programs and builders. */
	caller: Caller;
	request: IncomingMessage;
	response: ServerResponse;
}

type Of<S> = S extends z.ZodType ? z.infer<S> : undefined;

/** Ties the types of a row's handler to its schemas; the router has parsed by them before it calls. */
export function route<P extends z.ZodObject | undefined, Q extends z.ZodObject | undefined, B extends z.ZodType | undefined>(
	row: Omit<Route, 'handle' | 'params' | 'query' | 'body'> & {
		params?: P;
		query?: Q;
		body?: B;
		handle(ask: Omit<Ask, 'params' | 'query' | 'body'> & { params: Of<P>; query: Of<Q>; body: Of<B> }): Promise<unknown>;
	},
): Route {
	return row as unknown as Route;
}

/** The handler wrote its answer itself (a stream). */
export const ANSWERED: unique symbol = Symbol('answered');

/** An answer that is not JSON. */
export class Raw {
	readonly bytes: Uint8Array<ArrayBuffer> | string;
	readonly type: string;
	readonly headers: Record<string, string>;
	constructor(bytes: Uint8Array<ArrayBuffer> | string, type: string, headers: Record<string, string> = {}) {
		this.bytes = bytes;
		this.type = type;
		this.headers = headers;
	}
}

import { once } from 'node:events';
import { connect } from 'node:net';
import type { FetchApp } from './app.ts';

const HEADERS = 'host: localhost\r\naccept: */*\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n';
const GET = `GET / HTTP/1.1\r\n${HEADERS}\r\n`;
const POST = `POST / HTTP/1.1\r\n${HEADERS}content-type: application/json\r\ncontent-length: 7\r\n\r\n{"a":1}`;

export interface Exercise {
	/** Where its own server listens. */
	socket: string;
	/** By their paths. */
	packages: ReadonlyMap<string, unknown>;
	/** Of three requests. */
	rounds: number;
}

/**
 * Makes an idle process do once what its first request would do for the first time: load undici's lazy half, compile
 * the HTTP path, run a router and a validator. Measured: the first request of a process costs 20 ms, the next ones 1.
 */
export async function exercise(use: (app: FetchApp) => void, of: Exercise): Promise<void> {
	const { socket, packages, rounds } = of;
	const router = dummyRouter(packages);
	use({
		async fetch(incoming, env, context) {
			if (router) return router(incoming, env, context);
			const body = incoming.method === 'POST' ? await incoming.json() : null;
			return Response.json({ path: new URL(incoming.url).pathname, agent: incoming.headers.get('user-agent'), body });
		},
	});
	await askOften(socket, rounds);
	validate(packages);
	// What lazy globals cost an app at import or in its first handler.
	void new Request('http://localhost/', { method: 'POST', body: '{}' });
	void new Headers({ accept: '*/*' });
	void new Response('x');
	use({ fetch: () => new Response(null, { status: 503 }) });
}

/** As edges do: one after the other on a connection that stays open. */
async function askOften(path: string, rounds: number): Promise<void> {
	const socket = connect(path);
	const closed = new AbortController();
	socket.once('close', () => closed.abort());
	try {
		await once(socket, 'connect');
		for (let n = 0; n < rounds; n++) {
			for (const request of [GET, POST, GET]) {
				socket.write(request);
				await once(socket, 'data', closed);
			}
		}
	} finally {
		socket.destroy();
	}
}

/** A Hono app of one route if the app uses Hono: its router compiles its matcher at the first request. */
function dummyRouter(packages: ReadonlyMap<string, unknown>): FetchApp['fetch'] | null {
	const Hono = exported(packages, /^hono\/dist\/(index|hono)\.js$/, 'Hono') as (new () => DummyHono) | undefined;
	if (!Hono) return null;
	const app = new Hono();
	const inner = new Hono();
	inner.get('/', (c) => c.json({ ok: true }));
	inner.post('/', async (c) => c.json((await c.req.json()) as object, 201));
	app.route('/', inner);
	return app.fetch.bind(app);
}

interface DummyHono {
	get(path: string, handler: (c: DummyContext) => unknown): void;
	post(path: string, handler: (c: DummyContext) => unknown): void;
	route(path: string, app: DummyHono): void;
	fetch: FetchApp['fetch'];
}
interface DummyContext {
	json(value: object, status?: number): Response;
	req: { json(): Promise<unknown> };
}

function validate(packages: ReadonlyMap<string, unknown>): void {
	const zod =
		exported(packages, /^zod\/(index|v\d\/classic\/(index|external))\.(js|mjs)$/, 'object') &&
		moduleOf(packages, /^zod\/(index|v\d\/classic\/(index|external))\.(js|mjs)$/);
	if (!zod) return;
	const z = zod as Record<'object' | 'string' | 'number' | 'array', (of?: unknown) => DummyType>;
	const shape = { id: z.string().min(1), n: z.number().int().default(1), t: z.array(z.string()).optional() };
	z.object(shape).safeParse({ id: 'a' });
}

interface DummyType {
	min(n: number): DummyType;
	int(): DummyType;
	default(value: unknown): DummyType;
	optional(): DummyType;
	safeParse(value: unknown): unknown;
}

function moduleOf(packages: ReadonlyMap<string, unknown>, path: RegExp): Record<string, unknown> | undefined {
	for (const [name, module] of packages) if (path.test(name)) return module as Record<string, unknown>;
	return undefined;
}

function exported(packages: ReadonlyMap<string, unknown>, path: RegExp, name: string): unknown {
	const value = moduleOf(packages, path)?.[name];
	return typeof value === 'function' ? value : undefined;
}

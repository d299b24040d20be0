import { DummyDriver, Kysely, PostgresAdapter, PostgresIntrospector, PostgresQueryCompiler, type Compilable } from 'kysely';
import pg from 'pg';
import { pause, type Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { StateError, type Connection, type StateErrorCode } from './state.ts';
import type { Tables } from './tables.ts';

/** The one user of the PostgreSQL client: a pool that survives its server, and answers that are either right or a StateError. */
export interface Database {
	/** The query builder; what it builds is run by `rows`. */
	readonly build: Kysely<Tables>;
	/**
	 * Runs one statement. When the server goes away it is sent again until it answers, so it must be one that may run twice:
	 * a read, or a write that changes nothing the second time.
	 */
	rows<T>(query: Compilable<T>): Promise<T[]>;
	/** The same for SQL text, prepared under its name; answers the first column of the first row. */
	call<T>(name: string, text: string, values: unknown[]): Promise<T>;
	/** Several statements, all or nothing; the whole may run twice as well. */
	transaction<T>(work: (rows: <R>(query: Compilable<R>) => Promise<R[]>) => Promise<T>): Promise<T>;
	/** A client of its own, for LISTEN. */
	client(): pg.Client;
	/** One try, soon answered. */
	reachable(): Promise<boolean>;
	close(): Promise<void>;
}

const POOL_MAX = 8;
const CONNECT_LIMIT_MS = 3_000;
/** A server that is frozen answers nothing, not even an error. */
const QUERY_LIMIT_MS = 5_000;
/** A dead embedded server is back within 0.1 s, a frozen one within 4 s. */
export const RETRY_FOR_MS = 20_000;
const FIRST_RETRY_MS = 5;
const MAX_RETRY_MS = 250;

/** Raised by `jibe.refuse`. */
const REFUSED = 'JB001';
const INT8 = 20;

export function connect(of: { database: Connection; log: Log; clock: Clock; retryForMs?: number }): Database {
	const config: pg.ClientConfig = {
		...(typeof of.database === 'string' ? { connectionString: of.database } : of.database),
		application_name: 'jibe',
		connectionTimeoutMillis: CONNECT_LIMIT_MS,
		query_timeout: QUERY_LIMIT_MS,
		keepAlive: true,
		// Our bigints are times and counters, all far below 2^53.
		types: {
			getTypeParser: ((oid: number, format: 'text') =>
				oid === INT8 ? Number : pg.types.getTypeParser(oid, format)) as typeof pg.types.getTypeParser,
		},
	};
	const pool = new pg.Pool({ ...config, max: POOL_MAX, idleTimeoutMillis: 0 });
	// Without listeners the loss of a connection would end the program: the pool hears of idle ones only.
	const lost = (error: Error) => of.log.debug('database.connection_lost', { error });
	pool.on('error', lost);
	pool.on('connect', (client) => client.on('error', lost));
	const build = new Kysely<Tables>({
		dialect: {
			createAdapter: () => new PostgresAdapter(),
			createDriver: () => new DummyDriver(),
			createIntrospector: (db) => new PostgresIntrospector(db),
			createQueryCompiler: () => new PostgresQueryCompiler(),
		},
	});
	return new PoolDatabase(pool, config, build, of);
}

class PoolDatabase implements Database {
	readonly build: Kysely<Tables>;
	private readonly pool: pg.Pool;
	private readonly config: pg.ClientConfig;
	private readonly of: { log: Log; clock: Clock; retryForMs?: number };
	private closed = false;

	constructor(pool: pg.Pool, config: pg.ClientConfig, build: Kysely<Tables>, of: { log: Log; clock: Clock; retryForMs?: number }) {
		this.pool = pool;
		this.config = config;
		this.build = build;
		this.of = of;
	}

	rows<T>(query: Compilable<T>): Promise<T[]> {
		return this.attempt((client) => run(client, query));
	}

	async call<T>(name: string, text: string, values: unknown[]): Promise<T> {
		const rows = await this.attempt(async (client) => (await client.query({ name, text, values, rowMode: 'array' })).rows as [T][]);
		const [first] = rows;
		if (!first) throw new Error(`${name} answered no row`);
		return first[0];
	}

	transaction<T>(work: (rows: <R>(query: Compilable<R>) => Promise<R[]>) => Promise<T>): Promise<T> {
		return this.attempt(async (client) => {
			await client.query('begin');
			try {
				const result = await work((query) => run(client, query));
				await client.query('commit');
				return result;
			} catch (error) {
				// When the connection is gone the server rolls back by itself, and the error says what happened.
				if (!isLost(error)) await client.query('rollback');
				throw error;
			}
		});
	}

	client(): pg.Client {
		// Waiting for a lock of another control may take longer than any query.
		return new pg.Client({ ...this.config, query_timeout: undefined });
	}

	async reachable(): Promise<boolean> {
		try {
			await this.once((client) => client.query('select 1'));
			return true;
		} catch {
			return false; // that is the answer
		}
	}

	async close(): Promise<void> {
		this.closed = true;
		await this.pool.end();
	}

	private async attempt<T>(work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
		const deadline = this.of.clock.monotonic() + (this.of.retryForMs ?? RETRY_FOR_MS);
		for (let waitMs = FIRST_RETRY_MS; ; waitMs = Math.min(waitMs * 2, MAX_RETRY_MS)) {
			try {
				return await this.once(work);
			} catch (error) {
				if (!isLost(error) && !isConflict(error)) throw explain(error);
				if (this.closed || this.of.clock.monotonic() + waitMs > deadline) throw unavailable(error);
			}
			await pause(waitMs, this.of.clock);
		}
	}

	private async once<T>(work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
		const client = await this.pool.connect();
		try {
			const result = await work(client);
			client.release();
			return result;
		} catch (error) {
			// A connection on which an answer is still due is of no use to the next one.
			client.release(isLost(error));
			throw error;
		}
	}
}

async function run<T>(client: pg.PoolClient, query: Compilable<T>): Promise<T[]> {
	const { sql, parameters } = query.compile();
	return (await client.query(sql, [...parameters])).rows as T[];
}

/** 25006: it has become a standby, and another server takes writes now. */
const LOST_CODES = new Set([
	'ECONNREFUSED',
	'ECONNRESET',
	'ENOENT',
	'EPIPE',
	'ETIMEDOUT',
	'EAI_AGAIN',
	'57P01',
	'57P02',
	'57P03',
	'53300',
	'25006',
]);
/** The client has no codes for what it finds out itself. */
const LOST_MESSAGES = /^(Connection terminated|timeout e|Query read timeout|Client has encountered a connection error|Client was closed)/;

export function isLost(error: unknown): boolean {
	const code = codeOf(error);
	return LOST_CODES.has(code) || code.startsWith('08') || (error instanceof Error && LOST_MESSAGES.test(error.message));
}

/** Serialisation failure, deadlock: nothing happened, and the next try finds the other one done. */
function isConflict(error: unknown): boolean {
	return codeOf(error) === '40001' || codeOf(error) === '40P01';
}

function codeOf(error: unknown): string {
	return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : '';
}

function explain(error: unknown): unknown {
	const code = codeOf(error);
	if (code === REFUSED) {
		const { message, detail } = error as pg.DatabaseError;
		return new StateError(message as StateErrorCode, detail ?? message);
	}
	if (code === '53100') {
		return new StateError('database_full', 'the disk that PostgreSQL writes to is full; nothing of this was kept', { cause: error });
	}
	return error;
}

export function unavailable(cause: unknown): StateError {
	return new StateError(
		'database_unavailable',
		'PostgreSQL does not answer; what serves goes on serving, and nothing can be changed until it is back',
		{ cause },
	);
}

/** What PostgreSQL's JSON can't hold, and an app's output may: the null character and halves of surrogate pairs. */
const NOT_IN_JSONB = /\\u(0000|d[89a-f])/i;

/** JSON that PostgreSQL accepts as jsonb. */
export function toJson(value: unknown): string {
	const json = JSON.stringify(value);
	if (!NOT_IN_JSONB.test(json)) return json;
	return JSON.stringify(value, (_key, member: unknown) =>
		typeof member === 'string' ? member.toWellFormed().replaceAll('\0', '\ufffd') : member,
	);
}

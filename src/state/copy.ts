import { once } from 'node:events';
import type { Socket } from 'node:net';
import type pg from 'pg';

/** COPY in both directions as streams, with back-pressure: the client itself knows only queries. */

/** Rows of an answer are gathered into pieces of about this size. */
const PIECE_BYTES = 1024 * 1024;
const PIECES_HELD_MAX = 4;

/** What the client asks of a query of ours, and what we use of its connection. */
interface Connection {
	stream: Socket;
	query(text: string): void;
	sendCopyFromChunk(chunk: Buffer): void;
	endCopyFrom(): void;
	sendCopyFail(reason: string): void;
}

abstract class Copy {
	protected readonly text: string;
	protected connection: Connection | null = null;
	protected error: Error | null = null;

	constructor(text: string) {
		this.text = text;
	}

	submit(connection: pg.Connection): void {
		this.connection = connection as unknown as Connection;
		this.connection.query(this.text);
	}

	handleError(error: Error): void {
		this.error ??= error;
		this.settle();
	}

	handleCommandComplete(): void {}

	handleReadyForQuery(): void {
		this.settle();
	}

	protected abstract settle(): void;
}

class CopyOut extends Copy {
	private pieces: Buffer[] = [];
	private rows: Buffer[] = [];
	private bytes = 0;
	private done = false;
	private wake: () => void = () => {};

	handleCopyData({ chunk }: { chunk: Buffer }): void {
		// The chunk is a part of a buffer that the client uses again.
		this.rows.push(Buffer.from(chunk));
		this.bytes += chunk.length;
		if (this.bytes < PIECE_BYTES) return;
		this.cut();
		if (this.pieces.length >= PIECES_HELD_MAX) this.connection?.stream.pause();
		this.wake();
	}

	async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
		for (;;) {
			const piece = this.pieces.shift();
			if (piece) {
				this.connection?.stream.resume();
				yield piece;
			} else if (this.error) throw this.error;
			else if (this.done) return;
			else await new Promise<void>((resolve) => (this.wake = resolve));
		}
	}

	protected settle(): void {
		this.cut();
		this.done = true;
		this.wake();
	}

	private cut(): void {
		if (this.rows.length > 0) this.pieces.push(Buffer.concat(this.rows));
		[this.rows, this.bytes] = [[], 0];
	}
}

class CopyIn extends Copy {
	readonly done = Promise.withResolvers<void>();
	private readonly rows: AsyncIterable<Buffer>;
	private failed: Error | null = null;

	constructor(text: string, rows: AsyncIterable<Buffer>) {
		super(text);
		this.rows = rows;
	}

	handleCopyInResponse(connection: pg.Connection): void {
		void this.pump(connection as unknown as Connection);
	}

	protected settle(): void {
		const error = this.failed ?? this.error;
		if (error) this.done.reject(error);
		else this.done.resolve();
	}

	private async pump(connection: Connection): Promise<void> {
		try {
			for await (const piece of this.rows) {
				if (this.error) return;
				connection.sendCopyFromChunk(piece);
				if (connection.stream.writableNeedDrain) await once(connection.stream, 'drain');
			}
			connection.endCopyFrom();
		} catch (error) {
			// PostgreSQL answers with an error then; ours says more.
			this.failed = error instanceof Error ? error : new Error(`the source of the rows failed with ${JSON.stringify(error)}`);
			connection.sendCopyFail('the source of the rows failed');
		}
	}
}

/** `text`: COPY … TO STDOUT. */
export function copyOut(client: pg.Client, text: string): AsyncIterable<Buffer> {
	return client.query(new CopyOut(text));
}

/** `text`: COPY … FROM STDIN. */
export async function copyIn(client: pg.Client, text: string, rows: AsyncIterable<Buffer>): Promise<void> {
	await client.query(new CopyIn(text, rows)).done.promise;
}

import type { Socket } from 'node:net';
import { MAX_LINE_BYTES, YES } from '#wire/tunnel.ts';
import { BadResponse, ResponseReader, type ResponseHead, type ResponseSink } from './response-reader.ts';
import type { Way } from './way.ts';

/** One HTTP/1.1 connection to an instance: one exchange at a time, any number one after the other. */
export class Connection implements ResponseSink {
	readonly socket: Socket;
	/** It has answered before: the instance may have closed it since without our knowing. */
	reused = false;
	connected = false;
	/** When it was last given back, on the pool's clock. */
	idleSince = 0;
	/** The instance closes it itself after this long without a request. */
	idleMs: number | null = null;
	readonly #reader = new ResponseReader();
	readonly #owner: ConnectionOwner;
	#exchange: UpstreamExchange | null = null;
	#headRead = false;
	#upgraded = false;
	#failed = false;
	/** What came of the greeting so far; null: it was given, or there is none. */
	#greeting: string | null;
	/** The head of a request that must not be sent twice: it waits for the greeting. */
	#held: string | null = null;

	constructor(way: Way, owner: ConnectionOwner) {
		const { socket, greets } = way.open();
		this.#owner = owner;
		this.socket = socket;
		this.#greeting = greets ? '' : null;
		this.socket.setNoDelay(true);
		if (!greets) this.socket.once('connect', () => this.#established());
		this.socket.on('data', (chunk: Buffer) => this.#read(chunk));
		this.socket.on('end', () => this.#ended());
		this.socket.on('error', (error) => this.#fail(error));
		this.socket.on('close', () => this.#fail(new BadResponse('closed', 'the instance closed the connection')));
		this.socket.on('drain', () => this.#exchange?.onWritable());
	}

	/** Sends a request's head (latin1), and its body if it is already at hand. */
	ask(exchange: UpstreamExchange, head: string, toHead: boolean): void {
		this.#exchange = exchange;
		this.#headRead = false;
		this.#reader.expect(this, toHead);
		if (this.#greeting !== null && !exchange.repeatable()) this.#held = head;
		else this.socket.write(head, 'latin1');
		if (this.connected) exchange.onConnected();
	}

	/** Nobody waits for the answer any more. */
	abandon(): void {
		this.#exchange = null;
		this.close();
	}

	close(): void {
		this.#failed = true;
		this.socket.destroy();
		this.#owner.onClosed(this);
	}

	/** The instance will not answer: its exchange is told at once, as if it had closed the connection. */
	giveUp(error: Error): void {
		this.#fail(error);
		this.socket.destroy();
	}

	/** After a 101 the socket is the caller's. */
	takeSocket(): Socket {
		this.#upgraded = true;
		this.#exchange = null;
		this.#owner.onClosed(this);
		this.socket.removeAllListeners('data');
		this.socket.removeAllListeners('end');
		this.socket.removeAllListeners('drain');
		return this.socket;
	}

	onInformation(status: number): void {
		this.#exchange?.onInformation(status);
	}

	onHead(head: ResponseHead): void {
		this.#headRead = true;
		this.idleMs = head.idleMs;
		this.#exchange?.onHead(head);
	}

	onBody(chunk: Buffer): void {
		this.#exchange?.onBody(chunk);
	}

	onEnd(keepAlive: boolean): void {
		const exchange = this.#exchange;
		this.#exchange = null;
		this.reused = true;
		// An answer before the request was whole leaves a connection on which nobody knows what comes next.
		if (keepAlive && exchange?.requestSent()) {
			// The client's back-pressure was for the answer before.
			if (this.socket.isPaused()) this.socket.resume();
			this.#owner.onIdle(this);
		} else this.close();
		exchange?.onEnd();
	}

	#established(): void {
		this.connected = true;
		this.#owner.onConnected();
		if (this.#held !== null) this.socket.write(this.#held, 'latin1');
		this.#held = null;
		this.#exchange?.onConnected();
	}

	/** The bytes behind the greeting; null: it is not whole, or it is a no. */
	#greeted(chunk: Buffer): Buffer | null {
		const said = (this.#greeting ?? '') + chunk.toString('latin1');
		const end = said.indexOf('\n');
		if (end === -1 && said.length <= MAX_LINE_BYTES) {
			this.#greeting = said;
			return null;
		}
		if (said.slice(0, end + 1) !== YES) {
			this.giveUp(new BadResponse('refused', `the server's agent answered: ${said.slice(0, MAX_LINE_BYTES).trim()}`));
			return null;
		}
		this.#greeting = null;
		this.#established();
		return Buffer.from(said.slice(end + 1), 'latin1');
	}

	#read(chunk: Buffer): void {
		if (this.#greeting !== null) {
			const rest = this.#greeted(chunk);
			if (rest === null || rest.length === 0) return;
			chunk = rest;
		}
		try {
			this.#reader.push(chunk);
			this.#exchange?.onRead();
		} catch (error) {
			this.#fail(error as Error);
			this.close();
		}
	}

	#ended(): void {
		try {
			this.#reader.end();
			this.close();
		} catch (error) {
			this.#fail(error as Error);
			this.close();
		}
	}

	#fail(error: Error): void {
		if (this.#failed || this.#upgraded) return;
		this.#failed = true;
		this.#owner.onClosed(this);
		if (!this.connected) this.#owner.onConnectFailed(error);
		const exchange = this.#exchange;
		this.#exchange = null;
		exchange?.onFailed(error, !this.connected ? 'connect' : this.#headRead ? 'response' : 'request');
	}
}

/** How far an exchange had come when it failed: nothing was sent that may not be sent again, no byte of the answer came, or the answer broke off. */
export type FailedAt = 'connect' | 'request' | 'response';

export interface UpstreamExchange {
	/** The request's head is on its way: its body may follow. */
	onConnected(): void;
	onWritable(): void;
	onInformation(status: number): void;
	onHead(head: ResponseHead): void;
	onBody(chunk: Buffer): void;
	onEnd(): void;
	/** All that came with one read of the socket was handed over; the answer goes on. */
	onRead(): void;
	onFailed(error: Error, at: FailedAt): void;
	/** It does no harm if an instance gets it more than once. */
	repeatable(): boolean;
	/** The whole request, with its body, has been written. */
	requestSent(): boolean;
}

export interface ConnectionOwner {
	onConnected(): void;
	onConnectFailed(error: Error): void;
	onIdle(connection: Connection): void;
	onClosed(connection: Connection): void;
}

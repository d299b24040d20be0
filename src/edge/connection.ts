import { connect, type Socket } from 'node:net';
import { BadResponse, ResponseReader, type ResponseHead, type ResponseSink } from './response-reader.ts';

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

	constructor(address: string, owner: ConnectionOwner) {
		this.#owner = owner;
		this.socket = connect(connectOptions(address));
		this.socket.setNoDelay(true);
		this.socket.once('connect', () => {
			this.connected = true;
			this.#owner.onConnected();
			this.#exchange?.onConnected();
		});
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
		this.socket.write(head, 'latin1');
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

	#read(chunk: Buffer): void {
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

/** How far an exchange had come when it failed: nothing was sent, no byte of the answer came, or the answer broke off. */
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
	/** The whole request, with its body, has been written. */
	requestSent(): boolean;
}

export interface ConnectionOwner {
	onConnected(): void;
	onConnectFailed(error: Error): void;
	onIdle(connection: Connection): void;
	onClosed(connection: Connection): void;
}

/** `unix:/path.sock`, `tcp:host:port` or `tcp:[v6]:port`. */
export function connectOptions(address: string): { path: string } | { host: string; port: number } {
	if (address.startsWith('unix:')) return { path: address.slice('unix:'.length) };
	const match = /^tcp:(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(address);
	if (!match) throw new Error(`not an instance's address: ${address}`);
	return { host: match[1] ?? match[2] ?? '', port: Number(match[3]) };
}

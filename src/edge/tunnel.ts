import { STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import type { MonotonicMs } from '#clock/clock.ts';
import { ACCESS_NAME } from '#wire/access.ts';
import { ANSWER_TIMEOUT_MS, Dispatch, type Destination, type EdgeContext } from './dispatch.ts';
import type { Inbound } from './inbound.ts';
import { answers, render, type Answer } from './pages.ts';
import { responseHeaders } from './response-headers.ts';
import type { ResponseHead } from './response-reader.ts';

/** A WebSocket: once the instance agrees, bytes pass both ways until either side ends. It stays with its release. */
export class Tunnel extends Dispatch {
	readonly #client: Duplex;
	/** What the client sent right behind its request. */
	readonly #early: Buffer;
	readonly #requestId: string;
	#switched = false;
	#joined = false;

	constructor(edge: EdgeContext, inbound: Inbound, client: Duplex, early: Buffer, route: Destination, requestId: string) {
		super(edge, inbound, route);
		this.#client = client;
		this.#early = early;
		this.#requestId = requestId;
		this.requestHead = inbound.head(requestId, ACCESS_NAME);
		edge.active.add(this);
		client.on('error', () => client.destroy());
		client.on('close', () => this.#clientGone());
		this.dispatch();
	}

	onConnected(): void {}
	onInformation(): void {}

	onWritable(): void {}

	onHead(head: ResponseHead): void {
		if (this.over) return;
		this.recordHead(head.status);
		if (head.status !== 101 && head.status < 300) return this.refuse(answers.noUpgrade(this.route.serving.app));
		this.#switched = head.status === 101;
		const extra = this.#switched ? ['connection', 'Upgrade', 'upgrade', this.inbound.upgrade ?? 'websocket'] : ['connection', 'close'];
		this.#client.write(headText(head.status, responseHeaders(head, this.releaseLabel, this.#requestId, extra)), 'latin1');
	}

	onBody(chunk: Buffer): void {
		if (!this.over) this.#client.write(chunk);
	}

	onRead(): void {
		if (this.#switched && !this.#joined && this.connection) this.#join();
	}

	onEnd(): void {
		this.connection = null;
		this.leaveUpstream();
		if (this.over) return;
		this.over = true;
		this.#client.end();
	}

	requestSent(): boolean {
		return true;
	}

	sweep(now: MonotonicMs): void {
		if (this.over || this.headSeen || !this.upstream || now - this.askedAt <= ANSWER_TIMEOUT_MS) return;
		this.recordFailure();
		this.refuse(answers.noAnswer(this.route.serving.app));
	}

	end(): void {
		this.cutOff();
	}

	protected canRepeat(): boolean {
		return true;
	}

	protected refuse(answer: Answer): void {
		if (this.over) return;
		this.drop();
		const { status, headers, body } = render(answer, this.inbound.header('accept') ?? '');
		this.#client.write(headText(status, [...headers, 'connection', 'close', 'x-request-id', this.#requestId]), 'latin1');
		this.#client.end(body);
	}

	protected cutOff(): void {
		this.drop();
		this.#client.destroy();
	}

	#join(): void {
		const instance = this.connection?.takeSocket();
		if (!instance) return;
		this.#joined = true;
		const client = this.#client;
		if (this.#early.length > 0) instance.write(this.#early);
		instance.on('close', () => {
			this.leaveUpstream();
			client.end();
			// Whatever had arrived has been passed on; a client that does not close its half is not waited for.
			this.edge.clock.after(HALF_CLOSED_MS, () => client.destroy(), { idle: true });
		});
		instance.pipe(client);
		client.pipe(instance);
	}

	#clientGone(): void {
		this.edge.active.delete(this);
		this.drop();
	}
}

const HALF_CLOSED_MS = 2_000;

function headText(status: number, headers: readonly string[]): string {
	let text = `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n`;
	for (let i = 0; i < headers.length; i += 2) text += `${headers[i]}: ${headers[i + 1]}\r\n`;
	return `${text}\r\n`;
}

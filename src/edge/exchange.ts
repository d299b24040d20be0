import type { ServerResponse } from 'node:http';
import type { MonotonicMs, Timer } from '#clock/clock.ts';
import { ACCESS_NAME } from '#wire/access.ts';
import { ANSWER_TIMEOUT_MS, Dispatch, type Destination, type EdgeContext } from './dispatch.ts';
import type { Inbound } from './inbound.ts';
import { answers, render, type Answer } from './pages.ts';
import type { ResponseHead } from './response-reader.ts';
import { responseHeaders } from './response-headers.ts';

/** An ordinary request and its answer, both streamed. */
export class Exchange extends Dispatch {
	readonly #res: ServerResponse;
	readonly #extra: readonly string[];
	readonly #requestId: string;
	#bodyStarted = false;
	#bodySent: boolean;
	#bodyAt: MonotonicMs = 0;
	#stalledAt: MonotonicMs = 0;
	#continueTimer: Timer | null = null;
	/** Head and first piece of the answer, until it is known whether that was all. */
	#head: ResponseHead | null = null;
	#first: Buffer | null = null;

	/** `extra`: headers for the answer, name and value by turns. */
	constructor(edge: EdgeContext, inbound: Inbound, res: ServerResponse, route: Destination, requestId: string, extra: readonly string[]) {
		super(edge, inbound, route);
		this.#res = res;
		this.#extra = extra;
		this.#requestId = requestId;
		this.#bodySent = !inbound.hasBody;
		this.requestHead = inbound.head(requestId, ACCESS_NAME);
		edge.active.add(this);
		res.on('close', () => this.#clientGone());
		this.dispatch();
	}

	onConnected(): void {
		if (this.#bodySent || this.#bodyStarted) return;
		if (!this.inbound.expectsContinue) return this.#sendBody();
		// Instances that know nothing of 100-continue never answer it.
		this.#continueTimer ??= this.edge.clock.after(CONTINUE_TIMEOUT_MS, () => this.#continue());
	}

	onInformation(status: number): void {
		if (status === 100) this.#continue();
	}

	onWritable(): void {
		if (this.#bodyStarted && !this.#bodySent) this.inbound.req.resume();
	}

	onHead(head: ResponseHead): void {
		if (head.status === 101) {
			this.recordFailure();
			return this.refuse(answers.brokenAnswer(this.route.serving.app));
		}
		this.recordHead(head.status);
		this.#head = head;
	}

	onBody(chunk: Buffer): void {
		if (this.over) return;
		if (this.#head !== null && this.#first === null) {
			this.#first = chunk;
			return;
		}
		this.onRead();
		this.#write(chunk);
	}

	/** The answer goes on, but what is here must not wait for the rest. */
	onRead(): void {
		if (this.#head === null || this.over) return;
		const head = this.#head;
		const first = this.#first;
		if (!this.#writeHead(head, head.length)) return;
		if (first !== null) this.#write(first);
		else this.#res.flushHeaders();
	}

	onEnd(): void {
		this.connection = null;
		this.leaveUpstream();
		if (this.over) return;
		const head = this.#head;
		const first = this.#first;
		if (head !== null) {
			const bodyless = this.inbound.method === 'HEAD' || head.status === 204 || head.status === 304;
			if (!this.#writeHead(head, bodyless ? head.length : (first?.length ?? 0))) return;
			if (first !== null) this.#res.end(first);
			else this.#res.end();
		} else this.#res.end();
		this.#finish();
	}

	requestSent(): boolean {
		return this.#bodySent;
	}

	/** Ends what takes too long. */
	sweep(now: MonotonicMs): void {
		if (this.#stalledAt !== 0 && now - this.#stalledAt > STALLED_CLIENT_MS) return this.cutOff();
		if (this.over) return;
		const bodyWaits = this.#bodyStarted && !this.#bodySent && !this.inbound.req.isPaused();
		if (bodyWaits && now - this.#bodyAt > BODY_IDLE_MS) {
			return this.headSeen ? this.cutOff() : this.refuse(answers.bodyTimeout());
		}
		if (this.upstream && this.#bodySent && !this.headSeen && now - Math.max(this.askedAt, this.#bodyAt) > ANSWER_TIMEOUT_MS) {
			this.recordFailure();
			this.refuse(answers.noAnswer(this.route.serving.app));
		}
	}

	end(): void {
		this.cutOff();
	}

	protected canRepeat(): boolean {
		return !this.inbound.hasBody;
	}

	protected refuse(answer: Answer): void {
		if (this.over) return;
		this.drop();
		const { status, headers, body } = render(answer, this.inbound.header('accept') ?? '');
		headers.push('x-request-id', this.#requestId);
		// The rest of a body that nobody reads would be taken for the next request.
		if (this.edge.closing || this.inbound.hasBody) headers.push('connection', 'close');
		if (this.#res.headersSent) this.#res.destroy();
		else this.#res.writeHead(status, headers).end(this.inbound.method === 'HEAD' ? undefined : body);
		this.#finish();
	}

	protected cutOff(): void {
		this.drop();
		this.edge.active.delete(this);
		this.#continueTimer?.cancel();
		// A client must see that this was not the whole answer.
		this.#res.destroy();
	}

	#writeHead(head: ResponseHead, length: number | null): boolean {
		this.#head = null;
		this.#first = null;
		const close = this.edge.closing || (this.inbound.expectsContinue && !this.#bodyStarted);
		try {
			const headers = responseHeaders(head, this.releaseLabel, this.#requestId, this.#extra);
			if (length !== null && head.status !== 204 && (length > 0 || head.status !== 304)) headers.push('content-length', String(length));
			if (close) headers.push('connection', 'close');
			this.#res.writeHead(head.status, head.reason, headers);
			return true;
		} catch (error) {
			// node:http refuses characters that no header may have.
			this.edge.log.info('instance.bad_header', { app: this.route.serving.app, release: this.upstream?.release, error });
			this.refuse(answers.brokenAnswer(this.route.serving.app));
			return false;
		}
	}

	#write(chunk: Buffer): void {
		if (this.#res.write(chunk) || this.#stalledAt !== 0) return;
		this.#stalledAt = this.edge.clock.monotonic();
		this.connection?.socket.pause();
		this.#res.once('drain', () => {
			this.#stalledAt = 0;
			this.connection?.socket.resume();
		});
	}

	#continue(): void {
		this.#continueTimer?.cancel();
		if (this.over || this.#bodyStarted || this.#bodySent || !this.inbound.expectsContinue) return;
		this.#res.writeContinue();
		this.#sendBody();
	}

	#sendBody(): void {
		const { req } = this.inbound;
		const chunked = req.headers['content-length'] === undefined;
		this.#bodyStarted = true;
		this.#bodyAt = this.edge.clock.monotonic();
		req.on('data', (chunk: Buffer) => {
			this.#bodyAt = this.edge.clock.monotonic();
			const socket = this.connection?.socket;
			if (!socket) return;
			if (chunked) socket.write(`${chunk.length.toString(16)}\r\n`, 'latin1');
			let ready = socket.write(chunk);
			if (chunked) ready = socket.write('\r\n', 'latin1');
			if (!ready) req.pause();
		});
		req.on('end', () => {
			this.#bodySent = true;
			this.#bodyAt = this.edge.clock.monotonic();
			if (chunked) this.connection?.socket.write('0\r\n\r\n', 'latin1');
		});
	}

	#clientGone(): void {
		if (!this.over) this.drop();
		this.edge.active.delete(this);
		this.#continueTimer?.cancel();
	}

	/** Nothing is expected of the instance any more; the rest of the client's body has a moment to arrive. */
	#finish(): void {
		this.over = true;
		this.#continueTimer?.cancel();
		// The last piece may still wait for a client that does not read.
		this.#stalledAt = this.edge.clock.monotonic();
		const { req } = this.inbound;
		if (this.#bodySent || req.complete) return;
		req.resume();
		this.edge.clock.after(LINGER_MS, () => {
			if (!req.complete) req.socket.destroy();
		}, { idle: true }); // prettier-ignore
	}
}

/** After this long the body of a `100-continue` request is sent unasked. */
const CONTINUE_TIMEOUT_MS = 1_000;
/** A body of which nothing comes for this long. */
const BODY_IDLE_MS = 30_000;
/** A client that does not read. */
const STALLED_CLIENT_MS = 60_000;
/** For the rest of a body after its answer was sent. */
const LINGER_MS = 5_000;

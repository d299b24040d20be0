/**
 * Reads the responses of one HTTP/1.1 connection to an instance. Strict: whatever leaves doubt about where a response
 * ends is an error, and the connection is not used again. (node:http's client does the same at a third of the speed.)
 */
export class ResponseReader {
	#state: 'idle' | 'head' | 'length' | 'chunk-size' | 'chunk' | 'chunk-end' | 'trailer' | 'until-close' = 'idle';
	#toHead = false;
	#sink: ResponseSink | null = null;
	#kept: Buffer | null = null;
	#left = 0;
	#informed = 0;
	#keepAlive = false;

	/** The next bytes answer one request; `toHead`: it was a HEAD, whose answer has no body. */
	expect(sink: ResponseSink, toHead: boolean): void {
		this.#sink = sink;
		this.#toHead = toHead;
		this.#state = 'head';
		this.#informed = 0;
	}

	/** A whole response has been read, and nothing is owed. */
	get idle(): boolean {
		return this.#state === 'idle';
	}

	/** @throws BadResponse */
	push(chunk: Buffer): void {
		let rest = chunk;
		if (this.#kept !== null) {
			rest = Buffer.concat([this.#kept, chunk]);
			this.#kept = null;
		}
		while (rest.length > 0) {
			const used = this.#step(rest);
			if (used === 0) {
				this.#keep(rest);
				return;
			}
			rest = used === rest.length ? EMPTY : rest.subarray(used);
		}
	}

	/** The instance has closed the connection. @throws BadResponse when a response was cut off by it */
	end(): void {
		if (this.#state === 'idle') return;
		if (this.#state !== 'until-close') throw new BadResponse('closed', 'the instance closed the connection before its response was whole');
		this.#finish(false);
	}

	/** Consumes something from the start of `bytes`; 0: more is needed. */
	#step(bytes: Buffer): number {
		switch (this.#state) {
			case 'idle':
				throw new BadResponse('unasked', 'the instance sent more than its response');
			case 'head':
				return this.#readHead(bytes);
			case 'length':
			case 'chunk':
				return this.#readBody(bytes);
			case 'until-close':
				this.#sink?.onBody(bytes);
				return bytes.length;
			case 'chunk-size':
				return this.#readChunkSize(bytes);
			case 'chunk-end':
				if (bytes.length < 2) return 0;
				if (bytes[0] !== CR || bytes[1] !== LF) throw new BadResponse('chunk', 'a chunk is longer than its size');
				this.#state = 'chunk-size';
				return 2;
			case 'trailer':
				return this.#readTrailer(bytes);
		}
	}

	#readHead(bytes: Buffer): number {
		const end = bytes.indexOf(HEAD_END);
		if (end === -1) return 0;
		if (end > MAX_HEAD_BYTES) throw new BadResponse('head_too_large', `the response's head is larger than ${MAX_HEAD_BYTES} bytes`);
		const head = parseHead(bytes.toString('latin1', 0, end));
		const used = end + HEAD_END.length;
		if (head.status < 200 && head.status !== 101) {
			if (++this.#informed > MAX_INFORMATIONAL) throw new BadResponse('informational', 'the instance sends 1xx answers without end');
			this.#sink?.onInformation(head.status);
			return used;
		}
		this.#keepAlive = head.keepAlive;
		if (head.status === 101) {
			this.#state = 'until-close';
			this.#sink?.onHead(head);
			return used;
		}
		const none = this.#toHead || head.status === 204 || head.status === 304;
		if (none || head.length === 0) {
			this.#sink?.onHead(head);
			this.#finish(head.keepAlive);
			return used;
		}
		this.#left = head.length ?? 0;
		this.#state = head.chunked ? 'chunk-size' : head.length === null ? 'until-close' : 'length';
		this.#sink?.onHead(head);
		return used;
	}

	#readBody(bytes: Buffer): number {
		const length = Math.min(bytes.length, this.#left);
		this.#left -= length;
		this.#sink?.onBody(length === bytes.length ? bytes : bytes.subarray(0, length));
		if (this.#left === 0) {
			if (this.#state === 'chunk') this.#state = 'chunk-end';
			else this.#finish(this.#keepAlive);
		}
		return length;
	}

	#readChunkSize(bytes: Buffer): number {
		const end = bytes.indexOf('\r\n', 0, 'latin1');
		if (end === -1) return 0;
		const line = bytes.toString('latin1', 0, end);
		const digits = /^([0-9a-fA-F]{1,12})[ \t]*(?:;.*)?$/.exec(line)?.[1];
		if (digits === undefined) throw new BadResponse('chunk', `not a chunk size: ${JSON.stringify(line.slice(0, 40))}`);
		this.#left = Number.parseInt(digits, 16);
		this.#state = this.#left === 0 ? 'trailer' : 'chunk';
		return end + 2;
	}

	/** Trailers are read over and dropped. */
	#readTrailer(bytes: Buffer): number {
		const end = bytes.indexOf('\r\n', 0, 'latin1');
		if (end === -1) return 0;
		if (end === 0) this.#finish(this.#keepAlive);
		return end + 2;
	}

	#finish(keepAlive: boolean): void {
		const sink = this.#sink;
		this.#sink = null;
		this.#state = 'idle';
		sink?.onEnd(keepAlive);
	}

	#keep(rest: Buffer): void {
		const most = this.#state === 'head' ? MAX_HEAD_BYTES : MAX_LINE_BYTES;
		if (rest.length > most) throw new BadResponse('head_too_large', `more than ${most} bytes in a ${this.#state}`);
		this.#kept = rest;
	}
}

export interface ResponseSink {
	/** A 1xx answer other than 101. */
	onInformation(status: number): void;
	onHead(head: ResponseHead): void;
	onBody(chunk: Buffer): void;
	/** The response is whole; `keepAlive`: the connection may be asked again. */
	onEnd(keepAlive: boolean): void;
}

export interface ResponseHead {
	status: number;
	reason: string;
	/** Name, value, name, value, as they came. */
	headers: string[];
	/** Null: until the end of the connection, or chunked. */
	length: number | null;
	chunked: boolean;
	keepAlive: boolean;
	/** The idle time that the instance announced for the connection, if it did. */
	idleMs: number | null;
}

export class BadResponse extends Error {
	readonly code: string;
	constructor(code: string, message: string) {
		super(message);
		this.code = code;
	}
}

const EMPTY = Buffer.alloc(0);
const HEAD_END = Buffer.from('\r\n\r\n');
const CR = 13;
const LF = 10;
const MAX_HEAD_BYTES = 64 * 1024;
const MAX_LINE_BYTES = 8 * 1024;
const MAX_INFORMATIONAL = 32;

/** `text`: a response's head without the empty line at its end. */
function parseHead(text: string): ResponseHead {
	const lines = text.split('\r\n');
	const first = lines[0] ?? '';
	if (!first.startsWith('HTTP/1.') || (first[7] !== '1' && first[7] !== '0') || first[8] !== ' ') {
		throw new BadResponse('status_line', `not a status line of HTTP/1: ${JSON.stringify(first.slice(0, 60))}`);
	}
	const status = Number(first.slice(9, 12));
	if (!(status >= 100 && status <= 599) || (first.length > 12 && first[12] !== ' ')) {
		throw new BadResponse('status_line', `not a status: ${JSON.stringify(first.slice(0, 60))}`);
	}
	const head: ResponseHead = {
		status,
		reason: first.slice(13),
		headers: [],
		length: null,
		chunked: false,
		keepAlive: first[7] === '1',
		idleMs: null,
	};
	for (let i = 1; i < lines.length; i++) readHeader(head, lines[i] as string);
	if (head.chunked && head.length !== null) throw new BadResponse('framing', 'both content-length and transfer-encoding');
	return head;
}

function readHeader(head: ResponseHead, line: string): void {
	const colon = line.indexOf(':');
	if (colon < 1 || line[0] === ' ' || line[0] === '\t')
		throw new BadResponse('header', `not a header: ${JSON.stringify(line.slice(0, 60))}`);
	const name = line.slice(0, colon);
	const value = line.slice(colon + 1).trim();
	head.headers.push(name, value);
	// Only names of these lengths decide how the response is framed.
	switch (name.length) {
		case 10:
			if (name.toLowerCase() === 'connection') readConnection(head, value.toLowerCase());
			else if (name.toLowerCase() === 'keep-alive') head.idleMs = readIdle(value);
			return;
		case 14:
			if (name.toLowerCase() === 'content-length') readLength(head, value);
			return;
		case 17:
			if (name.toLowerCase() === 'transfer-encoding') readEncoding(head, value);
			return;
	}
}

function readConnection(head: ResponseHead, value: string): void {
	if (value.includes('close')) head.keepAlive = false;
	else if (value.includes('keep-alive')) head.keepAlive = true;
}

function readIdle(value: string): number | null {
	const seconds = /timeout=(\d{1,6})/i.exec(value)?.[1];
	return seconds === undefined ? null : Number(seconds) * 1000;
}

function readLength(head: ResponseHead, value: string): void {
	const length = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN;
	if (Number.isNaN(length) || (head.length !== null && head.length !== length)) {
		throw new BadResponse('framing', `not one content-length: ${JSON.stringify(value.slice(0, 40))}`);
	}
	head.length = length;
}

function readEncoding(head: ResponseHead, value: string): void {
	if (value.toLowerCase() !== 'chunked' || head.chunked) {
		throw new BadResponse('framing', `transfer-encoding ${JSON.stringify(value.slice(0, 40))} was not asked for`);
	}
	head.chunked = true;
}

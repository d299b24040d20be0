/** git's framing: four hex digits of length, the bytes; `0000` ends a section. */

export const FLUSH = '0000';
const LENGTH_BYTES = 4;
/** Of one side-band packet, its length and its band among them. */
const MAX_SIDEBAND_BYTES = 65_520;

export type Band = 1 | 2 | 3;

export function pktLine(text: string | Uint8Array): Buffer {
	const bytes = Buffer.from(text);
	return Buffer.concat([Buffer.from((bytes.length + LENGTH_BYTES).toString(16).padStart(LENGTH_BYTES, '0')), bytes]);
}

/** Bytes on a band of their own (1: data, 2: words for a person, 3: the last words), in as many packets as they need. */
export function onBand(band: Band, text: string | Uint8Array): Buffer {
	const bytes = Buffer.from(text);
	const most = MAX_SIDEBAND_BYTES - LENGTH_BYTES - 1;
	const packets: Buffer[] = [];
	for (let at = 0; at < bytes.length || at === 0; at += most) {
		packets.push(pktLine(Buffer.concat([Buffer.from([band]), bytes.subarray(at, at + most)])));
	}
	return Buffer.concat(packets);
}

/** What `onBand` made, or a program that speaks so: its data as text, and its words line by line. */
export function readBands(bytes: Buffer): { data: string; words: string[] } {
	const bands: Record<number, string> = {};
	for (let at = 0; at + LENGTH_BYTES <= bytes.length;) {
		const length = Number.parseInt(bytes.toString('latin1', at, at + LENGTH_BYTES), 16);
		if (!(length > LENGTH_BYTES)) break;
		const band = bytes[at + LENGTH_BYTES]!;
		bands[band] = (bands[band] ?? '') + bytes.toString('utf8', at + LENGTH_BYTES + 1, at + length);
		at += length;
	}
	const words = `${bands[2] ?? ''}\n${bands[3] ?? ''}`.split('\n');
	return { data: bands[1] ?? '', words: words.filter((line) => line.trim() !== '') };
}

export class PktError extends Error {}

/** Reads a section of lines off the front of a stream, and leaves what comes behind it. */
export class PktReader {
	private held: Buffer = Buffer.alloc(0);
	private readonly source: AsyncIterator<Buffer>;
	private readonly maxBytes: number;

	constructor(source: AsyncIterable<Buffer>, maxBytes: number) {
		this.source = source[Symbol.asyncIterator]();
		this.maxBytes = maxBytes;
	}

	/** The lines up to the flush; null when the stream ends before its first. @throws PktError */
	async section(): Promise<Buffer[] | null> {
		const lines: Buffer[] = [];
		let bytes = 0;
		for (;;) {
			const head = await this.take(LENGTH_BYTES, lines.length === 0 && bytes === 0);
			if (head === null) return null;
			const digits = head.toString('latin1');
			if (digits === FLUSH) return lines;
			const length = /^[0-9a-f]{4}$/i.test(digits) ? Number.parseInt(digits, 16) : 0;
			if (length <= LENGTH_BYTES) throw new PktError('this is not what git sends');
			bytes += length;
			if (bytes > this.maxBytes) throw new PktError(`more than ${this.maxBytes} bytes of commands`);
			lines.push((await this.take(length - LENGTH_BYTES, false))!);
		}
	}

	/** Everything behind the last section that was read. */
	async *rest(): AsyncGenerator<Buffer> {
		if (this.held.length > 0) yield this.held;
		this.held = Buffer.alloc(0);
		for (;;) {
			const next = await this.source.next();
			if (next.done) return;
			yield next.value;
		}
	}

	private async take(count: number, mayEnd: boolean): Promise<Buffer | null> {
		while (this.held.length < count) {
			const next = await this.source.next();
			if (!next.done) this.held = Buffer.concat([this.held, next.value]);
			else if (mayEnd && this.held.length === 0) return null;
			else throw new PktError('it ended in the middle of a line');
		}
		const taken = this.held.subarray(0, count);
		this.held = this.held.subarray(count);
		return taken;
	}
}

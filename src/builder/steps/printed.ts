import type { BuildLogLine } from '#wire/builds.ts';
import { scrubber, type Scrub } from '#log/scrub.ts';

/** What a step prints, line by line, without what is secret: told at once, and kept for whoever asks for it again. */

export interface PrintedLine {
	stream: BuildLogLine['stream'];
	text: string;
}

const MAX_LINE_CHARS = 65_536;
const CUT = ' …';
/** Of the beginning and of the end each. */
const KEPT_CHARS = 1024 * 1024;
const TAIL_LINES = 30;

export class Printed {
	readonly #tell: (line: PrintedLine) => void;
	readonly #scrub: Scrub;
	readonly #rest = { out: '', err: '' };
	readonly #decoders = { out: new TextDecoder(), err: new TextDecoder() };
	readonly #head: PrintedLine[] = [];
	#headChars = 0;
	#tail: PrintedLine[] = [];
	#tailChars = 0;
	#dropped = 0;

	constructor(tell: (line: PrintedLine) => void, secrets: Readonly<Record<string, string>>) {
		this.#tell = tell;
		this.#scrub = scrubber(Object.entries(secrets).map(([name, value]) => ({ name, value })));
	}

	add(stream: 'out' | 'err', bytes: Buffer): void {
		const text = this.#rest[stream] + this.#decoders[stream].decode(bytes, { stream: true });
		const lines = text.split('\n');
		this.#rest[stream] = lines.pop() ?? '';
		for (const line of lines) this.#line(stream, this.#scrub(line.replace(/\r$/, '')));
		if (this.#rest[stream].length > MAX_LINE_CHARS) {
			// Its end may be the first half of something that is not to be told.
			const clean = this.#scrub(this.#rest[stream]);
			const end = Math.max(1, clean.length - this.#scrub.holdCharacters);
			this.#line(stream, clean.slice(0, end));
			this.#rest[stream] = clean.slice(end);
		}
	}

	/** Of Jibe itself. */
	say(text: string): void {
		this.#line('jibe', text);
	}

	end(): void {
		for (const stream of ['out', 'err'] as const) {
			const line = this.#scrub(this.#rest[stream] + this.#decoders[stream].decode());
			this.#rest[stream] = '';
			if (line !== '') this.#line(stream, line);
		}
	}

	kept(): PrintedLine[] {
		const missing: PrintedLine[] = this.#dropped === 0 ? [] : [{ stream: 'jibe', text: `… ${this.#dropped} lines are left out` }];
		return [...this.#head, ...missing, ...this.#tail];
	}

	text(): string {
		return this.kept().map(({ text }) => text).join('\n'); // prettier-ignore
	}

	/** The last lines, for whoever asks why it failed. */
	tail(): string {
		const said = this.kept().filter(({ stream, text }) => stream !== 'jibe' && text.trim() !== '');
		return said.slice(-TAIL_LINES).map(({ text }) => text).join('\n'); // prettier-ignore
	}

	#line(stream: PrintedLine['stream'], text: string): void {
		const line = { stream, text: text.length > MAX_LINE_CHARS ? text.slice(0, MAX_LINE_CHARS - CUT.length) + CUT : text };
		this.#keep(line);
		this.#tell(line);
	}

	#keep(line: PrintedLine): void {
		if (this.#headChars < KEPT_CHARS) {
			this.#head.push(line);
			this.#headChars += line.text.length + 1;
			return;
		}
		this.#tail.push(line);
		this.#tailChars += line.text.length + 1;
		// Now and then, not with every line: each time costs as much as what is kept.
		if (this.#tailChars < KEPT_CHARS * 2) return;
		let from = 0;
		for (; this.#tailChars > KEPT_CHARS; from++) this.#tailChars -= this.#tail[from]!.text.length + 1;
		this.#tail = this.#tail.slice(from);
		this.#dropped += from;
	}
}

export function encodeLog(lines: readonly PrintedLine[]): Buffer {
	return Buffer.from(lines.map(({ stream, text }) => `${JSON.stringify([stream, text])}\n`).join(''));
}

/** @throws SyntaxError, TypeError */
export function decodeLog(bytes: Uint8Array): PrintedLine[] {
	const lines = Buffer.from(bytes).toString().split('\n').filter(Boolean);
	return lines.map((line) => {
		const [stream, text] = JSON.parse(line) as [PrintedLine['stream'], string];
		if (!['out', 'err', 'jibe'].includes(stream) || typeof text !== 'string') throw new TypeError('a line of the log is none');
		return { stream, text };
	});
}

import { closeSync, copyFileSync, fstatSync, openSync, readSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { STAMP } from './runtimes/fetch/output.ts';
import type { Scrub } from '#log/scrub.ts';

/** An instance's output: one file that it appends to, kept small by whoever looks after it, with one older part. */

export const MAX_LOG_FILE_BYTES = 8 * 1024 * 1024;
const TAIL_BYTES = 16 * 1024;
const MAX_DETAIL_BYTES = 3_000;

export interface LogLine {
	at: number;
	stream: 'out' | 'err';
	text: string;
}

/** Moves a file that has grown too large to `<file>.1`; whoever appends to it goes on in the emptied one. */
export function trimLog(file: string): void {
	try {
		if (statSync(file).size <= MAX_LOG_FILE_BYTES) return;
		copyFileSync(file, `${file}.1`);
		truncateSync(file);
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
	}
}

/** Of an instance that has ended: nobody appends to it any more. */
export function scrubFile(file: string, scrub: Scrub): void {
	// Tokens of known kinds are taken out whenever it is read.
	if (scrub.holdCharacters === 0) return;
	const text = readFrom(file, () => 0)?.text ?? '';
	const clean = text.split('\n').map(scrub).join('\n');
	if (clean !== text) writeFileSync(file, clean);
}

/** For error texts. */
export function lastLines(file: string, count: number): string {
	const text = readFrom(file, (size) => Math.max(0, size - TAIL_BYTES))?.text ?? '';
	const lines = text.split('\n').filter((line) => line !== '').slice(-count); // prettier-ignore
	return lines.map((line) => parseLine(line, 0).text).join('\n').slice(-MAX_DETAIL_BYTES); // prettier-ignore
}

/** Lines from `offset` on; `next` is where the following read begins. `before` is the time given to lines without a stamp. */
export function readLines(file: string, offset: number, before: number): { lines: LogLine[]; next: number } {
	const part = readFrom(file, (size) => (offset > size ? 0 : offset));
	if (!part) return { lines: [], next: 0 };
	const end = part.text.lastIndexOf('\n') + 1;
	let at = before;
	const lines = part.text.slice(0, end).split('\n').slice(0, -1).map((line) => {
		const parsed = parseLine(line, at);
		at = parsed.at;
		return parsed;
	}); // prettier-ignore
	return { lines, next: part.start + Buffer.byteLength(part.text.slice(0, end)) };
}

function parseLine(line: string, before: number): LogLine {
	if (line.startsWith(STAMP)) {
		const match = /^.(\d{1,15}) ([oe]) (.*)$/s.exec(line);
		if (match) return { at: Number(match[1]), stream: match[2] === 'o' ? 'out' : 'err', text: match[3] ?? '' };
	}
	// What a logger's own thread writes past the stamps are objects; what Node says of a crash never begins as one.
	return { at: before, stream: line.startsWith('{') ? 'out' : 'err', text: line };
}

function readFrom(file: string, from: (size: number) => number): { text: string; start: number } | null {
	let descriptor: number;
	try {
		descriptor = openSync(file, 'r');
	} catch {
		return null; // no output yet
	}
	try {
		const size = fstatSync(descriptor).size;
		const start = from(size);
		const buffer = Buffer.alloc(Math.min(size - start, 2 * MAX_LOG_FILE_BYTES));
		const length = readSync(descriptor, buffer, 0, buffer.length, start);
		return { text: buffer.subarray(0, length).toString(), start };
	} finally {
		closeSync(descriptor);
	}
}

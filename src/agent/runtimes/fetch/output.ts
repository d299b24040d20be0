import { writeSync } from 'node:fs';
import { systemClock } from '#clock/clock.ts';
import type { Scrub } from '#log/scrub.ts';

/**
 * Standard output and error of an app are one file that the agent keeps small. Each line that goes through
 * `process.stdout` or `process.stderr` is stamped with its time and stream: `<RS>1763676000123 o text`. What is written
 * past them (a child process, a native crash) stays as it is.
 */
export const STAMP = '\u001e';
export const MAX_LOG_LINE_BYTES = 64 * 1024;
/** A line without an end is written after so much, so that an app that prints dots loses nothing and costs no memory. */
const CUT = ' … (line cut at 64 KiB)';

/** Whole lines go through `scrub`: a value that came in two writes is in one of them. */
export function stampOutput(scrub: Scrub): void {
	stamp(process.stdout, 1, 'o', scrub);
	stamp(process.stderr, 2, 'e', scrub);
}

type Done = (error?: Error | null) => void;

function stamp(stream: NodeJS.WriteStream, descriptor: number, letter: string, scrub: Scrub): void {
	let rest = '';
	const flush = (text: string) => {
		try {
			writeSync(descriptor, text);
		} catch {
			// The disk is full, or the limit is reached: an app must not die of its own log.
		}
	};
	const take = (text: string) => {
		let out = '';
		const lines = (rest + text).split('\n');
		rest = lines.pop() ?? '';
		for (const line of lines) out += `${STAMP}${systemClock.now()} ${letter} ${cut(scrub(line))}\n`;
		if (rest.length > MAX_LOG_LINE_BYTES) {
			// Its end may be the first half of something that is not to be written.
			const clean = scrub(rest);
			const end = Math.max(0, clean.length - scrub.holdCharacters);
			out += `${STAMP}${systemClock.now()} ${letter} ${cut(clean.slice(0, end))}\n`;
			rest = clean.slice(end);
		}
		if (out !== '') flush(out);
	};
	stream.write = (chunk: Uint8Array | string, encoding?: BufferEncoding | Done, done?: Done): boolean => {
		const callback = typeof encoding === 'function' ? encoding : done;
		take(typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString());
		if (callback) process.nextTick(callback, null);
		return true;
	};
	process.on('exit', () => {
		if (rest !== '') take('\n');
	});
}

function cut(line: string): string {
	return line.length > MAX_LOG_LINE_BYTES ? line.slice(0, MAX_LOG_LINE_BYTES - CUT.length) + CUT : line;
}

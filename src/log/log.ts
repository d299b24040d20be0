import { writeSync } from 'node:fs';
import { isoTime, systemClock } from '#clock/clock.ts';

export type Level = 'debug' | 'info' | 'warn' | 'error';
type Fields = Record<string, unknown>;

export interface Log {
	debug(event: string, fields?: Fields): void;
	info(event: string, fields?: Fields): void;
	warn(event: string, fields?: Fields): void;
	error(event: string, fields?: Fields): void;
	/** The same log with these fields on every line. */
	with(fields: Fields): Log;
}

const LEVELS: readonly Level[] = ['debug', 'info', 'warn', 'error'];

/** One JSON object a line on `write` (standard error by default); errors in fields are written with name, message, code, stack and cause. */
export function createLog(fields: Fields, options: { level?: Level; write?: (line: string) => void } = {}): Log {
	const least = LEVELS.indexOf(options.level ?? 'info');
	const write = options.write ?? writeLine;
	const emit = (level: Level, event: string, more: Fields = {}) => {
		if (LEVELS.indexOf(level) < least) return;
		write(`${JSON.stringify({ at: isoTime(systemClock.now()), level, event, ...fields, ...more }, plainError)}\n`);
	};
	return {
		debug: (event, more) => emit('debug', event, more),
		info: (event, more) => emit('info', event, more),
		warn: (event, more) => emit('warn', event, more),
		error: (event, more) => emit('error', event, more),
		with: (more) => createLog({ ...fields, ...more }, options),
	};
}

/** Lines that could not be written since the last one that was. */
let lost = 0;

/** A full disk must not end the program that wants to tell of it: an `error` event of process.stderr would. */
function writeLine(line: string): void {
	try {
		if (lost > 0)
			writeSync(STANDARD_ERROR, `${JSON.stringify({ at: isoTime(systemClock.now()), level: 'warn', event: 'log.lost', lines: lost })}\n`);
		lost = 0;
		writeSync(STANDARD_ERROR, line);
	} catch (error) {
		// A pipe whose reader is slow: what waits for it is kept in memory.
		if ((error as NodeJS.ErrnoException).code === 'EAGAIN') process.stderr.write(line);
		else lost++;
	}
}

const STANDARD_ERROR = 2;

function plainError(_key: string, value: unknown): unknown {
	if (!(value instanceof Error)) return value;
	const { name, message, stack, cause } = value;
	return { name, message, code: (value as { code?: unknown }).code, stack, cause };
}

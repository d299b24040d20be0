/** A fault of the app that stops its build: where it is, what it says, what to do. */
export class BuildError extends Error {
	readonly code: BuildErrorCode;
	/** Relative to the app's directory. */
	readonly file: string | null;
	/** From 1. */
	readonly line: number | null;
	readonly column: number | null;
	/** The lines around it, with a mark. */
	readonly frame: string | null;
	/** What to do. */
	readonly hint: string | null;
	constructor(code: BuildErrorCode, message: string, at: Partial<Place> & { hint?: string; cause?: unknown } = {}) {
		super(message, at.cause === undefined ? undefined : { cause: at.cause });
		this.name = 'BuildError';
		this.code = code;
		this.file = at.file ?? null;
		this.line = at.line ?? null;
		this.column = at.column ?? null;
		this.frame = at.frame ?? null;
		this.hint = at.hint ?? null;
	}

	/** All of it for a terminal. */
	describe(): string {
		const place = this.file === null ? '' : `${this.file}${this.line === null ? '' : `:${this.line}:${this.column}`}: `;
		return [`${place}${this.message}`, this.frame, this.hint].filter((part) => part !== null).join('\n');
	}
}

export type BuildErrorCode =
	| 'syntax'
	| 'unresolved_import'
	| 'missing_export'
	| 'type_export'
	| 'const_enum'
	| 'no_fetch'
	| 'app_listens'
	| 'no_entry'
	| 'require_async'
	| 'unsupported'
	| 'no_lockfile'
	| 'bad_lockfile'
	| 'not_installed'
	| 'module_too_large'
	| 'changed_meanwhile'
	| 'bad_path'
	| 'bad_config';

/** Refused because of how the app is set up (exit 2), not because its code is wrong (exit 1). */
export function isUsage(code: BuildErrorCode): boolean {
	return code === 'no_lockfile' || code === 'bad_lockfile' || code === 'not_installed' || code === 'no_entry' || code === 'bad_config';
}

export interface Place {
	file: string;
	line: number;
	column: number;
	frame: string;
}

const FRAME_LINES = 2;
const FRAME_WIDTH = 160;

/** The place of a position in a text, with the lines around it. */
export function placeOf(file: string, text: string, offset: number): Place {
	const before = text.slice(0, offset);
	const line = before.split('\n').length;
	const column = offset - before.lastIndexOf('\n');
	const lines = text.split('\n');
	const first = Math.max(1, line - FRAME_LINES);
	let last = Math.min(lines.length, line + FRAME_LINES);
	while (last > line && lines[last - 1]?.trim() === '') last--;
	const width = String(last).length;
	const frame: string[] = [];
	for (let number = first; number <= last; number++) {
		const content = (lines[number - 1] ?? '').replaceAll('\t', '  ').replace(/\r$/, '').slice(0, FRAME_WIDTH);
		frame.push(`${number === line ? '>' : ' '} ${String(number).padStart(width)} | ${content}`);
		if (number !== line) continue;
		const indent = (lines[number - 1] ?? '').slice(0, column - 1).replaceAll('\t', '  ').length;
		frame.push(`  ${' '.repeat(width)} | ${' '.repeat(Math.min(indent, FRAME_WIDTH))}^`);
	}
	return { file, line, column, frame: frame.join('\n') };
}

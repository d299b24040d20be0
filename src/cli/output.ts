export interface Sinks {
	out(text: string): void;
	err(text: string): void;
	/** A terminal, where a line can take the place of the one before. */
	live: boolean;
}

const STANDARD: Sinks = {
	out: (text) => void process.stdout.write(text),
	err: (text) => void process.stderr.write(text),
	live: process.stderr.isTTY,
};

/** Progress goes to standard error, results to standard output; with `--json` the result is one line, the last. */
export class Output {
	readonly json: boolean;
	readonly #live: boolean;
	readonly #sinks: Sinks;
	#pending = false;

	constructor(json: boolean, sinks: Sinks = STANDARD) {
		this.json = json;
		this.#live = sinks.live && !json;
		this.#sinks = sinks;
	}

	/** A line that stays. */
	say(line: string): void {
		this.#clear();
		this.#sinks.err(`${line}\n`);
	}

	/** What is going on now: replaced by the next line on a terminal, not shown elsewhere. */
	now(line: string): void {
		if (!this.#live) return;
		this.#clear();
		const width = process.stderr.columns || 80;
		this.#sinks.err(line.length < width ? line : line.slice(0, width - 1));
		this.#pending = true;
	}

	/** The result: the object with `--json`, else the lines for a person. */
	result(object: object, lines: readonly string[]): void {
		this.#clear();
		if (this.json) this.#sinks.out(`${JSON.stringify(object)}\n`);
		else if (lines.length > 0) this.#sinks.out(`${lines.join('\n')}\n`);
	}

	/** A line of a result that has no end. */
	line(object: object, text: string): void {
		this.#sinks.out(`${this.json ? JSON.stringify(object) : text}\n`);
	}

	#clear(): void {
		if (!this.#pending) return;
		this.#sinks.err('\r\u001b[K');
		this.#pending = false;
	}
}

/** Rows under their headings, columns as wide as their widest cell. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
	const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
	return [head, ...rows].map((row) =>
		row
			.map((cell, column) => cell.padEnd(widths[column] ?? 0))
			.join('  ')
			.trimEnd(),
	);
}

/** `✓ text`, padded so that the notes in parentheses of successive lines stand under one another. */
export function done(text: string, note: string | null = null): string {
	return note === null ? `✓ ${text}` : `${`✓ ${text}`.padEnd(26)} (${note})`;
}

export function seconds(ms: number): string {
	return ms < 100 ? `${(ms / 1000).toFixed(2)}s` : `${(ms / 1000).toFixed(1)}s`;
}

export function count(n: number, noun: string): string {
	return `${n} ${noun}${n === 1 ? '' : 's'}`;
}

/** How long ago, in the largest unit that says something. */
export function ago(ms: number): string {
	const units: [number, string][] = [
		[86_400_000, 'd'],
		[3_600_000, 'h'],
		[60_000, 'min'],
	];
	for (const [size, unit] of units) if (ms >= size) return `${Math.floor(ms / size)} ${unit} ago`;
	return `${Math.max(0, Math.floor(ms / 1000))} s ago`;
}

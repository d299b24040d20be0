/**
 * JSON with comments and trailing commas, and where each value stands in the text: what people write by hand.
 * Imports nothing, so that the CLI's deploy path may read jibe.json without a validator.
 */
export function parseJsonc(text: string): Jsonc {
	if (text.length > MAX_TEXT_CHARS) throw new JsoncError(`longer than ${MAX_TEXT_CHARS} characters`, { line: 1, column: 1 });
	return new Reader(text).document();
}

const MAX_TEXT_CHARS = 1024 * 1024;
const MAX_DEPTH = 32;

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export type Path = readonly (string | number)[];

export interface Position {
	/** From 1. */
	line: number;
	/** From 1, in UTF-16 units. */
	column: number;
}

export interface Jsonc {
	value: Json;
	/** Where the member or item at this path begins (a member at its key), or null when the text has none. */
	locate: (path: Path) => Position | null;
}

export class JsoncError extends Error {
	readonly code = 'bad_json';
	readonly position: Position;
	constructor(message: string, position: Position) {
		super(message);
		this.position = position;
	}
}

/** `\s` of regular expressions is more than JSON's white space; a non-breaking space in a config file is worth telling. */
const SPACE = /[ \t\r\n]*/y;
const NUMBER = /-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/y;
const WORD = /[A-Za-z_$][\w$]*/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y; // eslint-disable-line no-control-regex

class Reader {
	readonly #text: string;
	readonly #places = new Map<string, number>();
	#at = 0;

	constructor(text: string) {
		this.#text = text;
		if (text.startsWith('\uFEFF')) this.#at = 1;
	}

	document(): Jsonc {
		const value = this.#value([]);
		this.#space();
		if (this.#at < this.#text.length) throw this.#error(`unexpected ${this.#here()} after the end of the document`);
		return {
			value,
			locate: (path) => {
				const at = this.#places.get(placeKey(path));
				return at === undefined ? null : position(this.#text, at);
			},
		};
	}

	#value(path: Path): Json {
		this.#space();
		if (path.length > MAX_DEPTH) throw this.#error(`nested deeper than ${MAX_DEPTH} levels`);
		// A member's place is its key, set before its value is read.
		if (!this.#places.has(placeKey(path))) this.#places.set(placeKey(path), this.#at);
		switch (this.#text[this.#at]) {
			case '{':
				return this.#object(path);
			case '[':
				return this.#array(path);
			case '"':
				return this.#string();
			default:
				return this.#scalar();
		}
	}

	#object(path: Path): Json {
		const value: { [key: string]: Json } = {};
		this.#at++;
		while (!this.#closes('}')) {
			const keyAt = this.#at;
			if (this.#text[this.#at] !== '"') throw this.#error(`expected a key in double quotes, found ${this.#here()}`);
			const key = this.#string();
			if (key === '__proto__') throw this.#error('"__proto__" is not allowed as a key', keyAt);
			if (Object.hasOwn(value, key)) throw this.#error(`the key ${JSON.stringify(key)} stands here a second time`, keyAt);
			this.#space();
			if (this.#text[this.#at] !== ':') throw this.#error(`expected ":" after the key ${JSON.stringify(key)}, found ${this.#here()}`);
			this.#at++;
			this.#places.set(placeKey([...path, key]), keyAt);
			value[key] = this.#value([...path, key]);
			this.#comma('}');
		}
		return value;
	}

	#array(path: Path): Json {
		const items: Json[] = [];
		this.#at++;
		while (!this.#closes(']')) {
			items.push(this.#value([...path, items.length]));
			this.#comma(']');
		}
		return items;
	}

	#closes(bracket: string): boolean {
		this.#space();
		if (this.#at >= this.#text.length) throw this.#error(`the text ends before "${bracket}"`);
		if (this.#text[this.#at] !== bracket) return false;
		this.#at++;
		return true;
	}

	#comma(bracket: string): void {
		this.#space();
		if (this.#text[this.#at] === ',') this.#at++;
		else if (this.#text[this.#at] !== bracket) throw this.#error(`expected "," or "${bracket}", found ${this.#here()}`);
	}

	#string(): string {
		const raw = this.#match(STRING);
		if (raw === null) throw this.#error('a string that does not end on its line, or holds a bad escape');
		return JSON.parse(raw) as string;
	}

	#scalar(): Json {
		const number = this.#match(NUMBER);
		if (number !== null) return Number(number);
		const start = this.#at;
		const word = this.#match(WORD);
		switch (word) {
			case 'true':
				return true;
			case 'false':
				return false;
			case 'null':
				return null;
			case null:
				throw this.#error(`expected a value, found ${this.#here()}`);
			default:
				throw this.#error(`expected a value, found ${word}: text needs double quotes`, start);
		}
	}

	#space(): void {
		for (;;) {
			this.#match(SPACE);
			if (this.#text.startsWith('//', this.#at)) {
				const end = this.#text.indexOf('\n', this.#at);
				this.#at = end === -1 ? this.#text.length : end;
			} else if (this.#text.startsWith('/*', this.#at)) {
				const end = this.#text.indexOf('*/', this.#at + 2);
				if (end === -1) throw this.#error('a comment that does not end');
				this.#at = end + 2;
			} else return;
		}
	}

	#match(pattern: RegExp): string | null {
		pattern.lastIndex = this.#at;
		const match = pattern.exec(this.#text);
		if (!match) return null;
		this.#at = pattern.lastIndex;
		return match[0];
	}

	#here(): string {
		const char = this.#text[this.#at];
		return char === undefined ? 'the end of the text' : JSON.stringify(char);
	}

	#error(message: string, at = this.#at): JsoncError {
		return new JsoncError(message, position(this.#text, at));
	}
}

function placeKey(path: Path): string {
	return JSON.stringify(path);
}

function position(text: string, at: number): Position {
	const before = text.slice(0, at);
	const lineStart = before.lastIndexOf('\n') + 1;
	return { line: before.split('\n').length, column: at - lineStart + 1 };
}

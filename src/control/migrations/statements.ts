import { createdBy, unsafeIn, type Node } from './rules.ts';

/** SQL files → what in them is not safe beside a release that serves, by PostgreSQL's own parser. */

/** In the text of a statement, or just before it: somebody looked at it. */
const ALLOWED = /\bjibe:allow\b/;
const MAX_FOUND = 50;

/** Each a line for a person: `migrations/7.sql:3: …`. */
export async function unsafeStatements(files: readonly { path: string; text: string }[]): Promise<string[]> {
	const parse = await parser();
	const read: { path: string; text: string; statements: Statement[] }[] = [];
	const found: string[] = [];
	for (const { path, text } of files) {
		try {
			read.push({ path, text, statements: statementsOf(text, await parse(text)) });
		} catch (error) {
			found.push(`${path}:${lineOf(text, positionOf(error))}: PostgreSQL would not read it: ${wordsOf(error)}`);
		}
	}
	const created = new Set(read.flatMap(({ statements }) => statements.flatMap(({ node }) => createdBy(node))));
	for (const { path, text, statements } of read) {
		for (const { node, from, words } of statements) {
			if (ALLOWED.test(words)) continue;
			for (const { rule, says } of unsafeIn(node, created)) found.push(`${path}:${lineOf(text, from)}: ${says} (${rule})`);
		}
	}
	return found.length <= MAX_FOUND ? found : [...found.slice(0, MAX_FOUND), `and ${found.length - MAX_FOUND} more`];
}

interface Statement {
	node: Node;
	/** Index of its first word. */
	from: number;
	/** With the comments before it. */
	words: string;
}

type Parsed = { stmts?: { stmt?: unknown; stmt_location?: number; stmt_len?: number }[] };

/** 1.7 MiB of WebAssembly: only where there is something to read. */
async function parser(): Promise<(text: string) => Promise<Parsed>> {
	const library = await import('libpg-query');
	await library.loadModule();
	return (text) => library.parse(text);
}

/** Places are told in bytes. */
function statementsOf(text: string, { stmts = [] }: Parsed): Statement[] {
	const bytes = Buffer.from(text);
	let end = 0;
	return stmts.flatMap(({ stmt, stmt_location: at = 0, stmt_len: length }) => {
		const from = bytes.subarray(0, at).toString().length;
		// From the end of the one before it: comments in front of the first word are not part of a statement.
		const words = bytes.subarray(end, length === undefined ? bytes.length : at + length).toString();
		end = length === undefined ? bytes.length : at + length;
		return typeof stmt === 'object' && stmt !== null ? [{ node: stmt as Node, from: from + skipped(text.slice(from)), words }] : [];
	});
}

/** White space and comments before the first word. */
function skipped(words: string): number {
	return /^(?:\s|--[^\n]*(?:\n|$)|\/\*[\s\S]*?\*\/)*/.exec(words)![0].length;
}

function lineOf(text: string, index: number): number {
	return text.slice(0, index).split('\n').length;
}

function positionOf(error: unknown): number {
	const details = (error as { sqlDetails?: { cursorPosition?: number } }).sqlDetails;
	return Math.max(0, (details?.cursorPosition ?? 1) - 1);
}

function wordsOf(error: unknown): string {
	return error instanceof Error ? error.message : String(error);
}

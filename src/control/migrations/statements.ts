import { createdBy, unsafeIn, type Node, type Unsafe } from './rules.ts';

/** SQL files → what in them is not safe beside a release that serves, by PostgreSQL's own parser. */

/** In the text of a statement, or just before it: somebody looked at it. */
const ALLOWED = /\bjibe:allow\b/;
const MAX_FOUND = 50;

/** Each a line for a person: `migrations/7.sql:3: …`. */
export async function unsafeStatements(files: readonly { path: string; text: string }[]): Promise<string[]> {
	const { parse, parseBlock } = await parser();
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
			const unsafe = 'DoStmt' in node ? await unsafeInBlock(words, { parse, parseBlock }, created) : unsafeIn(node, created);
			for (const { rule, says } of unsafe) found.push(`${path}:${lineOf(text, from)}: ${says} (${rule})`);
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

interface Parser {
	parse: (text: string) => Promise<Parsed>;
	/** A `do` block in PL/pgSQL, as PostgreSQL's own reader of it says. */
	parseBlock: (text: string) => Promise<unknown>;
}

/** 1.7 MiB of WebAssembly: only where there is something to read. */
async function parser(): Promise<Parser> {
	const library = await import('libpg-query');
	await library.loadModule();
	return { parse: (text) => library.parse(text), parseBlock: (text) => library.parsePlPgSQL(text) };
}

/** What a `do` block runs is judged like what stands outside of one; what it puts together as text can't be. */
async function unsafeInBlock(words: string, { parse, parseBlock }: Parser, created: ReadonlySet<string>): Promise<Unsafe[]> {
	const unread = (why: string): Unsafe => ({ rule: 'unread', harm: 'breaks', says: `${why}: what it runs was not checked` });
	try {
		const { statements, dynamic, block } = runBy(await parseBlock(words));
		if (!block) return [unread('a do block is not in PL/pgSQL')];
		const inner = await Promise.all(statements.map(parse));
		const nodes = inner.flatMap(({ stmts = [] }) =>
			stmts.flatMap(({ stmt }) => (typeof stmt === 'object' && stmt !== null ? [stmt as Node] : [])),
		);
		const all = new Set([...created, ...nodes.flatMap(createdBy)]);
		return [
			...nodes.flatMap((node) => unsafeIn(node, all)),
			...(dynamic ? [unread('a do block puts a statement together (execute)')] : []),
		];
	} catch (error) {
		return [unread(`a do block can't be read (${wordsOf(error)})`)];
	}
}

/** The statements of a block, wherever in it; those given to `execute` as one text, too. */
function runBy(tree: unknown): { statements: string[]; dynamic: boolean; block: boolean } {
	const found = { statements: [] as string[], dynamic: false, block: false };
	const queue: unknown[] = [tree];
	for (let node = queue.pop(); node !== undefined; node = queue.pop()) {
		if (typeof node !== 'object' || node === null) continue;
		for (const [kind, of] of Object.entries(node)) {
			queue.push(of);
			if (kind === 'PLpgSQL_stmt_block') found.block = true;
			if (kind === 'PLpgSQL_stmt_execsql') found.statements.push(queryOf((of as Node)['sqlstmt']));
			if (!DYNAMIC.has(kind)) continue;
			const literal = LITERAL.exec(queryOf((of as Node)['query']))?.[1];
			if (literal === undefined) found.dynamic = true;
			else found.statements.push(literal.replaceAll("''", "'"));
		}
	}
	return found;
}

const DYNAMIC: ReadonlySet<string> = new Set(['PLpgSQL_stmt_dynexecute', 'PLpgSQL_stmt_dynfors']);
const LITERAL = /^\s*'((?:[^'\\]|'')*)'\s*$/;

function queryOf(expression: unknown): string {
	const { query } = ((expression as Node | undefined)?.['PLpgSQL_expr'] ?? {}) as { query?: unknown };
	return typeof query === 'string' ? query : '';
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

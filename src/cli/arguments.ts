import { nearest } from '#wire/nearest.ts';
import { usage } from './failure.ts';

/** What a verb takes. `flag`: stands alone; `value`: needs a value; `list`: may be given several times or with commas. */
export type OptionKind = 'flag' | 'value' | 'list';

export interface Syntax {
	options: Readonly<Record<string, OptionKind>>;
	/** Names of positional arguments for error texts; those from `optional` on may be left out. */
	positionals: readonly string[];
	optional: number;
}

/** Options that every verb takes. */
export const COMMON: Readonly<Record<string, OptionKind>> = {
	json: 'flag',
	verbose: 'flag',
	help: 'flag',
	env: 'value',
	data: 'value',
};

const SHORT: Readonly<Record<string, string>> = { f: 'follow', h: 'help', v: 'verbose' };

export interface Arguments {
	flag(name: string): boolean;
	value(name: string): string | null;
	list(name: string): string[] | null;
	positionals: string[];
}

/** @throws Failure (usage) that names the nearest known option */
export function parseArguments(words: readonly string[], syntax: Syntax): Arguments {
	const known = { ...COMMON, ...syntax.options };
	const found = new Map<string, string[]>();
	const positionals: string[] = [];
	for (let i = 0; i < words.length; i++) {
		const word = words[i] ?? '';
		if (word === '--') {
			positionals.push(...words.slice(i + 1));
			break;
		}
		if (!word.startsWith('-') || word === '-') {
			positionals.push(word);
			continue;
		}
		const { name, inline } = splitOption(word);
		const kind = known[name];
		if (kind === undefined) throw unknownOption(word, name, known);
		if (kind === 'flag') {
			if (inline !== null) throw usage(`--${name} takes no value`);
			found.set(name, ['true']);
			continue;
		}
		const value = inline ?? words[++i];
		if (value === undefined) throw usage(`--${name} needs a value`);
		found.set(name, [...(kind === 'list' ? (found.get(name) ?? []) : []), value]);
	}
	if (found.has('help')) return view(found, positionals);
	checkPositionals(positionals, syntax);
	return view(found, positionals);
}

function splitOption(word: string): { name: string; inline: string | null } {
	if (!word.startsWith('--')) return { name: SHORT[word.slice(1)] ?? word.slice(1), inline: null };
	const equals = word.indexOf('=');
	return equals < 0 ? { name: word.slice(2), inline: null } : { name: word.slice(2, equals), inline: word.slice(equals + 1) };
}

function unknownOption(word: string, name: string, known: Readonly<Record<string, OptionKind>>): Error {
	const near = nearest(name, Object.keys(known));
	return usage(`unknown option ${word}`, near === null ? 'jibe help VERB lists the options of a verb' : `did you mean --${near}?`);
}

function checkPositionals(positionals: readonly string[], syntax: Syntax): void {
	const missing = syntax.positionals.slice(0, syntax.optional)[positionals.length];
	if (missing !== undefined) throw usage(`${missing} is missing`);
	const extra = positionals[syntax.positionals.length];
	const many = syntax.positionals.at(-1)?.endsWith('…') ?? false;
	if (extra !== undefined && !many) throw usage(`unexpected argument "${extra}"`);
}

function view(found: ReadonlyMap<string, string[]>, positionals: string[]): Arguments {
	return {
		flag: (name) => found.has(name),
		value: (name) => found.get(name)?.[0] ?? null,
		list: (name) => {
			const values = found.get(name);
			return values === undefined ? null : values.flatMap((value) => value.split(',')).filter((item) => item !== '');
		},
		positionals,
	};
}

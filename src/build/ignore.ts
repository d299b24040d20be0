/** Patterns as in .gitignore. A later one wins; `!` takes back. */

interface Rule {
	pattern: RegExp;
	negated: boolean;
	directoriesOnly: boolean;
	/** Path of the folder the pattern belongs to, with a slash at its end, or empty. */
	base: string;
}

export class IgnoreRules {
	readonly #rules: Rule[];

	constructor(rules: Rule[] = []) {
		this.#rules = rules;
	}

	/** These rules and those of a file in the folder `base` (`''` or `a/b/`). */
	with(text: string, base: string): IgnoreRules {
		const rules = text.split('\n').flatMap((line) => parseRule(line, base) ?? []);
		return rules.length === 0 ? this : new IgnoreRules([...this.#rules, ...rules]);
	}

	/** null: no rule says anything. */
	says(path: string, directory: boolean): boolean | null {
		for (let i = this.#rules.length - 1; i >= 0; i--) {
			const { pattern, negated, directoriesOnly, base } = this.#rules[i]!;
			if (directoriesOnly && !directory) continue;
			if (path.startsWith(base) && pattern.test(path.slice(base.length))) return !negated;
		}
		return null;
	}

	ignores(path: string, directory: boolean): boolean {
		return this.says(path, directory) === true;
	}

	/** For lists of globs: whether the path or a folder above it matches. */
	covers(path: string): boolean {
		if (this.ignores(path, false)) return true;
		for (let at = path.indexOf('/'); at >= 0; at = path.indexOf('/', at + 1)) if (this.ignores(path.slice(0, at), true)) return true;
		return false;
	}
}

export function globs(patterns: readonly string[]): IgnoreRules {
	return new IgnoreRules().with(patterns.map((pattern) => pattern.replace(/^\.\//, '/')).join('\n'), '');
}

function parseRule(line: string, base: string): Rule | null {
	let text = line.replace(/\r$/, '').replace(/(?<!\\)\s+$/, '');
	if (text === '' || text.startsWith('#')) return null;
	const negated = text.startsWith('!');
	if (negated) text = text.slice(1);
	if (text.startsWith('\\')) text = text.slice(1);
	const directoriesOnly = text.endsWith('/');
	if (directoriesOnly) text = text.slice(0, -1);
	const anchored = text.includes('/');
	if (text.startsWith('/')) text = text.slice(1);
	if (text === '') return null;
	return { pattern: new RegExp(`^${anchored ? '' : '(?:.*/)?'}${globSource(text)}$`), negated, directoriesOnly, base };
}

function globSource(glob: string): string {
	let out = '';
	for (let i = 0; i < glob.length; i++) {
		const char = glob[i]!;
		if (char === '*' && glob[i + 1] === '*') {
			const slashAfter = glob[i + 2] === '/';
			out += slashAfter ? '(?:.*/)?' : '.*';
			i += slashAfter ? 2 : 1;
		} else if (char === '*') out += '[^/]*';
		else if (char === '?') out += '[^/]';
		else if (char === '[') {
			const end = glob.indexOf(']', i + 2);
			if (end < 0) out += '\\[';
			else {
				out += `[${glob
					.slice(i + 1, end)
					.replace(/^!/, '^')
					.replaceAll('\\', '\\\\')}]`;
				i = end;
			}
		} else if (char === '\\' && i + 1 < glob.length) out += escapeRegExp(glob[++i]!);
		else out += escapeRegExp(char);
	}
	return out;
}

function escapeRegExp(text: string): string {
	return text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
}

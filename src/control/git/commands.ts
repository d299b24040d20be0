import { branchName } from '#wire/repositories.ts';
import { PktError } from './pkt-line.ts';

/** What a push asks for: one line a branch or tag, the first with what its git can do. */

export interface Command {
	ref: string;
	/** What its git believes stands there; null: nothing. */
	from: string | null;
	/** null: it is to go. */
	to: string | null;
}

export interface Commands {
	commands: Command[];
	capabilities: ReadonlySet<string>;
}

export const MAX_COMMANDS = 500;
const ZERO = '0'.repeat(40);

/** @throws PktError */
export function readCommands(lines: readonly Buffer[]): Commands {
	const commands: Command[] = [];
	let capabilities: ReadonlySet<string> = new Set();
	for (const line of lines) {
		const text = line.toString().replace(/\n$/, '');
		// The sender has only the newest part of the history: whether that does is seen when it is there.
		if (text.startsWith('shallow ')) continue;
		const [words = '', said] = text.split('\0', 2);
		if (commands.length === 0) capabilities = new Set((said ?? '').trim().split(' '));
		const match = /^([0-9a-f]{40}) ([0-9a-f]{40}) (\S+)$/.exec(words);
		if (!match) throw new PktError('this is not what git sends');
		const [, from = '', to = '', ref = ''] = match;
		commands.push({ ref, from: from === ZERO ? null : from, to: to === ZERO ? null : to });
		if (commands.length > MAX_COMMANDS) throw new PktError(`more than ${MAX_COMMANDS} branches and tags in one push`);
	}
	if (new Set(commands.map(({ ref }) => ref)).size !== commands.length) throw new PktError('one branch twice in one push');
	return { commands, capabilities };
}

/** The branch, or null for anything else. */
export function branchOf(ref: string): string | null {
	const name = ref.startsWith('refs/heads/') ? ref.slice('refs/heads/'.length) : '';
	return branchName.safeParse(name).success ? name : null;
}

export function isTag(ref: string): boolean {
	return ref.startsWith('refs/tags/') && branchName.safeParse(ref.slice('refs/tags/'.length)).success;
}

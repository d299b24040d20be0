import type { IncomingMessage, ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import type { PushedRepository } from '#state/pushed.ts';
import type { Caller } from '../access.ts';
import type { House } from '../house.ts';
import type { Pushes } from '../repositories/look.ts';
import type { Command, Commands } from './commands.ts';
import { startGit, type GitEnd, type RunningGit } from './git.ts';
import { isStale, type KeptPush } from './kept.ts';
import { hooksOf } from './repositories.ts';
import { readBands } from './pkt-line.ts';

/** What a push sends, taken: received and checked by git, kept, and only then moved to and said. */

const MAX_PUSH_BYTES = 1024 * 1024 * 1024;
const RECEIVE_LIMIT_MS = 10 * 60_000;
const TOO_SHALLOW = 'this clone has not all of the history that is missing here: "git fetch --unshallow", and push again';
const ANOTHER_CAME = 'another push came first: "git fetch", and push again';

export interface Push {
	house: House;
	pushes: Pushes;
	/** The repository. */
	name: string;
	caller: Caller;
	request: IncomingMessage;
	response: ServerResponse;
}

export interface Taken {
	/** Of what is kept now; null: it was not taken. */
	taken: string | null;
	/** Why not. */
	problem: string;
	/** git's own words for the person. */
	said: string[];
}

/**
 * git's own program receives, checks and moves, all or nothing. Its turn begins with the last piece of what is sent, so that
 * nobody waits for somebody's slow line.
 */
export async function take(push: Push, { commands }: Commands, pieces: AsyncGenerator<Buffer>): Promise<Taken> {
	const { house, name, response } = push;
	const gone = new AbortController();
	response.once('close', () => gone.abort());
	const came = Promise.withResolvers<void>();
	const turn = Promise.withResolvers<void>();
	const input = Readable.from(
		holdingLast(pieces, () => {
			came.resolve();
			return turn.promise;
		}),
	);
	const keeping = new Keeping(push, commands);
	const running = receive(push, input, gone.signal, () => keeping.go());
	const ended = Promise.all([buffer(running.output), running.ended]);
	await Promise.race([came.promise, ended]);
	const [output] = await house.kept.inTurn(name, async () => {
		try {
			if (await keeping.begin()) turn.resolve();
			else running.kill();
			const all = await ended;
			await keeping.end(all[1]);
			return all;
		} finally {
			running.kill();
			turn.resolve();
		}
	});
	if (keeping.kept !== null) return { taken: keeping.kept.kept.id, problem: '', said: [] };
	await swallow(input);
	const { words, problem } = gitsAnswer(output);
	return keeping.problem === null ? { taken: null, problem, said: words } : { taken: null, problem: keeping.problem, said: [] };
}

/** What git answered when it did not take it: words for the person, and why of the first branch that has a reason. */
function gitsAnswer(output: Buffer): { words: string[]; problem: string } {
	const { words, data } = readBands(output);
	const [, reason = 'git did not take it; the log of control may say why'] =
		/^....ng \S+ (?!atomic)(.+)$/m.exec(data) ?? /^....unpack (?!ok)(.+)$/m.exec(data) ?? [];
	return { words, problem: reason.includes('shallow update') ? TOO_SHALLOW : reason };
}

function receive({ house, name }: Push, input: Readable, signal: AbortSignal, asked: () => Promise<string>): RunningGit {
	const directory = house.git.directory(name);
	return startGit(['receive-pack', '--stateless-rpc', directory], {
		directory,
		// What comes stays one pack, to be kept as such.
		config: { 'receive.maxInputSize': String(MAX_PUSH_BYTES), 'receive.unpackLimit': '1', 'core.hooksPath': hooksOf(directory) },
		input,
		limitMs: RECEIVE_LIMIT_MS,
		maxFileBytes: MAX_PUSH_BYTES,
		signal,
		asked,
	});
}

/** From "all of it came" to "it is kept" or why not, in the repository's turn. */
class Keeping {
	kept: KeptPush | null = null;
	/** null: git itself says why, if it does. */
	problem: string | null = null;
	private readonly push: Push;
	private readonly commands: readonly Command[];
	private before: PushedRepository | null = null;

	constructor(push: Push, commands: readonly Command[]) {
		this.push = push;
		this.commands = commands;
	}

	/** false: what the sender saw is not what is here. */
	async begin(): Promise<boolean> {
		const { house, name } = this.push;
		this.before = await house.kept.bring(name);
		const stale = isStale(this.before, this.commands);
		if (stale) this.problem = ANOTHER_CAME;
		else await house.kept.clear(name);
		return !stale;
	}

	/** What git hears when it has checked everything, and holds the locks. */
	async go(): Promise<'go' | 'no'> {
		const { house, name, caller } = this.push;
		try {
			this.kept ??= await house.kept.keep(name, this.before, this.commands, caller.by);
			if (this.kept === null) this.problem = ANOTHER_CAME;
		} catch (error) {
			house.log.error('push.not_kept', { repository: name, error });
			this.problem = 'control could not store it; its log says why';
		}
		return this.kept === null ? 'no' : 'go';
	}

	async end({ code, stderr }: GitEnd): Promise<void> {
		const { house, name } = this.push;
		if (code !== 0) house.log.warn('push.not_taken', { repository: name, code, stderr });
		// It is taken even where git was ended since: the next look at what is kept repairs the copy.
		if (this.kept !== null) return house.kept.landed(name, code === 0 ? this.kept : { ...this.kept, alone: false });
		if (this.problem !== null || !(await house.kept.isAhead(name, this.before))) return;
		await house.kept.forget(name);
		this.problem = `control may not run programs from its data directory (is its disk mounted noexec?)`;
	}
}

/** All, but the last of it only when one may go on. */
async function* holdingLast(pieces: AsyncIterable<Buffer>, before: () => Promise<void>): AsyncGenerator<Buffer> {
	let held: Buffer | null = null;
	for await (const piece of pieces) {
		if (held !== null) yield held;
		held = piece;
	}
	await before();
	if (held !== null) yield held;
}

/** git hears nothing before it has sent everything. */
export async function swallow(input: AsyncIterable<unknown>): Promise<void> {
	let bytes = 0;
	try {
		for await (const part of input) {
			bytes += (part as Buffer).length;
			if (bytes > MAX_PUSH_BYTES) return;
		}
	} catch {
		// Cut off: nobody is told then.
	}
}

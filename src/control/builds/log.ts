import { zstdCompressSync, zstdDecompressSync, constants } from 'node:zlib';
import type { Fence, LogAnswer, StoredLines } from '#state/builds.ts';
import type { State } from '#state/state.ts';
import type { BuildLogLine } from '#wire/builds.ts';

/** A build's log: in batches, packed, each line once; what is beyond the limit is left out, and said so. */

export const MAX_LOG_BYTES = 32 * 1024 * 1024;
const PACK = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };
/** What a batch of 1,000 lines of 64 KiB may unpack to. */
const MAX_BATCH_BYTES = 80 * 1024 * 1024;
const BATCHES_AT_ONCE = 50;
/** Attempts whose sizes are remembered; of another one the database is asked. */
const MAX_REMEMBERED = 1_000;

type Packed = [at: number, step: string, stream: BuildLogLine['stream'], text: string];

export class BuildLogs {
	readonly #state: State;
	/** Bytes stored of attempts that write now. */
	readonly #sizes = new Map<string, number>();

	constructor(state: State) {
		this.#state = state;
	}

	/** Lines from number `from` on, of which some may have been stored before. @throws StateError fenced */
	async add(of: Fence, from: number, lines: readonly BuildLogLine[]): Promise<LogAnswer> {
		const key = `${of.id} ${of.attempt}`;
		const known = this.#sizes.get(key);
		if (known !== undefined && known >= MAX_LOG_BYTES) return { ...(await this.#state.builds.logged(of)), next: from + lines.length };
		let answer = await this.#store(of, from, lines, known ?? 0);
		const missing = from + lines.length - answer.next;
		// The first of them were there already.
		if (missing > 0 && missing < lines.length) answer = await this.#store(of, answer.next, lines.slice(-missing), answer.bytes);
		this.#remember(key, answer.bytes);
		return answer;
	}

	/** What is stored after the line that was read last, oldest first; as much as fits into one go. */
	async read(id: string, after: LogCursor): Promise<{ lines: BuildLogLine[]; cursor: LogCursor }> {
		const rows = await this.#state.builds.lines({ id, attempt: after.attempt, from: after.next, limit: BATCHES_AT_ONCE });
		const last = rows.at(-1);
		const lines = rows.flatMap((row) => unpack(row).slice(row.attempt === after.attempt ? Math.max(0, after.next - row.first) : 0));
		return { lines, cursor: last ? { attempt: last.attempt, next: last.next } : after };
	}

	#store(of: Fence, first: number, lines: readonly BuildLogLine[], before: number): Promise<LogAnswer> {
		let bytes = 0;
		for (const { text } of lines) bytes += text.length + 1;
		const over = before + bytes >= MAX_LOG_BYTES;
		const packed = pack(over ? [...lines.slice(0, -1), ...notice(lines)] : lines);
		return this.#state.builds.log(of, { first, count: lines.length, bytes, packed });
	}

	#remember(key: string, bytes: number): void {
		this.#sizes.delete(key);
		this.#sizes.set(key, bytes);
		const [oldest] = this.#sizes.keys();
		if (this.#sizes.size > MAX_REMEMBERED && oldest !== undefined) this.#sizes.delete(oldest);
	}
}

/** Where a reader is: before line `next` of the attempt. */
export interface LogCursor {
	attempt: number;
	next: number;
}

export const LOG_START: LogCursor = { attempt: 0, next: 0 };

function notice(lines: readonly BuildLogLine[]): BuildLogLine[] {
	const last = lines.at(-1);
	return last ? [{ ...last, stream: 'jibe', text: `… the log has ${MAX_LOG_BYTES / 1024 / 1024} MiB: what follows is not kept` }] : [];
}

function pack(lines: readonly BuildLogLine[]): Buffer {
	return zstdCompressSync(JSON.stringify(lines.map(({ at, step, stream, text }): Packed => [at, step, stream, text])), PACK);
}

function unpack({ packed }: StoredLines): BuildLogLine[] {
	const lines = JSON.parse(zstdDecompressSync(packed, { maxOutputLength: MAX_BATCH_BYTES }).toString()) as Packed[];
	return lines.map(([at, step, stream, text]) => ({ at, step, stream, text }));
}

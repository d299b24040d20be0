import { createReadStream } from 'node:fs';
import { readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { randomId, type Digest } from '#digest/digest.ts';
import type { PushedPack, PushedRepository } from '#state/pushed.ts';
import { BlobCorrupt, BlobMissing } from '#store/blob-store.ts';
import type { House } from '../house.ts';
import { Refusal } from '../ports.ts';
import { branchOf } from './commands.ts';
import { git, GitError, startGit } from './git.ts';

/**
 * What is pushed is kept where every control finds it, before anybody is told that it was taken: its packs in the store,
 * and where the branches are in the database. A repository on this disk is a copy of that, brought up to date before it
 * serves; a push builds on it and changes the row only if that is still as it was read.
 */

/** A pack is stored in pieces of this size: one of them is in memory at a time. */
const PART_BYTES = 8 * 1024 * 1024;
/** Of more packs one is made. */
const MAX_PACKS = 100;
/** What no branch has any more stays for builds that are made, or made again, of it. */
const BUILT_KEPT_MS = 14 * 24 * 3_600_000;
const PACK_LIMIT_MS = 20 * 60_000;
/** What a control that was killed took and had not queued yet, another one looks at then. */
const QUEUED_WITHIN_MS = 60_000;
/** What of the database and the store this disk has. */
const COPY_OF = 'jibe-copy-of.json';

type Refs = PushedRepository['refs'];

export interface KeptLimits {
	maxPacks: number;
	queuedWithinMs: number;
}

interface Move {
	ref: string;
	from: string | null;
	to: string | null;
}

export interface KeptPush {
	kept: PushedRepository;
	/** Nothing came between it and what was known. */
	alone: boolean;
}

/** What is pushed was made of something else than what is here. */
export function isStale(kept: PushedRepository | null, moves: readonly Move[]): boolean {
	return moves.some(({ ref, from }) => (kept?.refs[ref] ?? null) !== from);
}

export class Kept {
	private readonly house: Pick<House, 'git' | 'state' | 'store' | 'clock' | 'log'>;
	private readonly turns = new Map<string, Promise<unknown>>();
	private readonly limits: KeptLimits;

	constructor(house: Kept['house'], limits: KeptLimits = { maxPacks: MAX_PACKS, queuedWithinMs: QUEUED_WITHIN_MS }) {
		this.house = house;
		this.limits = limits;
	}

	/** Brings the copy here up to date; what is kept, or null where nothing was ever pushed. @throws Refusal 503 pushed_missing */
	refresh(name: string): Promise<PushedRepository | null> {
		return this.inTurn(name, () => this.bring(name));
	}

	/** One after the other for each repository. */
	async inTurn<T>(name: string, work: () => Promise<T>): Promise<T> {
		const before = this.turns.get(name);
		const mine = (before ?? Promise.resolve()).then(work, work);
		const settled = mine.catch(() => {}); // told to whoever asked for it
		this.turns.set(name, settled);
		try {
			return await mine;
		} finally {
			if (this.turns.get(name) === settled) this.turns.delete(name);
		}
	}

	/** In its turn. */
	async bring(name: string): Promise<PushedRepository | null> {
		const kept = await this.house.state.repositories.pushed.get(name);
		const copy = await this.copyOf(name);
		if (JSON.stringify(kept) === JSON.stringify(copy)) {
			await this.house.git.make(name);
			return kept;
		}
		// Of another installation's life, or removed elsewhere: nothing here is to be built on.
		if (kept === null || copy === null) await this.forget(name);
		if (kept === null) return null;
		try {
			await this.update(name, kept, copy).catch(async (error: unknown) => {
				if (!(error instanceof GitError) || copy === null) throw error;
				this.house.log.warn('pushed.made_anew', { repository: name, error });
				await this.forget(name);
				await this.update(name, kept, null);
			});
			return kept;
		} catch (error) {
			if (error instanceof BlobMissing || error instanceof BlobCorrupt) throw missing(name, error);
			throw error;
		}
	}

	/**
	 * Makes a push last, in its turn, while git holds the locks of its branches; then it is taken, whatever comes. Another
	 * control may take one meanwhile: null where that moved one of the same branches.
	 */
	async keep(name: string, known: PushedRepository | null, moves: readonly Move[], by: string): Promise<KeptPush | null> {
		const parts = await this.storePack(await this.arrived(name));
		const pack: PushedPack[] = parts.length === 0 ? [] : [{ parts, replaces: null }];
		const { pushed } = this.house.state.repositories;
		const branches = moves.flatMap(({ ref, from }) => (branchOf(ref) === null ? [] : [{ ref, before: from }]));
		const untold = { branches, by, afterMs: this.limits.queuedWithinMs };
		for (let before = known; ; before = await pushed.get(name)) {
			if (isStale(before, moves)) return null;
			const now = { id: randomId(), refs: moved(before?.refs ?? {}, moves), packs: [...(before?.packs ?? []), ...pack] };
			if (await pushed.put({ repository: name, before: before?.id ?? null, untold, ...now }))
				return { kept: now, alone: before?.id === known?.id };
		}
	}

	/** Its branches have moved here, too. What another control took meanwhile comes with the next look. In its turn. */
	async landed(name: string, { kept, alone }: KeptPush): Promise<void> {
		if (alone) await this.isCopyOf(name, kept);
		else await this.bring(name);
	}

	/** Branches have moved here that nobody was asked about. */
	async isAhead(name: string, kept: PushedRepository | null): Promise<boolean> {
		const here = await refsOf(await this.house.git.make(name));
		return Object.entries(here).some(([ref, commit]) => kept?.refs[ref] !== commit);
	}

	/** What an earlier push left when it was killed: from here on, what git keeps from being tidied is what comes. In its turn. */
	async clear(name: string): Promise<void> {
		const { directory, files } = await this.packFiles(name);
		await Promise.all(files.filter((file) => file.endsWith('.keep')).map((file) => rm(join(directory, file), { force: true })));
	}

	/** Many packs become one, once there are many. */
	async consolidate(name: string): Promise<void> {
		const kept = await this.house.state.repositories.pushed.get(name);
		if (kept === null || kept.packs.length <= this.limits.maxPacks) return;
		await this.refresh(name);
		const { clock, state, log } = this.house;
		const directory = this.house.git.directory(name);
		const built = await state.repositories.pushed.builtSince(name, clock.now() - BUILT_KEPT_MS);
		const tips = await existing(directory, [...Object.values(kept.refs), ...built]);
		const running = startGit(['pack-objects', '--revs', '--stdout', '--quiet', '--threads=1'], {
			directory,
			input: `${tips.join('\n')}\n`,
			nice: true,
			limitMs: PACK_LIMIT_MS,
		});
		const [parts, end] = await Promise.all([this.storePack(running.output), running.ended]);
		if (end.code !== 0) throw new GitError(['pack-objects'], end);
		const { id } = kept;
		const now: PushedRepository = { id: randomId(), refs: kept.refs, packs: [{ parts, replaces: id }] };
		const done = await this.inTurn(name, () => state.repositories.pushed.put({ repository: name, before: id, ...now }));
		log.info('pushed.consolidated', { repository: name, packs: kept.packs.length, done });
	}

	/** With all that is here of it. */
	async forget(name: string): Promise<void> {
		await this.house.git.remove(name);
	}

	private async update(name: string, kept: PushedRepository, copy: PushedRepository | null): Promise<void> {
		const directory = await this.house.git.make(name);
		const have = new Set(copy?.packs.map(({ parts }) => parts.join()));
		for (const { parts, replaces } of kept.packs) {
			if (!have.has(parts.join()) && (copy === null || replaces !== copy.id)) await this.fetchPack(directory, parts);
		}
		const here = await refsOf(directory);
		const gone = Object.keys(here).filter((ref) => kept.refs[ref] === undefined);
		const set = Object.entries(kept.refs).filter(([ref, commit]) => here[ref] !== commit);
		const run = (args: string[], input: string[]) =>
			input.length === 0 ? null : git(args, { directory, input: `${input.join('\n')}\n`, limitMs: PACK_LIMIT_MS });
		await run(['rev-list', '--objects', '--quiet', '--stdin', '--not', '--all'], set.map(([, commit]) => commit)); // prettier-ignore
		// Before the others: one may have become a folder of theirs.
		await run(['update-ref', '--stdin'], gone.map((ref) => `delete ${ref}`)); // prettier-ignore
		await run(['update-ref', '--stdin'], set.map((of) => `update ${of.join(' ')}`)); // prettier-ignore
		await this.isCopyOf(name, kept);
	}

	private async fetchPack(directory: string, parts: readonly Digest[]): Promise<void> {
		const { store } = this.house;
		const pack = async function* () {
			for (const part of parts) yield await store.read(part);
		};
		const input = Readable.from(pack());
		let lost: unknown = null;
		input.once('error', (error) => (lost = error));
		try {
			await git(['index-pack', '--stdin'], { directory, input, limitMs: PACK_LIMIT_MS });
		} catch (error) {
			throw lost ?? error;
		}
	}

	/** A control that ends before it says so finds out when it compares. */
	private async isCopyOf(name: string, kept: PushedRepository): Promise<void> {
		const text = JSON.stringify(kept);
		const file = join(this.house.git.directory(name), COPY_OF);
		await writeFile(`${file}.new`, text);
		await rename(`${file}.new`, file);
	}

	private async copyOf(name: string): Promise<PushedRepository | null> {
		const text = await readText(join(this.house.git.directory(name), COPY_OF));
		try {
			return JSON.parse(text) as PushedRepository | null;
		} catch {
			return null; // cut short: all is brought again
		}
	}

	/** The pack that git holds on to until its push is done. */
	private async arrived(name: string): Promise<AsyncIterable<Buffer> | null> {
		const { directory, files } = await this.packFiles(name);
		const one = files.find((file) => file.endsWith('.keep'));
		return one === undefined ? null : piecesOf(join(directory, one.replace(/\.keep$/, '.pack')));
	}

	private async packFiles(name: string): Promise<{ directory: string; files: string[] }> {
		const directory = join(this.house.git.directory(name), 'objects', 'pack');
		return { directory, files: await readdir(directory) };
	}

	private async storePack(pack: AsyncIterable<Buffer> | null): Promise<Digest[]> {
		const parts: Digest[] = [];
		for await (const part of pack === null ? [] : inParts(pack)) parts.push(...(await this.house.store.write([part])));
		return parts;
	}
}

function missing(name: string, cause: Error): Refusal {
	return new Refusal(
		'pushed_missing',
		503,
		`not all that was pushed to ${name} is in this control's store (${cause.message})`,
		'controls of one database need one store (--store)',
	);
}

function moved(refs: Refs, moves: readonly Move[]): Refs {
	const gone = new Set(moves.map(({ ref }) => ref));
	const left = Object.entries(refs).filter(([ref]) => !gone.has(ref));
	return Object.fromEntries([...left, ...moves.flatMap(({ ref, to }) => (to === null ? [] : [[ref, to] as const]))]);
}

async function* piecesOf(file: string): AsyncGenerator<Buffer> {
	for await (const piece of createReadStream(file, { highWaterMark: PART_BYTES })) yield piece as Buffer;
}

async function* inParts(bytes: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
	let held: Buffer[] = [];
	let size = 0;
	for await (const piece of bytes) {
		held.push(piece);
		size += piece.length;
		if (size < PART_BYTES) continue;
		const all = Buffer.concat(held);
		for (; size >= PART_BYTES; size -= PART_BYTES) yield all.subarray(all.length - size, all.length - size + PART_BYTES);
		held = size === 0 ? [] : [all.subarray(all.length - size)];
	}
	if (size > 0) yield Buffer.concat(held);
}

async function refsOf(directory: string): Promise<Refs> {
	const text = await git(['for-each-ref', '--format=%(refname) %(objectname)', 'refs/heads', 'refs/tags'], { directory });
	return Object.fromEntries(text.split('\n').flatMap((line) => (line === '' ? [] : [line.split(' ', 2) as [string, string]])));
}

/** Those of these commits that are here. */
async function existing(directory: string, commits: readonly string[]): Promise<string[]> {
	const input = commits.map((commit) => `${commit}\n`).join('');
	const said = await git(['cat-file', '--batch-check=%(objectname)', '--buffer'], { directory, input });
	return said.split('\n').filter((line) => line !== '' && !line.endsWith(' missing'));
}

async function readText(file: string): Promise<string> {
	try {
		return await readFile(file, 'utf8');
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 'null';
		throw error;
	}
}

import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import { randomId, sha256, type Digest } from '#digest/digest.ts';
import {
	BIG_BLOB_BYTES,
	decodeBig,
	decodeBlob,
	encodeBig,
	encodeBlob,
	encodePack,
	MAX_PACK_BLOBS,
	MAX_PACK_BYTES,
	PLAIN,
	ZSTD,
	type EncodedBlob,
	type PackEntry,
} from './blob-pack.ts';
import { eachOf } from './at-once.ts';
import { BlobCorrupt, BlobMissing, StoreFull, type SweptStore } from './blob-store.ts';
import { readFrom, readIndex, readStored } from './pack-file.ts';

/**
 * Blobs on a disk: `packs/<name>.pack` for small ones, `big/<hex>[.zst]` for those above 1 MiB, `marks.json` of the
 * collection. Files appear by rename only, so a crash leaves either all of a write or nothing but a temporary file.
 * One process at a time writes to a directory; names are unique, so that two by mistake waste space but lose nothing.
 */
export interface DiskStore extends SweptStore {
	/** Files read at open that turned out to be damaged; they were set aside as `*.damaged`. */
	readonly damaged: readonly string[];
}

/** Reading the index of one pack takes 30 µs: this many small ones are let be. */
const SMALL_PACKS_KEPT = 256;
const SMALL_PACK_BYTES = 1024 * 1024;
/** A temporary file this old belongs to nobody alive. */
const STALE_TEMPORARY_MS = 10 * 60_000;
/** Compressing this much takes about 5 ms; then others get their turn. */
const YIELD_EACH_BYTES = 1024 * 1024;
/** Each waits for the disk. */
const BIG_AT_ONCE = 4;
/** A part of a pack that is held while its blobs are read in order. */
const READ_AHEAD_BYTES = 2 * 1024 * 1024;

export async function openDiskStore(dir: string, options: { durable: boolean }): Promise<DiskStore> {
	const store = new Disk(dir, options.durable);
	await store.load();
	return store;
}

interface Pack {
	path: string;
	live: Map<Digest, PackEntry>;
}
type Place = { pack: Pack; entry: PackEntry } | { big: string };

class Disk implements DiskStore {
	readonly marks = new Map<Digest, number>();
	readonly damaged: string[] = [];
	private readonly places = new Map<Digest, Place>();
	private readonly known = new Set<Pack>();
	/** Writes under way: a second writer of the same blob waits for the first instead of storing it twice. */
	private readonly pending = new Map<Digest, Promise<void>>();
	/** Something here was damaged: from then on what is said to be here was looked at, once. */
	private suspect = false;
	private readonly sound = new Set<Digest>();
	private deletion: Promise<void> = Promise.resolve();
	private ahead: { path: string; from: number; bytes: Buffer } | null = null;
	private readonly dir: string;
	private readonly packs: string;
	private readonly big: string;
	private readonly durable: boolean;

	constructor(dir: string, durable: boolean) {
		this.dir = dir;
		this.packs = join(dir, 'packs');
		this.big = join(dir, 'big');
		this.durable = durable;
	}

	async load(): Promise<void> {
		await mkdir(this.packs, { recursive: true, mode: 0o700 });
		await mkdir(this.big, { recursive: true, mode: 0o700 });
		for (const name of (await readdir(this.packs)).toSorted()) {
			if (name.endsWith('.pack')) await this.loadPack(join(this.packs, name));
			else if (name.endsWith('.tmp')) await removeStale(join(this.packs, name));
		}
		for (const name of await readdir(this.big)) {
			const match = /^([0-9a-f]{64})(\.zst)?$/.exec(name);
			if (match) this.places.set(`sha256:${match[1]}`, { big: join(this.big, name) });
			else if (name.endsWith('.tmp')) await removeStale(join(this.big, name));
		}
		await this.loadMarks();
	}

	async has(digests: readonly Digest[]): Promise<Set<Digest>> {
		const stored = new Set(digests.filter((digest) => this.places.has(digest)));
		if (!this.suspect) return stored;
		for (const digest of stored) if (!(await this.isSound(digest))) stored.delete(digest);
		return stored;
	}

	digests(): Iterable<Digest> {
		return this.places.keys();
	}

	async read(digest: Digest): Promise<Buffer> {
		return (await this.find(digest)).raw;
	}

	async readStored(digest: Digest): Promise<EncodedBlob> {
		const place = this.places.get(digest);
		const ahead = place && 'entry' in place ? this.readAhead(place.pack.path, place.entry) : null;
		return ahead ?? (await this.find(digest)).blob;
	}

	async write(blobs: Iterable<Uint8Array>): Promise<Digest[]> {
		const digests: Digest[] = [];
		const fresh = new Map<Digest, Uint8Array>();
		const waits = new Set<Promise<void>>();
		for (const blob of blobs) {
			const digest = sha256(blob);
			digests.push(digest);
			// Somebody needs it again: the collection starts anew with it.
			this.marks.delete(digest);
			const pending = this.pending.get(digest);
			if (pending) waits.add(pending);
			else if (!this.places.has(digest)) fresh.set(digest, blob);
		}
		if (fresh.size > 0) waits.add(this.begin(fresh));
		await Promise.all(waits);
		return digests;
	}

	async writeStored(blobs: readonly EncodedBlob[]): Promise<void> {
		const fresh = blobs.filter(({ digest }) => !this.places.has(digest));
		for (const { digest } of blobs) this.marks.delete(digest);
		const small = fresh.filter(({ rawBytes }) => rawBytes <= BIG_BLOB_BYTES);
		for (let at = 0; at < small.length; at += MAX_PACK_BLOBS) await this.writePack(small.slice(at, at + MAX_PACK_BLOBS));
		const big = fresh.filter(({ rawBytes }) => rawBytes > BIG_BLOB_BYTES);
		await eachOf(big, BIG_AT_ONCE, (blob) => this.writeBig(blob));
	}

	inOrder(digests: Iterable<Digest>): Digest[] {
		const packed: { digest: Digest; path: string; offset: number }[] = [];
		const big: Digest[] = [];
		for (const digest of digests) {
			const place = this.places.get(digest);
			if (place && 'entry' in place) packed.push({ digest, path: place.pack.path, offset: place.entry.offset });
			else big.push(digest);
		}
		packed.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : a.offset - b.offset));
		// Big ones are read on other threads: evenly among the small ones, neither waits for the other.
		const each = Math.ceil(packed.length / (big.length + 1));
		return [...big, null].flatMap((one, i) => [
			...packed.slice(i * each, (i + 1) * each).map(({ digest }) => digest),
			...(one === null ? [] : [one]),
		]);
	}

	get disk(): string {
		return this.dir;
	}

	/** Nobody else writes here. */
	refresh(): Promise<void> {
		return Promise.resolve();
	}

	claim(): Promise<void> {
		return Promise.resolve();
	}

	delete(digests: readonly Digest[]): Promise<void> {
		const touched = new Set<Pack>();
		const files: string[] = [];
		for (const digest of digests) {
			const place = this.places.get(digest);
			this.marks.delete(digest);
			if (!place) continue;
			this.forget(digest, place);
			if ('big' in place) files.push(place.big);
			else touched.add(place.pack);
		}
		return this.eraseInTurn(touched, files);
	}

	async compact(): Promise<void> {
		const small = [...this.known].filter((pack) => storedBytes(pack) < SMALL_PACK_BYTES);
		if (small.length > SMALL_PACKS_KEPT) await this.eraseInTurn(new Set(small), []);
	}

	async saveMarks(): Promise<void> {
		await this.place(Buffer.from(JSON.stringify([...this.marks])), join(this.dir, 'marks.json'), this.dir);
	}

	async close(): Promise<void> {
		await Promise.allSettled([...this.pending.values(), this.deletion]);
	}

	/** Those that lie after one another in a pack are read together. null: it is to be read by itself. */
	private readAhead(path: string, entry: PackEntry): EncodedBlob | null {
		const { digest, offset, storedBytes, rawBytes, encoding } = entry;
		const held = this.ahead;
		if (held?.path !== path || offset < held.from || offset + storedBytes > held.from + held.bytes.length) {
			this.ahead = readFrom(path, offset, READ_AHEAD_BYTES);
		}
		const { from, bytes } = this.ahead ?? { from: 0, bytes: Buffer.alloc(0) };
		const stored = bytes.subarray(offset - from, offset - from + storedBytes);
		return decodeBlob(entry, stored) && { digest, stored, rawBytes, encoding };
	}

	private async find(digest: Digest): Promise<Found> {
		const place = this.places.get(digest);
		if (!place) throw new BlobMissing(digest);
		try {
			const found = 'big' in place ? await readBig(digest, place.big) : readPacked(place.pack.path, place.entry);
			if (found) return found;
		} catch (cause) {
			if (!isCode(cause, 'ENOENT')) throw cause;
			this.forget(digest, place);
			throw new BlobMissing(digest, { cause });
		}
		// Forgotten, so that whoever has it can write it again. Damage rarely comes alone.
		this.suspect = true;
		this.forget(digest, place);
		throw new BlobCorrupt(digest);
	}

	private eraseInTurn(touched: Set<Pack>, files: readonly string[]): Promise<void> {
		const work = this.deletion.then(() => this.erase(touched, files));
		// Who asked hears of a failure; the next in turn goes on from what is there.
		this.deletion = work.catch(() => {});
		return work;
	}

	private begin(fresh: Map<Digest, Uint8Array>): Promise<void> {
		const work = this.store(fresh);
		for (const digest of fresh.keys()) this.pending.set(digest, work);
		const settle = () => {
			for (const digest of fresh.keys()) this.pending.delete(digest);
		};
		work.then(settle, settle);
		return work;
	}

	private async store(fresh: Map<Digest, Uint8Array>): Promise<void> {
		let batch: EncodedBlob[] = [];
		let batchBytes = 0;
		let sinceYieldBytes = 0;
		for (const [digest, blob] of fresh) {
			if (blob.length > BIG_BLOB_BYTES) {
				await this.writeBig(await encodeBig(digest, blob));
				continue;
			}
			const encoded = encodeBlob(digest, blob);
			batch.push(encoded);
			batchBytes += encoded.stored.length;
			sinceYieldBytes += blob.length;
			if (sinceYieldBytes >= YIELD_EACH_BYTES) {
				await new Promise((resolve) => setImmediate(resolve));
				sinceYieldBytes = 0;
			}
			if (batchBytes >= MAX_PACK_BYTES || batch.length >= MAX_PACK_BLOBS) {
				await this.writePack(batch);
				batch = [];
				batchBytes = 0;
			}
		}
		if (batch.length > 0) await this.writePack(batch);
	}

	private async writePack(blobs: EncodedBlob[]): Promise<void> {
		const { pack, entries } = await this.putPack(blobs);
		this.adopt(pack, entries);
	}

	private async putPack(blobs: EncodedBlob[]): Promise<{ pack: Pack; entries: PackEntry[] }> {
		const { file, entries } = encodePack(blobs);
		// Names sort by age, so that at open the newest copy of a blob wins.
		const name = `${systemClock.now().toString(16).padStart(12, '0')}-${randomId()}.pack`;
		const pack: Pack = { path: join(this.packs, name), live: new Map() };
		await this.place(file, pack.path, this.packs);
		return { pack, entries };
	}

	private async writeBig({ digest, stored, encoding }: EncodedBlob): Promise<void> {
		const path = join(this.big, `${digest.slice('sha256:'.length)}${encoding === ZSTD ? '.zst' : ''}`);
		await this.place(stored, path, this.big);
		this.places.set(digest, { big: path });
	}

	/** Writes a file that is either whole and durable, or not there. */
	private async place(bytes: Uint8Array, path: string, folder: string): Promise<void> {
		const temporary = `${path}.${randomId()}.tmp`;
		try {
			const file = await open(temporary, 'wx', 0o600);
			try {
				// In one call: `writeFile` would come back here for each 512 KiB.
				for (let at = 0; at < bytes.length;) at += (await file.write(bytes, at)).bytesWritten;
				if (this.durable) await file.datasync();
			} finally {
				await file.close();
			}
			await rename(temporary, path);
			if (this.durable) await syncFolder(folder);
		} catch (cause) {
			await rm(temporary, { force: true });
			if (isCode(cause, 'ENOSPC', 'EDQUOT', 'EFBIG')) throw storeFull(path, bytes.length, cause);
			throw cause;
		}
	}

	private async isSound(digest: Digest): Promise<boolean> {
		if (this.sound.has(digest)) return true;
		try {
			await this.read(digest);
		} catch (error) {
			if (error instanceof BlobCorrupt || error instanceof BlobMissing) return false;
			throw error;
		}
		this.sound.add(digest);
		return true;
	}

	private async loadPack(path: string): Promise<void> {
		const entries = readIndex(path);
		if (entries) {
			const { size } = await stat(path);
			if (entries.some(({ offset, storedBytes }) => offset + storedBytes > size)) this.suspect = true;
			return this.adopt({ path, live: new Map() }, entries);
		}
		await rename(path, `${path}.damaged`);
		this.damaged.push(`${path}.damaged`);
	}

	private adopt(pack: Pack, entries: readonly PackEntry[]): void {
		this.known.add(pack);
		for (const entry of entries) {
			const before = this.places.get(entry.digest);
			if (before && !('big' in before)) before.pack.live.delete(entry.digest);
			pack.live.set(entry.digest, entry);
			this.places.set(entry.digest, { pack, entry });
		}
	}

	private forget(digest: Digest, place: Place): void {
		const now = this.places.get(digest);
		if (now === place || (now && 'entry' in now && 'entry' in place && now.entry === place.entry)) this.places.delete(digest);
		if ('entry' in place && place.pack.live.get(digest) === place.entry) place.pack.live.delete(digest);
	}

	/** Moves what still lives in these packs into new ones, which merges small packs by the way; then removes the old files. */
	private async erase(touched: Set<Pack>, files: readonly string[]): Promise<void> {
		// First what frees room and needs none: on a full disk this is what makes the rest possible.
		for (const path of files) if (!this.isWanted(path)) await rm(path, { force: true });
		for (const pack of touched) if (pack.live.size === 0) await this.drop(pack);
		let batch: PackEntry[] = [];
		let blobs: EncodedBlob[] = [];
		let batchBytes = 0;
		for (const pack of touched) {
			for (const entry of pack.live.values()) {
				const stored = readStored(pack.path, entry);
				// A damaged blob is not carried on: its next read finds it missing, and it can be written again.
				if (!stored || !decodeBlob(entry, stored)) {
					this.forget(entry.digest, { pack, entry });
					continue;
				}
				batch.push(entry);
				blobs.push({ digest: entry.digest, stored, rawBytes: entry.rawBytes, encoding: entry.encoding });
				batchBytes += stored.length;
			}
			if (batchBytes < MAX_PACK_BYTES / 2 && batch.length < MAX_PACK_BLOBS / 2) continue;
			await this.rewrite(blobs, batch);
			[batch, blobs, batchBytes] = [[], [], 0];
		}
		if (batch.length > 0) await this.rewrite(blobs, batch);
		for (const pack of touched) await this.drop(pack);
	}

	private async drop(pack: Pack): Promise<void> {
		this.known.delete(pack);
		await rm(pack.path, { force: true });
	}

	private async rewrite(blobs: EncodedBlob[], old: readonly PackEntry[]): Promise<void> {
		for (let at = 0; at < blobs.length; at += MAX_PACK_BLOBS) {
			const { pack, entries } = await this.putPack(blobs.slice(at, at + MAX_PACK_BLOBS));
			// What was deleted or written anew meanwhile must not be replaced by this copy.
			const moved = entries.filter((entry, i) => {
				const place = this.places.get(entry.digest);
				return place && !('big' in place) && place.entry === old[at + i];
			});
			this.adopt(pack, moved);
		}
	}

	/** A big blob that was written again, or is being, since its deletion was asked for. */
	private isWanted(path: string): boolean {
		const digest: Digest = `sha256:${basename(path, '.zst')}`;
		return this.places.has(digest) || this.pending.has(digest);
	}

	private async loadMarks(): Promise<void> {
		try {
			const rows: unknown = JSON.parse(await readFile(join(this.dir, 'marks.json'), 'utf8'));
			if (Array.isArray(rows)) for (const [digest, at] of rows as [Digest, number][]) this.marks.set(digest, at);
		} catch (cause) {
			// Without readable marks the wait begins again: late, but safe.
			if (!isCode(cause, 'ENOENT') && !(cause instanceof SyntaxError)) throw cause;
		}
	}
}

function storedBytes(pack: Pack): number {
	let bytes = 0;
	for (const entry of pack.live.values()) bytes += entry.storedBytes;
	return bytes;
}

interface Found {
	raw: Buffer;
	blob: EncodedBlob;
}

function readPacked(path: string, entry: PackEntry): Found | null {
	const { digest, rawBytes, encoding } = entry;
	const stored = readStored(path, entry);
	const raw = stored && decodeBlob(entry, stored);
	return raw && { raw, blob: { digest, stored, rawBytes, encoding } };
}

async function readBig(digest: Digest, path: string): Promise<Found | null> {
	const stored = await readFile(path);
	const encoding = path.endsWith('.zst') ? ZSTD : PLAIN;
	const raw = await decodeBig({ digest, encoding }, stored);
	return raw && { raw, blob: { digest, stored, rawBytes: raw.length, encoding } };
}

async function removeStale(path: string): Promise<void> {
	const { mtimeMs } = await stat(path);
	if (systemClock.now() - mtimeMs > STALE_TEMPORARY_MS) await rm(path, { force: true });
}

async function syncFolder(path: string): Promise<void> {
	const folder = await open(path, 'r');
	try {
		await folder.sync();
	} finally {
		await folder.close();
	}
}

function storeFull(path: string, bytes: number, cause: unknown): StoreFull {
	return new StoreFull(`no room for ${bytes} bytes at ${path}: the disk is full (nothing of it was kept)`, {
		cause,
	});
}

function isCode(error: unknown, ...codes: string[]): boolean {
	return error instanceof Error && codes.includes(String((error as NodeJS.ErrnoException).code));
}

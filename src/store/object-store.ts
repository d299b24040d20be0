import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import { sha256, type Digest } from '#digest/digest.ts';
import type { Log } from '#log/log.ts';
import {
	BIG_BLOB_BYTES,
	decodePackIndex,
	encodeBig,
	encodeBlob,
	encodePack,
	MAX_PACK_BLOBS,
	MAX_PACK_BYTES,
	packIndexEnd,
	ZSTD,
	type EncodedBlob,
	type PackEntry,
} from './blob-pack.ts';
import { BlobCorrupt, BlobMissing, StoreRefused, type SweptStore } from './blob-store.ts';
import { ObjectCache } from './object-cache.ts';
import { eachOf } from './at-once.ts';
import { packsOf, partOf, unpack, type Found, type Place, type Stored } from './object-blobs.ts';
import { fileName, FOLDER, isPack, newName, timeName, timeOf, wholeIn } from './object-names.ts';
import type { Objects } from './objects.ts';

/**
 * Blobs in objects that several controls share: `blobs/<time>-<id>.pack` for the small ones of one write,
 * `blobs/<time>-<id>.<hex>[.zst]` for a big one, `marks.json` of the collection, `installation.json`: whose it is. Objects are immutable and their names
 * sort by age, so one listing from the newest on tells what others wrote. What is deleted is forgotten here, and an
 * object goes once little of it is wanted: until then the rest of it is listed again, as unwanted as before.
 */
export async function openObjectStore(options: ObjectStoreOptions): Promise<SweptStore> {
	await mkdir(options.dir, { recursive: true, mode: 0o700 });
	const [cache, indexes] = await Promise.all([
		ObjectCache.open(join(options.dir, 'objects'), options.cacheBytes),
		ObjectCache.open(join(options.dir, 'indexes'), INDEXES_MAX_BYTES),
	]);
	const store = new ObjectStore(options.objects, cache, indexes, options.log);
	await store.open();
	return store;
}

export interface ObjectStoreOptions {
	objects: Objects;
	/** For copies on this machine's disk. */
	dir: string;
	cacheBytes: number;
	log: Log;
}

const MARKS = 'marks.json';
const OWNER = 'installation.json';
/** Stands among the indexes, and names the store that they are of. */
const OPENED = 'opened';
const INDEXES_MAX_BYTES = 1024 * 1024 * 1024;
/** Names come from clocks, of several machines, and before the object is there: a listing begins this much earlier. */
const OVERLAP_MS = 15 * 60_000;
const SMALL_PACKS_KEPT = 256;
const SMALL_PACK_BYTES = 1024 * 1024;
/** Below this share of what it once held a pack is written anew, without what nobody wants. */
const REWRITE_BELOW_SHARE = 0.5;
const AT_ONCE = 8;
const BIG_AT_ONCE = 4;
const FIRST_READ_BYTES = 16 * 1024;
const YIELD_EACH_BYTES = 1024 * 1024;

class ObjectStore implements SweptStore {
	readonly marks = new Map<Digest, number>();
	readonly disk = null;
	private readonly objects: Objects;
	private readonly cache: ObjectCache;
	private readonly indexes: ObjectCache;
	private readonly log: Log;
	private readonly places = new Map<Digest, Place>();
	private readonly known = new Map<string, Stored>();
	private readonly pending = new Map<Digest, Promise<void>>();
	private readonly fetching = new Map<string, Promise<Buffer | null>>();
	/** Something here was damaged: from then on each object is looked at, once, before its blobs are said to be here. */
	private suspect = false;
	private readonly sound = new Set<Stored>();
	private held: { object: Stored; bytes: Buffer } | null = null;
	/** Whole, at least once since this process started. */
	private listed = false;
	private looking: Promise<void> = Promise.resolve();
	private queued: Promise<void> | null = null;

	constructor(objects: Objects, cache: ObjectCache, indexes: ObjectCache, log: Log) {
		this.objects = objects;
		this.cache = cache;
		this.indexes = indexes;
		this.log = log;
	}

	/** A store that can't be reached is no reason not to start, once it was: what serves needs control, and control needs no blobs for that. */
	async open(): Promise<void> {
		const known = (await this.indexes.read(OPENED))?.toString() === this.objects.place;
		for (const name of [...this.indexes.names()].toSorted()) {
			if (!known) await this.indexes.forget(name);
			else if (name !== OPENED) await this.learn(FOLDER + name, 0, await this.indexes.read(name));
		}
		try {
			await this.refresh();
			await this.indexes.keep(OPENED, Buffer.from(this.objects.place));
		} catch (error) {
			if (!known) throw error;
			this.log.warn('store.unavailable', { place: this.objects.place, error });
		}
	}

	async claim(installation: string): Promise<void> {
		// A store that can't be reached was its own before, or had not been opened.
		if (!this.listed) return;
		const found = await this.objects.get(OWNER);
		if (!found) return this.objects.put(OWNER, Buffer.from(JSON.stringify({ installation })));
		const owner = (JSON.parse(found.toString()) as { installation: string }).installation;
		if (owner === installation) return;
		throw new StoreRefused(`${this.objects.place} holds the blobs of the installation ${owner}: give this one a prefix of its own`);
	}

	digests(): Iterable<Digest> {
		return this.places.keys();
	}

	async has(digests: readonly Digest[]): Promise<Set<Digest>> {
		if (!this.listed) await this.refresh();
		if (!digests.every((digest) => this.places.has(digest))) await this.refreshNew();
		const stored = new Set(digests.filter((digest) => this.places.has(digest)));
		if (!this.suspect) return stored;
		const objects = new Set([...stored].map((digest) => this.places.get(digest)!.object));
		await eachOf([...objects], AT_ONCE, (object) => this.check(object));
		return new Set([...stored].filter((digest) => this.places.has(digest)));
	}

	async read(digest: Digest): Promise<Buffer> {
		return (await this.find(digest)).raw;
	}

	/** Those of one object are read together. */
	async readStored(digest: Digest): Promise<EncodedBlob> {
		const place = this.places.get(digest);
		if (!place) return (await this.find(digest)).blob;
		if (this.held?.object !== place.object) {
			const { object } = place;
			const bytes = (await this.cache.read(fileName(object.name))) ?? (await this.fetch(object.name));
			this.held = bytes && { object, bytes };
		}
		const found = this.held && (await unpack(digest, place, partOf(this.held.bytes, place.entry)));
		return (found ?? (await this.find(digest))).blob;
	}

	async write(blobs: Iterable<Uint8Array>): Promise<Digest[]> {
		if (!this.listed) await this.refresh();
		const digests: Digest[] = [];
		const fresh = new Map<Digest, Uint8Array>();
		const waits = new Set<Promise<void>>();
		for (const blob of blobs) {
			const digest = sha256(blob);
			digests.push(digest);
			const pending = this.pending.get(digest);
			if (pending) waits.add(pending);
			else if (this.mustWrite(digest)) fresh.set(digest, blob);
		}
		if (fresh.size > 0) waits.add(this.begin([...fresh.keys()], this.encodeAndPut(fresh)));
		await Promise.all(waits);
		return digests;
	}

	async writeStored(blobs: readonly EncodedBlob[]): Promise<void> {
		if (!this.listed) await this.refresh();
		const fresh = blobs.filter(({ digest }) => this.mustWrite(digest));
		if (fresh.length > 0) await this.begin(fresh.map(({ digest }) => digest), this.putEncoded(fresh)); // prettier-ignore
	}

	inOrder(digests: Iterable<Digest>): Digest[] {
		const keyed = Array.from(digests, (digest) => {
			const place = this.places.get(digest);
			return { digest, name: place?.object.name ?? '', offset: place && place.entry !== 'whole' ? place.entry.offset : 0 };
		});
		keyed.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : a.offset - b.offset));
		return keyed.map(({ digest }) => digest);
	}

	async delete(digests: readonly Digest[]): Promise<void> {
		const touched = new Set<Stored>();
		for (const digest of digests) {
			const place = this.places.get(digest);
			this.marks.delete(digest);
			if (!place) continue;
			this.forget(digest, place);
			touched.add(place.object);
		}
		const empty = [...touched].filter(({ live }) => live.size === 0);
		await this.drop(empty);
		await this.rewrite([...touched].filter(({ live, written }) => live.size > 0 && live.size < written * REWRITE_BELOW_SHARE));
	}

	async compact(): Promise<void> {
		const small = [...this.known.values()].filter(({ name, bytes }) => isPack(name) && bytes < SMALL_PACK_BYTES);
		if (small.length > SMALL_PACKS_KEPT) await this.rewrite(small);
	}

	async saveMarks(): Promise<void> {
		await this.objects.put(MARKS, Buffer.from(JSON.stringify([...this.marks])));
	}

	async close(): Promise<void> {
		await Promise.allSettled([...this.pending.values(), this.looking]);
	}

	/** Everything anew: what others wrote, what they deleted, what got lost, and which blobs they found unwanted. */
	refresh(): Promise<void> {
		return this.inTurn(() => this.look(''));
	}

	/** A look that begins now, or one that others already wait for. */
	private refreshNew(): Promise<void> {
		if (this.queued) return this.queued;
		const work = this.inTurn(async () => {
			this.queued = null;
			await this.look(this.listed ? FOLDER + timeName(Math.max(0, systemClock.now() - OVERLAP_MS)) : '');
		});
		this.queued = work;
		return work;
	}

	private inTurn(look: () => Promise<void>): Promise<void> {
		// Who asked hears of a failure; the next in turn looks for itself.
		const work = this.looking.then(look);
		this.looking = work.catch(() => {});
		return work;
	}

	private async look(after: string): Promise<void> {
		const before = new Set(this.known.keys());
		const fresh: { name: string; bytes: number }[] = [];
		for await (const { name, bytes } of this.objects.list(FOLDER, after)) {
			if (!before.delete(name)) fresh.push({ name, bytes });
			else this.known.get(name)!.bytes = bytes;
		}
		await eachOf(fresh, AT_ONCE, async ({ name, bytes }) => this.learn(name, bytes, await this.indexOf(name)));
		if (after === '') {
			for (const name of before) this.lose(name);
			await this.readMarks();
			this.listed = true;
		}
	}

	/** null for what is no pack. */
	private async indexOf(name: string): Promise<Buffer | null> {
		if (!isPack(name) || this.known.has(name)) return null;
		let start = await this.objects.get(name, { from: 0, bytes: FIRST_READ_BYTES });
		const end = start && packIndexEnd(start);
		if (start && end && end > start.length) start = await this.objects.get(name, { from: 0, bytes: end });
		if (!start || !end) return null;
		await this.indexes.keep(fileName(name), start.subarray(0, end));
		return start;
	}

	private async learn(name: string, bytes: number, index: Buffer | null): Promise<void> {
		if (this.known.has(name)) return;
		const whole = wholeIn(name);
		if (whole) return this.adopt(name, bytes, [[whole, 'whole']]);
		const entries = index && decodePackIndex(index);
		if (entries) return this.adopt(name, bytes, entries.map((entry) => [entry.digest, entry])); // prettier-ignore
		if (isPack(name)) this.log.warn('store.pack_unreadable', { place: this.objects.place, name });
	}

	private adopt(name: string, bytes: number, blobs: readonly [Digest, PackEntry | 'whole'][]): void {
		const object: Stored = { name, bytes, written: blobs.length, live: new Map() };
		this.known.set(name, object);
		const at = timeOf(name);
		for (const [digest, entry] of blobs) {
			// Written again after it was found unwanted: somebody needs it.
			if ((this.marks.get(digest) ?? Number.POSITIVE_INFINITY) < at) this.marks.delete(digest);
			const former = this.places.get(digest);
			if (former && former.object.name > name) continue;
			former?.object.live.delete(digest);
			object.live.set(digest, entry);
			this.places.set(digest, { object, entry });
		}
	}

	/** A blob that was found unwanted is written anew, since another control may be about to delete the copy that it knows. */
	private mustWrite(digest: Digest): boolean {
		return !this.places.has(digest) || this.marks.has(digest);
	}

	private begin(digests: readonly Digest[], work: Promise<void>): Promise<void> {
		for (const digest of digests) this.pending.set(digest, work);
		const settle = () => {
			for (const digest of digests) this.pending.delete(digest);
		};
		work.then(settle, settle);
		return work;
	}

	private async encodeAndPut(fresh: ReadonlyMap<Digest, Uint8Array>): Promise<void> {
		const small: EncodedBlob[] = [];
		const big: [Digest, Uint8Array][] = [];
		let sinceYieldBytes = 0;
		for (const [digest, blob] of fresh) {
			if (blob.length > BIG_BLOB_BYTES) {
				big.push([digest, blob]);
				continue;
			}
			small.push(encodeBlob(digest, blob));
			sinceYieldBytes += blob.length;
			if (sinceYieldBytes < YIELD_EACH_BYTES) continue;
			await new Promise((resolve) => setImmediate(resolve));
			sinceYieldBytes = 0;
		}
		await Promise.all([
			this.putEncoded(small),
			eachOf(big, BIG_AT_ONCE, async ([digest, blob]) => this.putEncoded([await encodeBig(digest, blob)])),
		]);
	}

	private async putEncoded(blobs: readonly EncodedBlob[]): Promise<void> {
		const big = blobs.filter(({ rawBytes }) => rawBytes > BIG_BLOB_BYTES);
		const packs = packsOf(blobs.filter(({ rawBytes }) => rawBytes <= BIG_BLOB_BYTES));
		await eachOf(big, BIG_AT_ONCE, (blob) => this.putBig(blob));
		for (const pack of packs) await this.putPack(pack);
	}

	private async putPack(blobs: readonly EncodedBlob[]): Promise<Stored> {
		const { file, entries } = encodePack(blobs);
		const name = `${FOLDER}${newName()}.pack`;
		await this.objects.put(name, file);
		await this.cache.keep(fileName(name), file);
		await this.indexes.keep(fileName(name), file.subarray(0, packIndexEnd(file) ?? 0));
		this.adopt(name, file.length, entries.map((entry) => [entry.digest, entry])); // prettier-ignore
		return this.known.get(name)!;
	}

	private async putBig({ digest, stored, encoding }: EncodedBlob): Promise<void> {
		const name = `${FOLDER}${newName()}.${digest.slice('sha256:'.length)}${encoding === ZSTD ? '.zst' : ''}`;
		await this.objects.put(name, stored);
		await this.cache.keep(fileName(name), stored);
		this.adopt(name, stored.length, [[digest, 'whole']]);
	}

	private async find(digest: Digest): Promise<Found> {
		let place = this.places.get(digest);
		if (!place) {
			await this.refreshNew();
			place = this.places.get(digest);
			if (!place) throw new BlobMissing(digest);
		}
		const name = fileName(place.object.name);
		const { entry } = place;
		const copy = await this.cache.read(name, entry === 'whole' ? undefined : { from: entry.offset, bytes: entry.storedBytes });
		const found = copy && (await unpack(digest, place, copy));
		if (found) return found;
		if (copy) await this.cache.forget(name);
		const bytes = await this.fetch(place.object.name);
		if (!bytes) return this.findElsewhere(digest, place);
		const fetched = await unpack(digest, place, partOf(bytes, entry));
		if (fetched) return fetched;
		// Forgotten, so that whoever has it can write it again. Damage rarely comes alone.
		this.suspect = true;
		await this.check(place.object);
		this.forget(digest, place);
		throw new BlobCorrupt(digest);
	}

	/** Forgets what of an object is damaged. */
	private async check(object: Stored): Promise<void> {
		if (this.sound.has(object)) return;
		const bytes = (await this.cache.read(fileName(object.name))) ?? (await this.fetch(object.name));
		if (!bytes) return this.lose(object.name);
		let whole = true;
		for (const [digest, entry] of object.live) {
			if (await unpack(digest, { object, entry }, partOf(bytes, entry))) continue;
			this.forget(digest, { object, entry });
			whole = false;
		}
		if (whole) this.sound.add(object);
		else await this.cache.forget(fileName(object.name));
	}

	/** Its object is gone: moved by another control, or lost. */
	private async findElsewhere(digest: Digest, gone: Place): Promise<Found> {
		this.lose(gone.object.name);
		await this.refresh();
		const place = this.places.get(digest);
		if (!place || place.object.name === gone.object.name) throw new BlobMissing(digest);
		return this.find(digest);
	}

	/** The whole object, once for all who ask meanwhile. */
	private fetch(name: string): Promise<Buffer | null> {
		const under = this.fetching.get(name);
		if (under) return under;
		const work = this.objects.get(name).then(async (bytes) => {
			if (bytes) await this.cache.keep(fileName(name), bytes);
			return bytes;
		});
		this.fetching.set(name, work);
		const done = () => this.fetching.delete(name);
		work.then(done, done);
		return work;
	}

	private forget(digest: Digest, place: Place): void {
		if (this.places.get(digest)?.object === place.object) this.places.delete(digest);
		place.object.live.delete(digest);
	}

	private lose(name: string): void {
		const object = this.known.get(name);
		if (!object) return;
		this.known.delete(name);
		for (const digest of object.live.keys()) if (this.places.get(digest)?.object === object) this.places.delete(digest);
		void this.indexes.forget(fileName(name));
	}

	/** Moves what lives in these packs into new ones, then deletes them. */
	private async rewrite(objects: readonly Stored[]): Promise<void> {
		let blobs: EncodedBlob[] = [];
		let bytes = 0;
		for (const object of objects) {
			for (const digest of object.live.keys()) {
				if (this.places.get(digest)?.object !== object) continue;
				const blob = await this.readStored(digest).catch(lostOrDamaged);
				if (!blob) continue;
				blobs.push(blob);
				bytes += blob.stored.length;
			}
			if (bytes < MAX_PACK_BYTES / 2 && blobs.length < MAX_PACK_BLOBS / 2) continue;
			await this.putEncoded(blobs);
			[blobs, bytes] = [[], 0];
		}
		await this.putEncoded(blobs);
		await this.drop(objects.filter(({ live }) => live.size === 0));
	}

	private async drop(objects: readonly Stored[]): Promise<void> {
		if (objects.length === 0) return;
		for (const { name } of objects) this.lose(name);
		await this.objects.delete(objects.map(({ name }) => name));
		for (const { name } of objects) await this.cache.forget(fileName(name));
	}

	/** Of two controls' marks the earlier counts, unless the blob was written again since. */
	private async readMarks(): Promise<void> {
		const bytes = await this.objects.get(MARKS);
		if (!bytes) return;
		let rows: unknown;
		try {
			rows = JSON.parse(bytes.toString());
		} catch {
			this.log.warn('store.marks_unreadable', { place: this.objects.place }); // the wait begins again: late, but safe
			return;
		}
		for (const [digest, at] of rows as [Digest, number][]) {
			const place = this.places.get(digest);
			if (!place || timeOf(place.object.name) > at) continue;
			this.marks.set(digest, Math.min(at, this.marks.get(digest) ?? at));
		}
	}
}

function lostOrDamaged(error: unknown): null {
	if (error instanceof BlobMissing || error instanceof BlobCorrupt) return null;
	throw error;
}

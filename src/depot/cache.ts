import { sha256, type Digest } from '#digest/digest.ts';
import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import { BlobCorrupt, BlobMissing, type BlobStore } from '#store/blob-store.ts';
import { applyDelta, blobsOf, readTree, treeOf, type Manifest } from '#store/manifest.ts';
import type { Gift } from '#wire/region.ts';
import type { Upstream } from './upstream.ts';

/**
 * The region's pull-through cache: what is asked for is fetched from control once, however many ask at the same time,
 * and stays. Gifts that came with wants are put in beforehand, so that most deploys fetch nothing.
 */

/** Manifests kept in memory: a few apps' artifacts and vendor packs, now and before. */
const MANIFESTS_MAX = 32;
/** Agents get gifts themselves; unless somebody asks, the cache has time until the deploy is over. */
const GIFT_AFTER_MS = 1_000;
const BATCH_BLOBS = 2_000;
/** Larger ones are fetched alone: a batch is held in memory whole. */
const BATCH_BLOB_BYTES = 4 * 1024 * 1024;

export interface CachedTree {
	manifest: Manifest;
	blobs: ReadonlySet<Digest>;
}

export class Cache {
	private readonly trees = new Map<Digest, CachedTree>();
	private readonly pullingTrees = new Map<Digest, Promise<CachedTree>>();
	private readonly pullingBlobs = new Map<Digest, Promise<Buffer>>();
	/** Blobs that come with a batch; null: it did not come with it. */
	private readonly batched = new Map<Digest, Promise<Buffer | null>>();
	/** Gifts to be put into the store; whoever asks has it done at once, and waits for them. */
	private gifts: Promise<void> = Promise.resolve();
	private asked = Promise.withResolvers<void>();
	private closed = false;
	private readonly store: BlobStore;
	private readonly upstream: Upstream;
	private readonly log: Log;
	private readonly clock: Clock;

	constructor(options: { store: BlobStore; upstream: Upstream; log: Log; clock: Clock }) {
		this.clock = options.clock;
		this.store = options.store;
		this.upstream = options.upstream;
		this.log = options.log;
	}

	/** The tree, from the store or from control; the blobs it names begin to be fetched. @throws BlobMissing, UpstreamError */
	tree(root: Digest): Promise<CachedTree> {
		const known = this.trees.get(root);
		if (known) {
			this.remember(root, known);
			return Promise.resolve(known);
		}
		return single(this.pullingTrees, root, async () => {
			await this.given();
			const given = this.trees.get(root);
			if (given) return given;
			const manifest = (await this.storedTree(root)) ?? (await this.pullTree(root));
			void this.prefetch(manifest);
			return this.remember(root, { manifest, blobs: blobsOf(manifest) });
		});
	}

	/** @throws BlobMissing, UpstreamError */
	async blob(digest: Digest): Promise<Buffer> {
		await this.given();
		try {
			return await this.store.read(digest);
		} catch (error) {
			// A damaged copy was forgotten by the store: a good one is fetched.
			if (!(error instanceof BlobMissing || error instanceof BlobCorrupt)) throw error;
		}
		const inBatch = await this.batched.get(digest);
		if (inBatch) return inBatch;
		return single(this.pullingBlobs, digest, async () => {
			const bytes = await this.upstream.blob(digest);
			await this.put([bytes]);
			return bytes;
		});
	}

	close(): void {
		this.closed = true;
		this.upstream.close();
	}

	/** Puts a gift's blobs and the tree it makes into the store, once what is going on now is over: no agent waits for the cache. */
	gift(gift: Gift): void {
		const { promise } = this.asked;
		this.gifts = this.gifts
			.then(() => Promise.race([promise, new Promise<void>((resolve) => this.clock.after(GIFT_AFTER_MS, resolve, { idle: true }))]))
			.then(() => (this.closed ? undefined : this.putGift(gift)))
			.catch((error: unknown) => this.log.warn('gift.refused', { artifact: gift.artifact, error }));
	}

	private given(): Promise<void> {
		this.asked.resolve();
		this.asked = Promise.withResolvers();
		return this.gifts;
	}

	/** The tree only as far as its base is here. Nothing in a gift is trusted. */
	private async putGift(gift: Gift): Promise<void> {
		const blobs = Object.values(gift.blobs).map((text) => Buffer.from(text, 'base64'));
		const base = gift.base === null ? new Map() : (this.trees.get(gift.base)?.manifest ?? (await this.storedTree(gift.base)));
		if (!base) return this.put(blobs);
		const manifest = applyDelta(base, gift);
		const { root, nodes } = treeOf(manifest);
		if (root !== gift.artifact) {
			this.log.warn('gift.other_root', { artifact: gift.artifact, root });
			return this.put(blobs);
		}
		await this.put([...nodes.values(), ...blobs]);
		this.remember(root, { manifest, blobs: blobsOf(manifest) });
		// What came to control in batches before the deploy is in no gift.
		void this.prefetch(manifest);
	}

	private remember(root: Digest, tree: CachedTree): CachedTree {
		this.trees.delete(root);
		this.trees.set(root, tree);
		for (const oldest of this.trees.keys()) if (this.trees.size > MANIFESTS_MAX) this.trees.delete(oldest);
		return tree;
	}

	private async storedTree(root: Digest): Promise<Manifest | null> {
		try {
			return await readTree(root, (digest) => this.store.read(digest));
		} catch (error) {
			if (error instanceof BlobMissing || error instanceof BlobCorrupt) return null;
			throw error;
		}
	}

	private async pullTree(root: Digest): Promise<Manifest> {
		const { manifest, tree } = await this.upstream.tree(root);
		await this.put([...tree.nodes.values()]);
		return manifest;
	}

	/** Whoever asks for one of them meanwhile waits for the batch that it comes with. */
	private async prefetch(manifest: Manifest): Promise<void> {
		const small = [...manifest.values()].flatMap((entry) => ('link' in entry || entry[1] > BATCH_BLOB_BYTES ? [] : [entry[0]]));
		const coming = new Map<Digest, (bytes: Buffer | null) => void>();
		for (const digest of small) {
			if (this.batched.has(digest)) continue;
			const { promise, resolve } = Promise.withResolvers<Buffer | null>();
			this.batched.set(digest, promise);
			coming.set(digest, resolve);
		}
		const came = (digest: Digest, bytes: Buffer | null) => {
			coming.get(digest)?.(bytes);
			coming.delete(digest);
			this.batched.delete(digest);
		};
		try {
			for (const digest of await this.store.has([...coming.keys()])) came(digest, null);
			while (coming.size > 0) {
				const got = await this.upstream.blobs([...coming.keys()].slice(0, BATCH_BLOBS));
				await this.put([...got.values()]);
				if (got.size === 0) break;
				for (const [digest, bytes] of got) came(digest, bytes);
			}
		} catch (error) {
			// Whoever needs one of them asks for it, and hears of it.
			this.log.warn('prefetch.failed', { missing: coming.size, error });
		} finally {
			for (const digest of Array.from(coming.keys())) came(digest, null);
		}
	}

	/** A cache that can't keep something still answers with it. */
	private async put(blobs: readonly Uint8Array[]): Promise<void> {
		try {
			await this.store.write(blobs);
		} catch (error) {
			this.log.warn('cache.not_kept', { blobs: blobs.length, first: blobs[0] && sha256(blobs[0]), error });
		}
	}
}

/** One call of `make` for all that ask for `key` at the same time. */
function single<K, V>(under: Map<K, Promise<V>>, key: K, make: () => Promise<V>): Promise<V> {
	const existing = under.get(key);
	if (existing) return existing;
	const made = make().finally(() => under.delete(key));
	under.set(key, made);
	return made;
}

import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { sha256, type Digest } from '#digest/digest.ts';
import type { Log } from '#log/log.ts';
import type { BlobStore } from '#store/blob-store.ts';
import { applyDelta, decodeManifest, encodeManifest, treeOf, type Entry, type Manifest } from '#store/manifest.ts';
import type { Gift } from '#wire/region.ts';
import type { DepotClient } from './depot-client.ts';

/** What this server has of artifacts: gifts first, then its own disk, then the depot; each thing fetched once at a time. */
export interface Library {
	/** Takes in what came along with a message. What is wrong with it is logged and forgotten: all of it can be fetched. */
	accept(gift: Gift): void;
	manifest(root: Digest): Promise<Manifest>;
	blob(digest: Digest): Promise<Buffer>;
	/** Without asking anybody. */
	known(root: Digest): Manifest | null;
	forgetBut(roots: ReadonlySet<Digest>): void;
}

const MANIFESTS_IN_MEMORY = 64;
const GIFT_BYTES_IN_MEMORY = 8 * 1024 * 1024;

export function createLibrary(of: { directory: string; store: BlobStore; depot: DepotClient; log: Log }): Library {
	const { store, depot, log } = of;
	const trees = join(of.directory, 'trees');
	mkdirSync(trees, { recursive: true });
	const manifests = new Map<Digest, Manifest>();
	const gifts = new Map<Digest, Buffer>();
	const blobs = singleFlight(fetchBlob);
	const roots = singleFlight(fetchManifest);
	let giftBytes = 0;

	function file(root: Digest): string {
		return join(trees, `${root.slice('sha256:'.length)}.json`);
	}

	function keepManifest(root: Digest, manifest: Manifest): void {
		manifests.delete(root);
		manifests.set(root, manifest);
		for (const oldest of manifests.keys()) {
			if (manifests.size <= MANIFESTS_IN_MEMORY) break;
			manifests.delete(oldest);
		}
	}

	function knownManifest(root: Digest): Manifest | null {
		const known = manifests.get(root);
		if (known) return known;
		try {
			const manifest = decodeManifest(readFileSync(file(root)));
			if (treeOf(manifest).root !== root) return null;
			keepManifest(root, manifest);
			return manifest;
		} catch {
			return null; // not here, or damaged: fetched again
		}
	}

	async function fetchManifest(root: Digest): Promise<Manifest> {
		const known = knownManifest(root) ?? (await depot.tree(root));
		saveManifest(root, known);
		return known;
	}

	function saveManifest(root: Digest, manifest: Manifest): void {
		keepManifest(root, manifest);
		const draft = `${file(root)}.${process.pid}`;
		try {
			writeFileSync(draft, encodeManifest(manifest));
			renameSync(draft, file(root));
		} catch (error) {
			rmSync(draft, { force: true });
			log.warn('library.not_kept', { root, error });
		}
	}

	async function fetchBlob(digest: Digest): Promise<Buffer> {
		const [stored] = await store.has([digest]);
		if (stored) {
			try {
				return await store.read(digest);
			} catch (error) {
				log.warn('library.damaged', { digest, error });
			}
		}
		const bytes = await depot.blob(digest);
		store.write([bytes]).catch((error: unknown) => log.warn('library.not_kept', { digest, error }));
		return bytes;
	}

	function acceptBlobs(encoded: Record<string, string>): void {
		const fresh: Buffer[] = [];
		for (const [digest, base64] of Object.entries(encoded)) {
			const bytes = Buffer.from(base64, 'base64');
			const actual = sha256(bytes);
			if (actual !== digest) log.warn('gift.wrong_digest', { digest, actual });
			if (gifts.has(actual)) continue;
			gifts.set(actual, bytes);
			giftBytes += bytes.length;
			fresh.push(bytes);
		}
		for (const [oldest, bytes] of gifts) {
			if (giftBytes <= GIFT_BYTES_IN_MEMORY) break;
			gifts.delete(oldest);
			giftBytes -= bytes.length;
		}
		if (fresh.length > 0) store.write(fresh).catch((error: unknown) => log.warn('library.not_kept', { error }));
	}

	return {
		accept(gift) {
			acceptBlobs(gift.blobs);
			const base = gift.base === null ? new Map<string, Entry>() : knownManifest(gift.base);
			if (!base || manifests.has(gift.artifact)) return;
			try {
				const manifest = applyDelta(base, { set: gift.set, delete: gift.delete });
				if (treeOf(manifest).root === gift.artifact) saveManifest(gift.artifact, manifest);
				else log.warn('gift.wrong_root', { artifact: gift.artifact });
			} catch (error) {
				log.warn('gift.unusable', { artifact: gift.artifact, error });
			}
		},
		known: knownManifest,
		forgetBut(keep) {
			for (const root of manifests.keys()) if (!keep.has(root)) manifests.delete(root);
			const files = new Set([...keep].map((root) => basename(file(root))));
			for (const name of readdirSync(trees)) if (name.endsWith('.json') && !files.has(name)) rmSync(join(trees, name), { force: true });
		},
		manifest: (root) => roots(root),
		blob: (digest) => {
			const gift = gifts.get(digest);
			return gift ? Promise.resolve(gift) : blobs(digest);
		},
	};
}

/** Askers of the same key share one run of `work`. */
function singleFlight<K, V>(work: (key: K) => Promise<V>): (key: K) => Promise<V> {
	const flights = new Map<K, Promise<V>>();
	return (key) => {
		const flying = flights.get(key);
		if (flying) return flying;
		const flight = work(key).finally(() => flights.delete(key));
		flights.set(key, flight);
		return flight;
	};
}

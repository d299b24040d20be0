import type { Digest } from '#digest/digest.ts';
import { BlobCorrupt, BlobMissing, type BlobStore } from '#store/blob-store.ts';
import { applyDelta, blobsOf, manifestOf, readTree, treeOf, type Manifest } from '#store/manifest.ts';
import type { State } from '#state/state.ts';
import type { DeployRequest } from '#wire/api.ts';
import { Refusal } from './ports.ts';

/** Trees that apps deployed: in memory the last ones, so that a delta costs no look into the store. */

const TREES_MAX = 64;

export interface KnownTree {
	root: Digest;
	manifest: Manifest;
	/** Directory nodes and files' blobs: all that must be stored. */
	digests: ReadonlySet<Digest>;
}

/** A tree that a delta makes, with what of it is new. */
export interface NewTree extends KnownTree {
	newNodes: Buffer[];
	/** Files' blobs that its base does not have, with the sizes the manifest says. */
	newBlobs: Map<Digest, number>;
}

type Delta = DeployRequest['manifest'];

export class Manifests {
	private readonly trees = new Map<string, KnownTree>();
	private readonly store: BlobStore;
	private readonly state: State;

	constructor(options: { store: BlobStore; state: State }) {
		this.store = options.store;
		this.state = options.state;
	}

	/** The tree with this root if control has seen it of this app. Bases never cross from one app to another. */
	async find(app: string, root: Digest): Promise<KnownTree | null> {
		const known = this.trees.get(`${app} ${root}`);
		if (known) return known;
		if (!(await this.state.blobs.knowsManifest(app, root))) return null;
		try {
			const manifest = await readTree(root, (digest) => this.store.read(digest));
			return this.remember(app, { root, manifest, digests: new Set([...treeOf(manifest).nodes.keys(), ...blobsOf(manifest)]) });
		} catch (error) {
			// Its nodes were collected since, or damaged on disk: as good as never seen, and the whole is sent again.
			if (error instanceof BlobMissing || error instanceof BlobCorrupt) return null;
			throw error;
		}
	}

	/** @throws Refusal 409 base_unknown, 422 root_mismatch; TreeError */
	async apply(app: string, delta: Delta, root: Digest): Promise<NewTree> {
		const base = delta.base === null ? null : await this.find(app, delta.base);
		if (delta.base !== null && !base) throw baseUnknown(delta.base);
		if (base && base.root === root && delta.delete.length === 0 && Object.keys(delta.set).length === 0) {
			return { ...base, newNodes: [], newBlobs: new Map() };
		}
		const manifest = base ? applyDelta(base.manifest, delta) : manifestOf(Object.entries(delta.set));
		const tree = treeOf(manifest);
		if (tree.root !== root) {
			const message = `the files sent make the tree ${tree.root}, not ${root}: the delta was made against something else`;
			throw new Refusal('root_mismatch', 422, message, 'send the whole manifest', { computed: tree.root });
		}
		const newBlobs = new Map<Digest, number>();
		for (const entry of Object.values(delta.set)) {
			if (!('link' in entry) && !base?.digests.has(entry[0])) newBlobs.set(entry[0], entry[1]);
		}
		const newNodes = [...tree.nodes].filter(([digest]) => !base?.digests.has(digest)).map(([, node]) => node);
		return { root, manifest, digests: new Set([...tree.nodes.keys(), ...blobsOf(manifest)]), newNodes, newBlobs };
	}

	/** Call once everything of it is stored and owned. */
	async accepted(app: string, { root, manifest, digests }: KnownTree): Promise<void> {
		if (this.trees.has(`${app} ${root}`)) return;
		await this.state.blobs.sawManifest(app, root);
		this.remember(app, { root, manifest, digests });
	}

	/** The store lost something: nothing in memory is to be relied on. */
	forget(): void {
		this.trees.clear();
	}

	private remember(app: string, tree: KnownTree): KnownTree {
		this.trees.set(`${app} ${tree.root}`, tree);
		for (const oldest of this.trees.keys()) if (this.trees.size > TREES_MAX) this.trees.delete(oldest);
		return tree;
	}
}

export function baseUnknown(base: Digest): Refusal {
	return new Refusal('base_unknown', 409, `control has not seen the tree ${base} of this app`, 'send the whole manifest', { base });
}

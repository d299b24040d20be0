import type { Clock } from '#clock/clock.ts';
import type { Digest } from '#digest/digest.ts';
import type { BlobStore } from '#store/blob-store.ts';
import { packDigests, unpackDigests } from './digests.ts';
import type { Database } from './database.ts';
import type { BlobOwners } from './state.ts';

/** How long a "have" answer is good for. */
const LEASE_MS = 3_600_000;
/** A lease with this much left is not renewed: most answers then write nothing. */
const RENEW_BELOW_MS = LEASE_MS / 2;
const MANIFESTS_KEPT = 50;

export class BlobTable implements BlobOwners {
	private readonly db: Database;
	private readonly clock: Clock;

	constructor(db: Database, clock: Clock) {
		this.db = db;
		this.clock = clock;
	}

	async own(app: string, digests: readonly Digest[]): Promise<void> {
		if (digests.length === 0) return;
		const values = [app, packDigests(digests), this.clock.now() + LEASE_MS];
		await this.db.call('jibe_own', 'select jibe.own_blobs($1, $2, $3)', values);
	}

	async owned(app: string, digests: readonly Digest[]): Promise<Set<Digest>> {
		if (digests.length === 0) return new Set();
		const found = await this.db.call<Buffer | null>(
			'jibe_owned',
			`select string_agg(b.digest, ''::bytea) from jibe.unpack($2) as wanted (digest) join jibe.blob b on b.app = $1 and b.digest = wanted.digest`,
			[app, packDigests(digests)],
		);
		return new Set(found ? unpackDigests(found) : []);
	}

	async missing(app: string, digests: readonly Digest[], store: BlobStore): Promise<Digest[]> {
		const owned = await this.owned(app, digests);
		const stored = await store.has([...owned]);
		const now = this.clock.now();
		const values = [app, packDigests([...stored]), now + RENEW_BELOW_MS, now + LEASE_MS];
		// The lease comes before the answer. What was collected since it was looked up is missing after all.
		const leased = await this.db.call<Buffer | null>('jibe_lease', 'select jibe.lease_blobs($1, $2, $3, $4)', values);
		const safe = new Set(leased ? unpackDigests(leased) : []);
		return digests.filter((digest) => !safe.has(digest));
	}

	async sawManifest(app: string, root: Digest): Promise<void> {
		await this.db.call('jibe_saw', 'select jibe.saw_manifest($1, $2, $3, $4)', [
			app,
			packDigests([root]),
			this.clock.now(),
			MANIFESTS_KEPT,
		]);
	}

	async knowsManifest(app: string, root: Digest): Promise<boolean> {
		const query = this.db.build
			.selectFrom('jibe.manifest')
			.select('seen_at')
			.where('app', '=', app)
			.where('root', '=', packDigests([root]));
		return (await this.db.rows(query)).length > 0;
	}
}

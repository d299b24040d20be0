import type { BuildResult } from '#build/result.ts';
import type { Digest } from '#digest/digest.ts';
import type { Entry } from '#store/manifest.ts';
import type { Deployment, DeployRequest } from '#wire/api.ts';
import { missingAnswer } from '#wire/api.ts';
import { artifactAnswer, type ArtifactMetadata } from '#wire/builds.ts';
import { INLINE_LIMIT_BYTES, MAX_UPLOAD_BYTES, UPLOAD_TYPE, encodeUpload } from '#wire/upload.ts';
import type { Attempt } from './attempt.ts';
import { Refused } from './control.ts';

/** What a build made, as it is brought to control: from a compile, or packed of files. */
export type Made = Pick<
	BuildResult,
	'artifact' | 'manifest' | 'delta' | 'whole' | 'newBlobs' | 'blob' | 'vendor' | 'modules' | 'markAccepted'
>;

/** Answers that change what is sent; the next refusal of the same kind is final. */
const MAX_ANSWERS = 4;
/** A batch is compressed as a whole, so it is kept well below what one request may hold. */
const BATCH_BYTES = MAX_UPLOAD_BYTES / 4;
const ARTIFACT_SILENT_MS = 120_000;

/**
 * As a laptop does: the difference to what control is known to have, in one request when it is small; what is large goes ahead.
 * Where control turns out to know less, it says what it lacks, and is sent that.
 */
export class Bringing {
	readonly #attempt: Attempt;
	readonly #made: Made;
	#manifest: DeployRequest['manifest'];
	#vendorManifest: DeployRequest['vendorManifest'] = null;
	#blobs: Map<Digest, Buffer>;
	/** Bytes of all request bodies. */
	sentBytes = 0;

	constructor(attempt: Attempt, made: Made) {
		this.#attempt = attempt;
		this.#made = made;
		this.#manifest = made.delta;
		this.#blobs = made.newBlobs;
	}

	/** What is too large to go with the artifact itself; nothing is decided by it. */
	async ahead(): Promise<void> {
		const { vendor } = this.#made;
		if (vendor !== null && !vendor.known) this.#vendorManifest = wholeOf(vendor.manifest);
		if (sizeOf(this.#blobs.values()) > INLINE_LIMIT_BYTES || this.#vendorManifest !== null || this.#isUnsure()) await this.#sendMissing();
	}

	/** All of it is named, and none of it at hand. */
	#isUnsure(): boolean {
		return this.#blobs.size === 0 && this.#manifest.base === null;
	}

	async bring(
		rest: Omit<DeployRequest, 'artifact' | 'manifest' | 'vendor' | 'vendorManifest' | 'modules'>,
		build: () => ArtifactMetadata,
		gating: boolean,
	): Promise<{ deployment: Deployment; already: boolean }> {
		const { artifact, vendor, modules } = this.#made;
		for (let tries = 0; ; tries++) {
			const own = { artifact, manifest: this.#manifest, vendor: vendor?.root ?? null, vendorManifest: this.#vendorManifest, modules };
			const { job, worker } = this.#attempt;
			const header = { worker, attempt: job.attempt, deploy: { ...rest, ...own }, build: build(), gating };
			const bytes = encodeUpload(header, [...this.#blobs.values()]);
			this.sentBytes += bytes.length;
			try {
				const answer = await this.#attempt.ask('POST', 'artifact', { bytes, type: UPLOAD_TYPE }, { silentMs: ARTIFACT_SILENT_MS });
				this.#made.markAccepted();
				return artifactAnswer.parse(answer);
			} catch (error) {
				if (!(error instanceof Refused) || tries >= MAX_ANSWERS) throw error;
				await this.#heed(error);
			}
		}
	}

	/** @throws the refusal when nothing can be changed */
	async #heed(refusal: Refused): Promise<void> {
		switch (refusal.code) {
			case 'base_unknown':
			case 'root_mismatch': {
				const { whole, vendor, blob } = this.#made;
				this.#manifest = whole;
				this.#blobs = new Map(digestsIn(whole.set).map((digest) => [digest, blob(digest)]));
				if (vendor !== null) this.#vendorManifest = wholeOf(vendor.manifest);
				return this.#sendMissing();
			}
			case 'blobs_missing':
				return this.#send((refusal.data as { missing: Digest[] }).missing);
			default:
				throw refusal;
		}
	}

	async #sendMissing(): Promise<void> {
		const { job, worker } = this.#attempt;
		const named = [...digestsIn(this.#manifest.set), ...digestsIn(this.#vendorManifest?.set ?? {})];
		const digests = [...new Set([...this.#blobs.keys(), ...named])];
		const answer = await this.#attempt.ask('POST', 'missing', { json: { worker, attempt: job.attempt, digests } });
		await this.#send(missingAnswer.parse(answer).missing);
	}

	async #send(missing: readonly Digest[]): Promise<void> {
		this.#blobs = new Map();
		let batch: Buffer[] = [];
		let size = 0;
		const flush = async () => {
			if (batch.length === 0) return;
			const bytes = encodeUpload({}, batch);
			this.sentBytes += bytes.length;
			[batch, size] = [[], 0];
			await this.#attempt.ask('PUT', this.#attempt.query('blobs'), { bytes, type: UPLOAD_TYPE }, { silentMs: ARTIFACT_SILENT_MS });
		};
		const vendor = new Set(digestsIn(wholeOf(this.#made.vendor?.manifest ?? new Map()).set));
		for (const digest of missing) {
			const blob = vendor.has(digest) && this.#made.vendor ? this.#made.vendor.blob(digest) : this.#made.blob(digest);
			if (size + blob.length > BATCH_BYTES) await flush();
			batch.push(blob);
			size += blob.length;
		}
		await flush();
	}
}

function wholeOf(manifest: ReadonlyMap<string, Entry>): { base: null; set: Record<string, Entry>; delete: string[] } {
	return { base: null, set: Object.fromEntries(manifest), delete: [] };
}

function digestsIn(set: Record<string, Entry>): Digest[] {
	return Object.values(set).flatMap((entry) => (Array.isArray(entry) ? [entry[0]] : []));
}

function sizeOf(blobs: Iterable<Buffer>): number {
	let bytes = 0;
	for (const blob of blobs) bytes += blob.length;
	return bytes;
}

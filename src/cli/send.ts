import type { BuildResult } from '#build/result.ts';
import type { Digest } from '#digest/digest.ts';
import { systemClock } from '#clock/clock.ts';
import type { DeployRequest } from '#wire/api.ts';
import type { Tests } from './tests.ts';
import { encodeUpload, INLINE_LIMIT_BYTES, MAX_UPLOAD_BYTES, UPLOAD_TYPE } from '#wire/upload.ts';
import { EXIT, Failure } from './failure.ts';
import { follow, type Outcome } from './follow.ts';
import { isAncestor, missingCommits } from './git.ts';
import { count } from './output.ts';
import { ApiFailure, ask, type Server } from './server.ts';
import type { Invocation } from './verbs.ts';

interface Sent {
	invocation: Invocation;
	server: Server;
	directory: string;
	built: BuildResult;
	request: DeployRequest;
	/** They run meanwhile, and control waits for what they say. */
	beside: readonly Tests[];
}

/**
 * Gets an artifact to control: as one request with the difference to what control is known to have. Where control
 * turns out to know less, it says what it lacks, and is sent that.
 */
export class Sending {
	/** Bytes of all request bodies. */
	uploadedBytes = 0;
	/** When the request that became the deployment was sent, on the monotonic clock. */
	sentAtMs = 0;
	readonly #of: Omit<Sent, 'request'>;
	#request: DeployRequest;
	#blobs: Map<Digest, Buffer>;

	constructor(of: Sent) {
		this.#of = of;
		this.#request = of.request;
		this.#blobs = of.built.newBlobs;
	}

	async send(): Promise<Outcome> {
		const { built, invocation, server, beside } = this.#of;
		const { vendor } = built;
		if (vendor !== null && !vendor.known) this.#sendVendor();
		if (sizeOf(this.#blobs.values()) > INLINE_LIMIT_BYTES || this.#request.vendorManifest !== null) await this.#sendMissing();
		for (let tries = 0; ; tries++) {
			const bytes = encodeUpload(this.#request, [...this.#blobs.values()]);
			this.uploadedBytes += bytes.length;
			this.sentAtMs = systemClock.monotonic();
			const { app } = this.#request.config;
			try {
				const following = follow({
					server,
					out: invocation.out,
					request: { method: 'POST', path: `/api/v1/apps/${app}/deployments`, body: { bytes, type: UPLOAD_TYPE } },
					app,
					environment: this.#request.environment,
					detach: invocation.args.flag('detach'),
					named: (id) => beside.forEach((tests) => tests.tell(server, id)),
					needed: () => beside.some(({ running }) => running),
				});
				const outcome = await Promise.race([following, ...beside.map(({ untold }) => untold)]);
				built.markAccepted();
				return outcome;
			} catch (error) {
				if (!(error instanceof ApiFailure) || tries >= MAX_ANSWERS) throw error;
				await this.#heed(error);
			}
		}
	}

	/** Changes what is sent by what control said was wrong with it. @throws the refusal when nothing can be changed */
	async #heed(refusal: ApiFailure): Promise<void> {
		switch (refusal.code) {
			case 'base_unknown':
			case 'root_mismatch':
				return await this.#sendWhole();
			case 'blobs_missing':
				return await this.#sendThese((refusal.data as { missing: Digest[] }).missing);
			case 'colleague':
				return await this.#nameAncestor(refusal);
			default:
				throw refusal;
		}
	}

	async #sendWhole(): Promise<void> {
		const { built } = this.#of;
		this.#request = { ...this.#request, manifest: built.whole };
		this.#blobs = new Map(digestsIn(built.whole.set).map((digest) => [digest, built.blob(digest)]));
		if (built.vendor !== null) this.#sendVendor();
		await this.#sendMissing();
	}

	#sendVendor(): void {
		const { vendor } = this.#of.built;
		if (vendor === null) return;
		const set = Object.fromEntries(vendor.manifest);
		this.#request = { ...this.#request, vendorManifest: { base: null, set, delete: [] } };
	}

	/** Everything that the request names and control lacks, ahead of the request, in batches. */
	async #sendMissing(): Promise<void> {
		const { server, built } = this.#of;
		const vendor = this.#request.vendorManifest === null ? [] : digestsIn(this.#request.vendorManifest.set);
		const digests = [...new Set([...this.#blobs.keys(), ...vendor, ...(built.delta.base === null ? digestsIn(built.whole.set) : [])])];
		const { app } = this.#request.config;
		const { missing } = (await ask(server, { method: 'POST', path: `/api/v1/apps/${app}/missing`, json: { digests } })) as {
			missing: Digest[];
		};
		await this.#sendThese(missing);
	}

	async #sendThese(missing: readonly Digest[]): Promise<void> {
		const { server, invocation } = this.#of;
		const { app } = this.#request.config;
		this.#blobs = new Map();
		let batch: Buffer[] = [];
		let sent = 0;
		const flush = async () => {
			if (batch.length === 0) return;
			const bytes = encodeUpload({}, batch);
			this.uploadedBytes += bytes.length;
			await ask(server, { method: 'PUT', path: `/api/v1/apps/${app}/blobs`, body: { bytes, type: UPLOAD_TYPE } });
			sent += batch.length;
			invocation.out.now(`Uploading… ${sent} of ${count(missing.length, 'file')}`);
			batch = [];
		};
		let size = 0;
		for (const digest of missing) {
			const blob = this.#blobOf(digest);
			if (size + blob.length > BATCH_BYTES) {
				await flush();
				size = 0;
			}
			batch.push(blob);
			size += blob.length;
		}
		await flush();
	}

	#blobOf(digest: Digest): Buffer {
		const { built } = this.#of;
		const own = built.newBlobs.get(digest);
		if (own !== undefined) return own;
		return built.vendor !== null && this.#vendorDigests().has(digest) ? built.vendor.blob(digest) : built.blob(digest);
	}

	#knownVendor: Set<Digest> | null = null;
	#vendorDigests(): Set<Digest> {
		this.#knownVendor ??= new Set(digestsIn(Object.fromEntries(this.#of.built.vendor?.manifest ?? [])));
		return this.#knownVendor;
	}

	/** Control knows only the last commits before HEAD; git knows all. @throws Failure when what serves really is not among them */
	async #nameAncestor(refusal: ApiFailure): Promise<void> {
		const { directory } = this.#of;
		const { commit } = refusal.data as { commit: string };
		const { git } = this.#request;
		if (git !== null && !git.ancestors.includes(commit) && (await isAncestor(directory, commit)) === true) {
			this.#request = { ...this.#request, git: { ...git, ancestors: [commit, ...git.ancestors.slice(0, ANCESTORS - 1)] } };
			return;
		}
		const lines = await missingCommits(directory, commit);
		const missing = lines.length > 0 ? `\nmissing here:\n${lines.map((line) => `  ${line}`).join('\n')}` : '';
		throw new Failure('colleague', EXIT.usage, `${refusal.message}${missing}`, { hint: refusal.hint, fields: { commit, missing: lines } });
	}
}

/** Answers that change what is sent; the next refusal of the same kind is final. */
const MAX_ANSWERS = 4;
const ANCESTORS = 50;
/** A batch is compressed as a whole, so it is kept well below what one request may hold. */
const BATCH_BYTES = MAX_UPLOAD_BYTES / 4;

function digestsIn(set: DeployRequest['manifest']['set']): Digest[] {
	return Object.values(set).flatMap((entry) => (Array.isArray(entry) ? [entry[0]] : []));
}

function sizeOf(blobs: Iterable<Buffer>): number {
	let bytes = 0;
	for (const blob of blobs) bytes += blob.length;
	return bytes;
}

import { z } from 'zod';
import type { Digest } from '#digest/digest.ts';
import { BlobCorrupt, BlobMissing } from '#store/blob-store.ts';
import { readTree } from '#store/manifest.ts';
import { MAX_BLOBS_ANSWER_BYTES, blobsRequest, treeAnswer } from '#wire/api.ts';
import { digest } from '#wire/names.ts';
import { UPLOAD_TYPE, encodeUpload } from '#wire/upload.ts';
import type { House } from '../house.ts';
import { Raw, route, type Route } from '../route.ts';

/** Blobs and trees for depots. A digest can't be guessed, and a depot serves its agents only what is placed in their regions. */
export function blobRoutes({ store }: House): Route[] {
	return [
		route({
			method: 'GET',
			path: '/blobs/:digest',
			summary: "A blob's bytes.",
			role: 'program',
			params: z.object({ digest }),
			answer: 'application/octet-stream',
			async handle({ params }) {
				const bytes = await store.read(params.digest);
				return new Raw(Uint8Array.from(bytes), 'application/octet-stream', { 'cache-control': 'immutable' });
			},
		}),
		route({
			method: 'POST',
			path: '/blobs',
			summary: 'Many small blobs: those that fit into one answer, in the order asked.',
			role: 'program',
			body: blobsRequest,
			answer: UPLOAD_TYPE,
			async handle({ body }) {
				const blobs: Buffer[] = [];
				let bytes = 0;
				for (const each of body.digests) {
					const blob = await readOrNull(each);
					if (!blob) continue;
					bytes += blob.length;
					if (blobs.length > 0 && bytes > MAX_BLOBS_ANSWER_BYTES) break;
					blobs.push(blob);
				}
				return new Raw(Uint8Array.from(encodeUpload({}, blobs)), UPLOAD_TYPE);
			},
		}),
		route({
			method: 'GET',
			path: '/trees/:root',
			summary: 'A whole tree: path → entry.',
			role: 'program',
			params: z.object({ root: digest }),
			answer: treeAnswer,
			async handle({ params }) {
				return { set: Object.fromEntries(await readTree(params.root, (each) => store.read(each))) };
			},
		}),
	];

	/** What is not here, or damaged, is left out: the depot sees what it got. */
	async function readOrNull(of: Digest): Promise<Buffer | null> {
		try {
			return await store.read(of);
		} catch (error) {
			if (error instanceof BlobMissing || error instanceof BlobCorrupt) return null;
			throw error;
		}
	}
}

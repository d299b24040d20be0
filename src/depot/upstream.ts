import { Pool } from 'undici';
import { sha256, type Digest } from '#digest/digest.ts';
import { BlobMissing } from '#store/blob-store.ts';
import { manifestOf, treeOf, type Manifest, type Tree } from '#store/manifest.ts';
import { treeAnswer } from '#wire/api.ts';
import { decodeUpload } from '#wire/upload.ts';

/** Blobs and trees from control. Everything that comes is checked against the digest it was asked by. */

const CONNECTIONS = 4;
const TIMEOUT_MS = 30_000;

export interface Upstream {
	/** @throws BlobMissing, UpstreamError */
	blob(digest: Digest): Promise<Buffer>;
	/** Those of them that fit into one answer; at least one, unless control has none of them. @throws UpstreamError */
	blobs(digests: readonly Digest[]): Promise<Map<Digest, Buffer>>;
	/** @throws BlobMissing, UpstreamError */
	tree(root: Digest): Promise<{ manifest: Manifest; tree: Tree }>;
	close(): Promise<void>;
}

export class UpstreamError extends Error {
	readonly code = 'control_unavailable';
}

export function createUpstream(url: string, credential: () => string): Upstream {
	const pool = new Pool(url, { connections: CONNECTIONS, headersTimeout: TIMEOUT_MS, bodyTimeout: TIMEOUT_MS });

	async function ask(method: 'GET' | 'POST', path: string, body?: string): Promise<{ status: number; bytes: Buffer }> {
		try {
			const headers = { authorization: `Bearer ${credential()}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) };
			const answer = await pool.request({ method, path, headers, ...(body === undefined ? {} : { body }) });
			return { status: answer.statusCode, bytes: Buffer.from(await answer.body.arrayBuffer()) };
		} catch (cause) {
			throw new UpstreamError(`control at ${url} could not be asked for ${path}`, { cause });
		}
	}

	function refuse(path: string, { status, bytes }: { status: number; bytes: Buffer }): never {
		throw new UpstreamError(`control answered ${status} to ${path}: ${bytes.toString().slice(0, 500)}`);
	}

	return {
		async blob(digest) {
			const answer = await ask('GET', `/blobs/${digest}`);
			if (answer.status === 404) throw new BlobMissing(digest);
			if (answer.status !== 200) refuse(`/blobs/${digest}`, answer);
			if (sha256(answer.bytes) !== digest) throw new UpstreamError(`what control sent for ${digest} has another digest`);
			return answer.bytes;
		},
		async blobs(digests) {
			const answer = await ask('POST', '/blobs', JSON.stringify({ digests }));
			if (answer.status !== 200) refuse('/blobs', answer);
			const { blobs } = decodeUpload(answer.bytes);
			const asked = new Set(digests);
			return new Map([...blobs].filter(([digest]) => asked.has(digest)));
		},
		async tree(root) {
			const answer = await ask('GET', `/trees/${root}`);
			if (answer.status === 404) throw new BlobMissing(root);
			if (answer.status !== 200) refuse(`/trees/${root}`, answer);
			const manifest = manifestOf(Object.entries(treeAnswer.parse(JSON.parse(answer.bytes.toString())).set));
			const tree = treeOf(manifest);
			if (tree.root !== root) throw new UpstreamError(`what control sent for the tree ${root} has the root ${tree.root}`);
			return { manifest, tree };
		},
		close: () => pool.close(),
	};
}

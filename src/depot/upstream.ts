import { once } from 'node:events';
import { Agent, request, type IncomingMessage } from 'node:http';
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
	close(): void;
}

export class UpstreamError extends Error {
	readonly code = 'control_unavailable';
}

export function createUpstream(url: string, credential: () => string): Upstream {
	const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });

	async function ask(method: 'GET' | 'POST', path: string, body?: string): Promise<{ status: number; bytes: Buffer }> {
		try {
			const headers = { authorization: `Bearer ${credential()}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) };
			const asked = request(url + path, { method, headers, agent, timeout: TIMEOUT_MS });
			asked.on('timeout', () => asked.destroy(new Error(`no byte within ${TIMEOUT_MS} ms`)));
			asked.end(body);
			const [answer] = (await once(asked, 'response')) as [IncomingMessage];
			const parts: Buffer[] = [];
			for await (const part of answer as AsyncIterable<Buffer>) parts.push(part);
			return { status: answer.statusCode ?? 0, bytes: Buffer.concat(parts) };
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
		close: () => agent.destroy(),
	};
}

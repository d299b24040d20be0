import { Agent, request, type IncomingMessage } from 'node:http';
import { promisify } from 'node:util';
import { zstdDecompress } from 'node:zlib';
import { sha256, type Digest } from '#digest/digest.ts';
import { applyDelta, treeOf, type Entry, type Manifest } from '#store/manifest.ts';

/** Blobs and trees from the region's depot; everything is checked against its digest. */
export interface DepotClient {
	/** @throws FetchError */
	blob(digest: Digest): Promise<Buffer>;
	/** @throws FetchError */
	tree(root: Digest): Promise<Manifest>;
	close(): void;
}

const MAX_CONNECTIONS = 16;
const FETCH_TIMEOUT_MS = 60_000;
const MAX_BODY_BYTES = 256 * 1024 * 1024;
const inflate = promisify(zstdDecompress);

export class FetchError extends Error {
	readonly code = 'fetch';
}

export function createDepotClient(of: { socketPath: string; credential: () => string }): DepotClient {
	const agent = new Agent({ keepAlive: true, maxSockets: MAX_CONNECTIONS });
	const get = (path: string): Promise<Buffer> =>
		new Promise((resolve, reject) => {
			const fail = (cause: unknown) => reject(new FetchError(`the depot gave no ${path}: ${wordsOf(cause)}`, { cause }));
			const headers = { authorization: `Bearer ${of.credential()}`, 'accept-encoding': 'zstd' };
			const asking = request({ socketPath: of.socketPath, path, agent, headers, timeout: FETCH_TIMEOUT_MS }, (response) => {
				readBody(response).then(
					(body) =>
						response.statusCode === 200
							? resolve(body)
							: fail(refusalIn(body) ?? `status ${response.statusCode} ${body.toString().slice(0, 300)}`),
					fail,
				);
			});
			asking.on('timeout', () => asking.destroy(new Error(`silent for ${FETCH_TIMEOUT_MS} ms`)));
			asking.on('error', fail).end();
		});
	return {
		async blob(digest) {
			const bytes = await get(`/blobs/${digest}`);
			if (sha256(bytes) !== digest) throw new FetchError(`the depot's bytes for ${digest} do not have that digest`);
			return bytes;
		},
		async tree(root) {
			const { set } = JSON.parse((await get(`/trees/${root}`)).toString()) as { set?: Record<string, Entry> };
			const manifest = applyDelta(new Map(), { set: set ?? {}, delete: [] });
			if (treeOf(manifest).root !== root) throw new FetchError(`the depot's tree for ${root} has another root`);
			return manifest;
		},
		close: () => agent.destroy(),
	};
}

function wordsOf(cause: unknown): string {
	return cause instanceof Error ? cause.message : String(cause);
}

/** What the depot said in words. */
function refusalIn(body: Buffer): string | null {
	try {
		const { error } = JSON.parse(body.toString()) as { error?: { message?: string } };
		return error?.message ?? null;
	} catch {
		return null; // not from a depot
	}
}

async function readBody(response: IncomingMessage): Promise<Buffer> {
	const parts: Buffer[] = [];
	let size = 0;
	for await (const part of response as AsyncIterable<Buffer>) {
		size += part.length;
		if (size > MAX_BODY_BYTES) throw new Error(`more than ${MAX_BODY_BYTES} bytes`);
		parts.push(part);
	}
	const body = Buffer.concat(parts);
	return response.headers['content-encoding'] === 'zstd' ? inflate(body, { maxOutputLength: MAX_BODY_BYTES }) : body;
}

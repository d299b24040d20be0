import { Agent, request, type ClientRequest, type IncomingMessage } from 'node:http';
import { Agent as TlsAgent, request as requestTls } from 'node:https';
import { promisify } from 'node:util';
import { zstdDecompress } from 'node:zlib';
import { sha256, type Digest } from '#digest/digest.ts';
import { applyDelta, treeOf, type Entry, type Manifest } from '#store/manifest.ts';
import type { Peers } from '#wire/peers.ts';
import type { ServerPeer } from '#wire/region.ts';
import { SECRETS_PATH } from '#wire/secrets.ts';
import { decodeUpload } from '#wire/upload.ts';
import { inBatches } from './batches.ts';

/** Blobs and trees from a depot of the region, the one on this server first; everything is checked against its digest. */
export interface DepotClient {
	/** @throws FetchError */
	blob(digest: Digest): Promise<Buffer>;
	/** @throws FetchError */
	tree(root: Digest): Promise<Manifest>;
	/** What control answers to a question for secrets. @throws FetchError, with control's own words when it refuses */
	secrets(question: object): Promise<unknown>;
	close(): void;
}

const MAX_CONNECTIONS = 16;
const MAX_BATCH = 500;
const FETCH_TIMEOUT_MS = 60_000;
/** A server that is not there must not keep a start waiting: the next depot is asked. */
const CONNECT_LIMIT_MS = 2_000;
const MAX_BODY_BYTES = 256 * 1024 * 1024;
const inflate = promisify(zstdDecompress);

export class FetchError extends Error {
	readonly code = 'fetch';
}

export interface DepotClientOptions {
	/** Of the depot on this server; null: it has none. */
	socketPath: string | null;
	/** The region's other servers; absent: there are none. */
	others?: { peers: Peers; regions: readonly string[] };
	credential: () => string;
}

export function createDepotClient(of: DepotClientOptions): DepotClient {
	const plain = new Agent({ keepAlive: true, maxSockets: MAX_CONNECTIONS });
	const tls = new TlsAgent({ keepAlive: true, maxSockets: MAX_CONNECTIONS, maxCachedSessions: 0 });
	const { socketPath, others } = of;

	/** How each of the depots is asked. */
	function depots(): Ask[] {
		const theirs = others?.peers.others('depot', others.regions).filter(({ depotPort }) => depotPort !== null) ?? [];
		return [...(socketPath === null ? [] : [askHere(socketPath)]), ...theirs.map((peer) => askThere(peer, others!.peers))];
	}

	function options(path: string) {
		const headers = { authorization: `Bearer ${of.credential()}`, 'accept-encoding': 'zstd' };
		return { path, headers, timeout: FETCH_TIMEOUT_MS };
	}

	function askHere(socket: string): Ask {
		return (path, method, onAnswer) => request({ ...options(path), method, socketPath: socket, agent: plain }, onAnswer);
	}

	function askThere({ name, host, depotPort }: ServerPeer, peers: Peers): Ask {
		return (path, method, onAnswer) =>
			requestTls({ ...options(path), method, ...peers.towards(name), host, port: depotPort, agent: tls }, onAnswer);
	}

	/** The next depot is asked whatever the first one lacks: it may not have heard yet what is wanted, or not reach control. */
	async function get(path: string, question?: string): Promise<Buffer> {
		let failure: unknown = new Error('no depot of the region is known');
		for (const ask of depots()) {
			try {
				return await getFrom(ask, path, question);
			} catch (cause) {
				failure = cause;
			}
		}
		throw new FetchError(`the depot gave no ${path}: ${wordsOf(failure)}`, { cause: failure });
	}

	async function oneBlob(digest: Digest): Promise<Buffer> {
		const bytes = await get(`/blobs/${digest}`);
		if (sha256(bytes) !== digest) throw new FetchError(`the depot's bytes for ${digest} do not have that digest`);
		return bytes;
	}

	return {
		blob: inBatches({
			one: oneBlob,
			many: async (digests) => decodeUpload(await get('/blobs', JSON.stringify({ digests }))).blobs,
			most: MAX_BATCH,
		}),
		async tree(root) {
			const { set } = JSON.parse((await get(`/trees/${root}`)).toString()) as { set?: Record<string, Entry> };
			const manifest = applyDelta(new Map(), { set: set ?? {}, delete: [] });
			if (treeOf(manifest).root !== root) throw new FetchError(`the depot's tree for ${root} has another root`);
			return manifest;
		},
		async secrets(question) {
			return JSON.parse((await get(SECRETS_PATH, JSON.stringify(question))).toString()) as unknown;
		},
		close() {
			plain.destroy();
			tls.destroy();
		},
	};
}

type Ask = (path: string, method: 'GET' | 'POST', onAnswer: (response: IncomingMessage) => void) => ClientRequest;

function getFrom(ask: Ask, path: string, question?: string): Promise<Buffer> {
	return new Promise((resolve, reject) => {
		const asking = ask(path, question === undefined ? 'GET' : 'POST', (response) => {
			const refused = (body: Buffer) => new Error(refusalIn(body) ?? `status ${response.statusCode} ${body.toString().slice(0, 300)}`);
			readBody(response).then((body) => (response.statusCode === 200 ? resolve(body) : reject(refused(body))), reject);
		});
		asking.on('socket', (socket) => {
			if (!socket.connecting) return;
			socket.setTimeout(CONNECT_LIMIT_MS);
			socket.once('connect', () => socket.setTimeout(FETCH_TIMEOUT_MS));
		});
		asking.on('timeout', () => asking.destroy(new Error('silent for too long')));
		asking.on('error', reject).end(question);
	});
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

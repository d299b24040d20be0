import { once } from 'node:events';
import { Agent, request as requestPlain, type IncomingMessage } from 'node:http';
import { Agent as TlsAgent, request as requestTls } from 'node:https';
import type { ConnectionOptions } from 'node:tls';
import { sha256, type Digest } from '#digest/digest.ts';
import { BlobMissing } from '#store/blob-store.ts';
import { manifestOf, treeOf, type Manifest, type Tree } from '#store/manifest.ts';
import { treeAnswer } from '#wire/api.ts';
import { SECRETS_PATH } from '#wire/secrets.ts';
import { decodeUpload } from '#wire/upload.ts';

/**
 * Blobs and trees from control, from whichever of its addresses answers: the last that did is asked first. Everything that
 * comes is checked against the digest it was asked by.
 */

const CONNECTIONS = 4;
const TIMEOUT_MS = 30_000;

export interface Upstream {
	/** @throws BlobMissing, UpstreamError */
	blob(digest: Digest): Promise<Buffer>;
	/** Those of them that fit into one answer; at least one, unless control has none of them. @throws UpstreamError */
	blobs(digests: readonly Digest[]): Promise<Map<Digest, Buffer>>;
	/** @throws BlobMissing, UpstreamError */
	tree(root: Digest): Promise<{ manifest: Manifest; tree: Tree }>;
	/** An agent's question for secrets, as it is, and control's answer: nothing of it can be read here, nothing is kept. @throws UpstreamError */
	secrets(question: string): Promise<{ status: number; bytes: Buffer }>;
	close(): void;
}

export class UpstreamError extends Error {
	readonly code = 'control_unavailable';
}

export interface UpstreamOptions {
	addresses: () => readonly string[];
	/** For `https`. */
	tls?: () => ConnectionOptions;
	credential: () => string;
}

interface Got {
	status: number;
	bytes: Buffer;
}

export function createUpstream({ addresses, tls, credential }: UpstreamOptions): Upstream {
	const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
	const tlsAgent = new TlsAgent({ keepAlive: true, maxSockets: CONNECTIONS, maxCachedSessions: 0 });
	let answered: string | null = null;

	/** `lacks`: this control does not have it; where controls keep their blobs apart another one may. */
	async function ask(method: 'GET' | 'POST', path: string, lacks: (got: Got) => boolean, body?: string): Promise<Got> {
		const all = addresses();
		const order = answered !== null && all.includes(answered) ? [answered, ...all.filter((one) => one !== answered)] : all;
		let failure: unknown = new Error('no address of control is known');
		let without: Got | null = null;
		for (const address of order) {
			try {
				const got = await askOne(address, method, path, body);
				if (lacks(got)) {
					without = got;
					continue;
				}
				if (got.status < 500 || address === order.at(-1)) {
					answered = address;
					return got;
				}
				failure = new Error(`${address} answered ${got.status}`);
			} catch (cause) {
				failure = cause;
			}
		}
		if (without) return without;
		throw new UpstreamError(`control at ${order.join(', ')} could not be asked for ${path}`, { cause: failure });
	}

	async function askOne(address: string, method: 'GET' | 'POST', path: string, body?: string): Promise<Got> {
		const headers = { authorization: `Bearer ${credential()}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) };
		const of = { method, headers, timeout: TIMEOUT_MS };
		const asked = address.startsWith('https:')
			? requestTls(address + path, { ...of, ...tls?.(), agent: tlsAgent })
			: requestPlain(address + path, { ...of, agent });
		asked.on('timeout', () => asked.destroy(new Error(`no byte within ${TIMEOUT_MS} ms`)));
		asked.end(body);
		const [answer] = (await once(asked, 'response')) as [IncomingMessage];
		const parts: Buffer[] = [];
		for await (const part of answer as AsyncIterable<Buffer>) parts.push(part);
		return { status: answer.statusCode ?? 0, bytes: Buffer.concat(parts) };
	}

	function refuse(path: string, { status, bytes }: Got): never {
		throw new UpstreamError(`control answered ${status} to ${path}: ${bytes.toString().slice(0, 500)}`);
	}

	return {
		async blob(digest) {
			const answer = await ask('GET', `/blobs/${digest}`, isMissing);
			if (answer.status === 404) throw new BlobMissing(digest);
			if (answer.status !== 200) refuse(`/blobs/${digest}`, answer);
			if (sha256(answer.bytes) !== digest) throw new UpstreamError(`what control sent for ${digest} has another digest`);
			return answer.bytes;
		},
		async blobs(digests) {
			const answer = await ask('POST', '/blobs', hasNone, JSON.stringify({ digests }));
			if (answer.status !== 200) refuse('/blobs', answer);
			const { blobs } = decodeUpload(answer.bytes);
			const asked = new Set(digests);
			return new Map([...blobs].filter(([digest]) => asked.has(digest)));
		},
		async tree(root) {
			const answer = await ask('GET', `/trees/${root}`, isMissing);
			if (answer.status === 404) throw new BlobMissing(root);
			if (answer.status !== 200) refuse(`/trees/${root}`, answer);
			const manifest = manifestOf(Object.entries(treeAnswer.parse(JSON.parse(answer.bytes.toString())).set));
			const tree = treeOf(manifest);
			if (tree.root !== root) throw new UpstreamError(`what control sent for the tree ${root} has the root ${tree.root}`);
			return { manifest, tree };
		},
		secrets: (question) => ask('POST', SECRETS_PATH, () => false, question),
		close() {
			agent.destroy();
			tlsAgent.destroy();
		},
	};
}

function isMissing({ status }: Got): boolean {
	return status === 404;
}

function hasNone({ status, bytes }: Got): boolean {
	return status === 200 && decodeUpload(bytes).blobs.size === 0;
}

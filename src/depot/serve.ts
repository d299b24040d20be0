import type { IncomingMessage, ServerResponse } from 'node:http';
import { isDigest, type Digest } from '#digest/digest.ts';
import type { Log } from '#log/log.ts';
import { BlobMissing } from '#store/blob-store.ts';
import { MAX_BLOBS_ANSWER_BYTES, blobsRequest } from '#wire/api.ts';
import type { Claims } from '#wire/credential.ts';
import type { ReleaseSpec } from '#wire/region.ts';
import { SECRETS_PATH, secretsRequest } from '#wire/secrets.ts';
import { encodeUpload } from '#wire/upload.ts';
import type { Cache } from './cache.ts';

/** `GET /trees/<root>`, `GET /blobs/<digest>`, `POST /blobs` for agents: only of releases placed on their servers. `POST /secrets` goes to control. */

const MAX_REQUEST_BYTES = 2 * 1024 * 1024;

export interface ServeOptions {
	cache: Cache;
	authenticate(request: IncomingMessage): Claims | null;
	/** The releases that the wants of these regions have run on this server. */
	placed(regions: readonly string[], server: string): ReleaseSpec[];
	/** Asks control. @throws with code control_unavailable */
	secrets(question: string): Promise<{ status: number; bytes: Buffer }>;
	log: Log;
}

class Answer extends Error {
	readonly status: number;
	readonly code: string;
	constructor(status: number, code: string, message: string) {
		super(message);
		this.status = status;
		this.code = code;
	}
}

export function createHandler(options: ServeOptions): (request: IncomingMessage, response: ServerResponse) => void {
	return (request, response) => {
		answer(request, options).then(
			({ status = 200, type, body }) => response.writeHead(status, { 'content-type': type, 'content-length': body.length }).end(body),
			(error: unknown) => {
				const { status, code, message } = asAnswer(error);
				if (status >= 500) options.log.warn('request.failed', { path: request.url, error });
				const body = JSON.stringify({ error: { code, message, hint: null } });
				response.writeHead(status, { 'content-type': 'application/json', connection: 'close' }).end(body);
			},
		);
	};
}

interface Given {
	status?: number;
	type: string;
	body: Buffer;
}

async function answer(request: IncomingMessage, options: ServeOptions): Promise<Given> {
	const claims = options.authenticate(request);
	if (!claims) throw new Answer(401, 'bad_credential', 'the credential is missing, expired, or not of this installation');
	if (claims.role !== 'agent') throw new Answer(403, 'forbidden', `a program of role ${claims.role} reads no blobs here`);
	if (request.method === 'POST' && request.url === SECRETS_PATH) return secrets(await readBody(request), claims, options);
	const placed = options.placed(claims.regions, claims.server);
	const [, kind = '', name = '', more] = (request.url ?? '').split('/');
	if (request.method === 'POST' && kind === 'blobs' && name === '') return manyBlobs(await readBody(request), placed, options);
	if (request.method !== 'GET' || more !== undefined || !isDigest(name))
		throw new Answer(404, 'not_found', 'there are /trees/<root> and /blobs/<digest>');
	if (kind === 'trees') {
		if (!rootsOf(placed).has(name)) throw new Answer(404, 'not_placed', `no release placed on your server has the tree ${name}`);
		const { manifest } = await options.cache.tree(name);
		return { type: 'application/json', body: Buffer.from(JSON.stringify({ set: Object.fromEntries(manifest) })) };
	}
	if (kind !== 'blobs') throw new Answer(404, 'not_found', 'there are /trees/<root> and /blobs/<digest>');
	await checkPlaced([name], placed, options);
	return { type: 'application/octet-stream', body: await options.cache.blob(name) };
}

/** For its own server alone; what it may have, control decides. */
async function secrets(body: string, claims: Claims, options: ServeOptions): Promise<Given> {
	const parsed = secretsRequest.safeParse(parseJson(body));
	if (!parsed.success) throw new Answer(400, 'bad_request', parsed.error.message);
	if (parsed.data.server !== claims.server) throw new Answer(403, 'forbidden', `this is the agent of ${claims.server}`);
	const { status, bytes } = await options.secrets(JSON.stringify(parsed.data));
	return { status, type: 'application/json', body: bytes };
}

async function manyBlobs(body: string, placed: readonly ReleaseSpec[], options: ServeOptions): Promise<{ type: string; body: Buffer }> {
	const parsed = blobsRequest.safeParse(parseJson(body));
	if (!parsed.success) throw new Answer(400, 'bad_request', parsed.error.message);
	await checkPlaced(parsed.data.digests, placed, options);
	const blobs: Buffer[] = [];
	let bytes = 0;
	for (const digest of parsed.data.digests) {
		const blob = await options.cache.blob(digest);
		bytes += blob.length;
		if (blobs.length > 0 && bytes > MAX_BLOBS_ANSWER_BYTES) break;
		blobs.push(blob);
	}
	return { type: 'application/vnd.jibe.upload', body: encodeUpload({}, blobs) };
}

/** Trees already in memory first: nearly always the blob is of one of them. */
async function checkPlaced(digests: readonly Digest[], placed: readonly ReleaseSpec[], options: ServeOptions): Promise<void> {
	let left = digests;
	for (const root of rootsOf(placed)) {
		const { blobs } = await options.cache.tree(root);
		left = left.filter((digest) => !blobs.has(digest));
		if (left.length === 0) return;
	}
	throw new Answer(404, 'not_placed', `no release placed on your server has the blob ${left[0]}`);
}

/** Newest releases first. */
function rootsOf(placed: readonly ReleaseSpec[]): Set<Digest> {
	return new Set(
		placed.toSorted((a, b) => b.release - a.release).flatMap(({ artifact, vendor }) => (vendor ? [artifact, vendor] : [artifact])),
	);
}

function asAnswer(error: unknown): { status: number; code: string; message: string } {
	if (error instanceof Answer) return error;
	if (error instanceof BlobMissing)
		return { status: 404, code: error.code, message: `neither the depot nor control has an undamaged copy of ${error.digest}` };
	if (error instanceof Error && 'code' in error && error.code === 'control_unavailable')
		return { status: 503, code: error.code, message: error.message };
	return { status: 500, code: 'internal', message: 'the depot could not answer; its log says why' };
}

async function readBody(request: IncomingMessage): Promise<string> {
	const parts: Buffer[] = [];
	let bytes = 0;
	for await (const part of request as AsyncIterable<Buffer>) {
		bytes += part.length;
		if (bytes > MAX_REQUEST_BYTES) throw new Answer(413, 'too_large', `a request may have ${MAX_REQUEST_BYTES} bytes`);
		parts.push(part);
	}
	return Buffer.concat(parts).toString();
}

function parseJson(text: string): unknown {
	try {
		return JSON.parse(text);
	} catch {
		return null;
	}
}

import { createHash, hash } from 'node:crypto';
import { StoreRefused, StoreUnfaithful } from './blob-store.ts';
import type { Objects, StoredObject } from './objects.ts';
import { S3Requests, unescapeXml, type S3Answer, type S3Place } from './s3-requests.ts';

/** Above this an object goes in parts, several at a time: a part that fails is sent again alone. */
const MULTIPART_ABOVE_BYTES = 16 * 1024 * 1024;
const PART_BYTES = 8 * 1024 * 1024;
const PARTS_AT_ONCE = 3;
/** Up to this what was stored is read back whole, which takes no longer than asking for its size. */
const READ_BACK_BYTES = 1024 * 1024;
const PUTS_MAX = 3;
/** The most that S3 lists, or deletes, at once. */
const PAGE_KEYS = 1_000;
const DELETED_AT_ONCE = 1_000;

/** Objects in a bucket. Bytes are sent with their SHA-256, which S3 checks, and looked at once they are said to be stored. */
export function openS3(place: S3Place, limits: { answerMs?: number; retryForMs?: number; pageKeys?: number } = {}): Objects {
	return new S3(new S3Requests(place, limits), limits.pageKeys ?? PAGE_KEYS);
}

class S3 implements Objects {
	readonly place: string;
	private readonly requests: S3Requests;
	private readonly prefix: string;

	private readonly pageKeys: number;

	constructor(requests: S3Requests, pageKeys: number) {
		this.requests = requests;
		this.pageKeys = pageKeys;
		this.prefix = requests.place.prefix;
		this.place = `s3://${requests.place.bucket}/${this.prefix}`;
	}

	async put(name: string, bytes: Uint8Array): Promise<void> {
		for (let attempt = 1; ; attempt++) {
			if (bytes.length > MULTIPART_ABOVE_BYTES) await this.putInParts(name, bytes);
			else await this.putWhole(name, bytes);
			const wrong = await this.lookAgain(name, bytes);
			if (wrong === null) return;
			if (attempt < PUTS_MAX) continue;
			throw new StoreUnfaithful(
				`${this.place}${name} was said to be stored, ${PUTS_MAX} times, and ${wrong}: nothing of it counts as kept`,
			);
		}
	}

	async get(name: string, range?: { from: number; bytes: number }): Promise<Buffer | null> {
		const headers: Record<string, string> = range ? { range: `bytes=${range.from}-${range.from + range.bytes - 1}` } : {};
		const { status, body } = await this.requests.send(
			{ method: 'GET', key: this.prefix + name, headers },
			range?.bytes ?? MULTIPART_ABOVE_BYTES,
		);
		return status === 404 ? null : body;
	}

	async *list(prefix: string, after: string): AsyncGenerator<StoredObject> {
		let token: string | undefined;
		do {
			const query: Record<string, string> = { 'list-type': '2', prefix: this.prefix + prefix, 'max-keys': String(this.pageKeys) };
			if (token !== undefined) query['continuation-token'] = token;
			else if (after !== '') query['start-after'] = this.prefix + after;
			const text = (await this.requests.send({ method: 'GET', key: '', query })).body.toString();
			for (const [, item = ''] of text.matchAll(/<Contents>([\s\S]*?)<\/Contents>/g)) {
				const name = member(item, 'Key').slice(this.prefix.length);
				// Who does not know `start-after` lists all.
				if (name > after) yield { name, bytes: Number(member(item, 'Size')) };
			}
			token = member(text, 'IsTruncated') === 'true' ? member(text, 'NextContinuationToken') : undefined;
		} while (token !== undefined && token !== '');
	}

	async delete(names: readonly string[]): Promise<void> {
		for (let at = 0; at < names.length; at += DELETED_AT_ONCE) {
			const keys = names.slice(at, at + DELETED_AT_ONCE).map((name) => `<Object><Key>${escapeXml(this.prefix + name)}</Key></Object>`);
			const body = Buffer.from(`<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Quiet>true</Quiet>${keys.join('')}</Delete>`);
			const headers = { 'content-md5': hash('md5', body, 'base64'), 'content-type': 'application/xml' };
			const answer = (await this.requests.send({ method: 'POST', key: '', query: { delete: '' }, headers, body })).body.toString();
			const failed = /<Error>([\s\S]*?)<\/Error>/.exec(answer)?.[1];
			if (failed !== undefined) {
				throw new StoreRefused(
					`${this.place} refuses to delete ${member(failed, 'Key')}: ${member(failed, 'Code')} ${member(failed, 'Message')}`,
				);
			}
		}
	}

	private async putWhole(name: string, bytes: Uint8Array): Promise<void> {
		const headers = { 'x-amz-checksum-sha256': checksum(bytes), 'content-type': 'application/octet-stream' };
		await this.requests.send({ method: 'PUT', key: this.prefix + name, headers, body: bytes });
	}

	private async putInParts(name: string, bytes: Uint8Array): Promise<void> {
		const key = this.prefix + name;
		const begun = await this.requests.send({
			method: 'POST',
			key,
			query: { uploads: '' },
			headers: { 'x-amz-checksum-algorithm': 'SHA256', 'content-type': 'application/octet-stream' },
		});
		const uploadId = member(begun.body.toString(), 'UploadId');
		try {
			const parts = partsOf(bytes);
			const done: string[] = Array.from({ length: parts.length }, () => '');
			let next = 0;
			const worker = async () => {
				for (let i = next++; i < parts.length; i = next++) done[i] = await this.putPart(key, uploadId, i + 1, parts[i]!);
			};
			await Promise.all(Array.from({ length: PARTS_AT_ONCE }, worker));
			const body = Buffer.from(`<CompleteMultipartUpload>${done.join('')}</CompleteMultipartUpload>`);
			const headers = { 'content-type': 'application/xml' };
			const ended = await this.requests.send({ method: 'POST', key, query: { uploadId }, headers, body });
			// This one may say 200 and fail after all.
			if (/<Error>/.test(ended.body.toString()))
				throw new StoreUnfaithful(`${this.place}${name} could not be put together: ${ended.body.toString()}`);
		} catch (error) {
			// What was sent so far costs money until it is given up; a rule of the bucket does it if this fails too.
			await this.requests.send({ method: 'DELETE', key, query: { uploadId } }).catch(() => {});
			throw error;
		}
	}

	private async putPart(key: string, uploadId: string, number: number, bytes: Uint8Array): Promise<string> {
		const headers = { 'x-amz-checksum-sha256': checksum(bytes) };
		const answer = await this.requests.send({ method: 'PUT', key, query: { partNumber: String(number), uploadId }, headers, body: bytes });
		const etag = answer.headers.get('etag') ?? '';
		const sum = answer.headers.has('x-amz-checksum-sha256') ? `<ChecksumSHA256>${checksum(bytes)}</ChecksumSHA256>` : '';
		return `<Part><PartNumber>${number}</PartNumber><ETag>${escapeXml(etag)}</ETag>${sum}</Part>`;
	}

	/** null when what was stored is there as it was sent; else what is wrong with it. */
	private async lookAgain(name: string, bytes: Uint8Array): Promise<string | null> {
		if (bytes.length <= READ_BACK_BYTES) {
			const found = await this.get(name);
			if (found === null) return 'is not there';
			return found.equals(bytes) ? null : 'other bytes are there';
		}
		const answer = await this.requests.send({ method: 'HEAD', key: this.prefix + name, headers: { 'x-amz-checksum-mode': 'ENABLED' } });
		if (answer.status === 404) return 'is not there';
		if (Number(answer.headers.get('content-length')) !== bytes.length)
			return `${answer.headers.get('content-length')} bytes are there instead of ${bytes.length}`;
		return checksumMatches(answer, bytes) ? null : 'bytes of another checksum are there';
	}
}

/** Where S3 tells none, there is nothing to compare: every read checks digests. */
function checksumMatches({ headers }: S3Answer, bytes: Uint8Array): boolean {
	const told = headers.get('x-amz-checksum-sha256');
	if (told === null) return true;
	if (!told.includes('-')) return told === checksum(bytes);
	const parts = partsOf(bytes);
	const whole = createHash('sha256');
	for (const part of parts) whole.update(hash('sha256', part, 'buffer'));
	return told === `${whole.digest('base64')}-${parts.length}`;
}

function partsOf(bytes: Uint8Array): Uint8Array[] {
	const count = Math.ceil(bytes.length / PART_BYTES);
	return Array.from({ length: count }, (_, i) => bytes.subarray(i * PART_BYTES, (i + 1) * PART_BYTES));
}

function checksum(bytes: Uint8Array): string {
	return hash('sha256', bytes, 'base64');
}

function member(xml: string, name: string): string {
	return unescapeXml(new RegExp(`<${name}>([^<]*)</${name}>`).exec(xml)?.[1] ?? '');
}

function escapeXml(text: string): string {
	return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}

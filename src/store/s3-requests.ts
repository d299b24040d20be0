import { createHash } from 'node:crypto';
import { AwsV4Signer } from 'aws4fetch';
import { isoTime, pause, systemClock } from '#clock/clock.ts';
import { StoreRefused, StoreUnavailable } from './blob-store.ts';

/** Requests to S3: signed, limited in time, sent again when that may help, and told apart when it may not. */

export interface S3Place {
	bucket: string;
	/** With a slash at its end, or empty. */
	prefix: string;
	region: string;
	/** null: Amazon's own. */
	endpoint: string | null;
	credentials: { accessKeyId: string; secretAccessKey: string; sessionToken?: string };
}

export interface S3Ask {
	method: 'GET' | 'PUT' | 'POST' | 'HEAD' | 'DELETE';
	/** Below the bucket; empty for the bucket itself. */
	key: string;
	query?: Record<string, string>;
	headers?: Record<string, string>;
	body?: Uint8Array;
}

export interface S3Answer {
	status: number;
	headers: Headers;
	body: Buffer;
}

const ATTEMPTS_MAX = 6;
const FIRST_RETRY_MS = 100;
const MAX_RETRY_MS = 3_000;
/** No attempt begins later than this: whoever deploys waits for the answer. */
const RETRY_FOR_MS = 15_000;
/** Of one attempt, besides what its bytes take. */
const ANSWER_LIMIT_MS = 8_000;
const SLOWEST_BYTES_PER_MS = 512;
const MESSAGE_MAX_CHARS = 300;

const RETRIED_STATUS = new Set([408, 429, 500, 502, 503, 504]);
/** Said with a status of 400, and true of one attempt only. */
const RETRIED_CODES = new Set(['RequestTimeout', 'BadDigest', 'XAmzContentSHA256Mismatch', 'IncompleteBody', 'InternalError', 'SlowDown']);

/** `limitMs`: of each attempt, when it is another than usual. */
export class S3Requests {
	readonly place: S3Place;
	private readonly limitMs: number;
	private readonly retryForMs: number;

	constructor(place: S3Place, limits: { answerMs?: number; retryForMs?: number } = {}) {
		this.place = place;
		this.limitMs = limits.answerMs ?? ANSWER_LIMIT_MS;
		this.retryForMs = limits.retryForMs ?? RETRY_FOR_MS;
	}

	/** The answer, when it is a success or 404. `expectBytes`: how large it may be, for the time it may take. */
	async send(ask: S3Ask, expectBytes = 0): Promise<S3Answer> {
		const deadline = systemClock.monotonic() + this.retryForMs;
		for (let attempt = 1, waitMs = FIRST_RETRY_MS; ; attempt++, waitMs = Math.min(waitMs * 2, MAX_RETRY_MS)) {
			const failed = await this.attempt(ask, expectBytes);
			if ('status' in failed) return failed;
			if (attempt === ATTEMPTS_MAX || systemClock.monotonic() + waitMs > deadline) throw this.unavailable(ask, failed.why, failed.cause);
			await pause(waitMs * (0.5 + Math.random() / 2));
		}
	}

	private async attempt(ask: S3Ask, expectBytes: number): Promise<S3Answer | { why: string; cause?: unknown }> {
		let answer: S3Answer;
		try {
			answer = await this.once(ask, expectBytes);
		} catch (cause) {
			return { why: reasonOf(cause), cause };
		}
		const { status, body } = answer;
		if (status < 300 || status === 404) {
			if (status === 404 && codeIn(body) === 'NoSuchBucket') throw this.refused(ask, answer);
			return answer;
		}
		if (RETRIED_STATUS.has(status) || RETRIED_CODES.has(codeIn(body))) return { why: `it answered ${status} ${codeIn(body)}`.trim() };
		throw this.refused(ask, answer);
	}

	private async once({ method, key, query = {}, headers = {}, body }: S3Ask, expectBytes: number): Promise<S3Answer> {
		const { credentials, region } = this.place;
		const signer = new AwsV4Signer({
			method,
			url: this.url(key, query),
			headers: { ...headers, 'x-amz-content-sha256': sha256Hex(body ?? new Uint8Array(0)) },
			...credentials,
			service: 's3',
			region,
			datetime: isoTime(systemClock.now()).replace(/[:-]|\.\d{3}/g, ''),
		});
		const signed = await signer.sign();
		const limitMs = this.limitMs + ((body?.length ?? 0) + expectBytes) / SLOWEST_BYTES_PER_MS;
		const stop = new AbortController();
		const timer = systemClock.after(limitMs, () => stop.abort(new Error(`no whole answer within ${Math.round(limitMs)} ms`)));
		try {
			const init: RequestInit = { method, headers: signed.headers, signal: stop.signal, redirect: 'manual' };
			if (body) init.body = body as Uint8Array<ArrayBuffer>;
			const response = await fetch(signed.url, init);
			return { status: response.status, headers: response.headers, body: Buffer.from(await response.arrayBuffer()) };
		} finally {
			timer.cancel();
		}
	}

	private url(key: string, query: Record<string, string>): string {
		const { endpoint, bucket, region } = this.place;
		const url = endpoint
			? new URL(`${endpoint.replace(/\/$/, '')}/${bucket}/${key}`)
			: new URL(`https://${bucket}.s3.${region}.amazonaws.com/${key}`);
		for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
		return url.href;
	}

	private unavailable(ask: S3Ask, why: string, cause: unknown): StoreUnavailable {
		return new StoreUnavailable(`${this.where()} can't be reached (${ask.method} ${ask.key || '/'}): ${why}`, { cause });
	}

	private refused(ask: S3Ask, { status, body, headers }: S3Answer): StoreRefused {
		const code = codeIn(body) || `status ${status}`;
		const message = unescapeXml(/<Message>([^<]*)<\/Message>/.exec(body.toString())?.[1] ?? '').slice(0, MESSAGE_MAX_CHARS);
		const region = headers.get('x-amz-bucket-region');
		const elsewhere = region !== null && region !== this.place.region ? `; the bucket is in ${region}: set AWS_REGION` : '';
		const skewed = code === 'RequestTimeTooSkewed' ? '; set the clock of this machine' : '';
		return new StoreRefused(`${this.where()} refuses ${ask.method} ${ask.key || '/'}: ${code} ${message}${elsewhere}${skewed}`);
	}

	private where(): string {
		const { bucket, prefix, endpoint } = this.place;
		return `s3://${bucket}/${prefix}${endpoint ? ` at ${endpoint}` : ''}`;
	}
}

function reasonOf(error: unknown): string {
	const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
	return cause instanceof Error ? cause.message || String((cause as NodeJS.ErrnoException).code) : String(cause);
}

function codeIn(body: Buffer): string {
	return /<Code>([^<]*)<\/Code>/.exec(body.toString('utf8', 0, 2_000))?.[1] ?? '';
}

export function sha256Hex(bytes: Uint8Array): string {
	return createHash('sha256').update(bytes).digest('hex');
}

export function unescapeXml(text: string): string {
	const named: Record<string, string> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" };
	return text.replace(/&(lt|gt|amp|quot|apos);/g, (_, name: string) => named[name] ?? '');
}

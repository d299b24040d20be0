import { hash, randomBytes } from 'node:crypto';

/** `sha256:` and 64 lower-case hex digits. */
export type Digest = `sha256:${string}`;

export function sha256(data: string | Uint8Array): Digest {
	return `sha256:${hash('sha256', data, 'hex')}`;
}

/** The same on another thread: for what is large, while this one goes on. */
export async function sha256Aside(data: Uint8Array): Promise<Digest> {
	return `sha256:${Buffer.from(await crypto.subtle.digest('SHA-256', data as Uint8Array<ArrayBuffer>)).toString('hex')}`;
}

export function isDigest(value: string): value is Digest {
	return /^sha256:[0-9a-f]{64}$/.test(value);
}

/**
 * JSON with object keys sorted by their UTF-8 bytes and no white space, so that equal values have equal bytes.
 * Values are limited to what JSON holds; `undefined` members are left out.
 */
export function canonicalJson(value: unknown): string {
	if (Array.isArray(value)) return `[${value.map((item) => canonicalJson(item ?? null)).join(',')}]`;
	if (value === null || typeof value !== 'object') return JSON.stringify(value);
	const members = Object.entries(value)
		.filter(([, member]) => member !== undefined)
		.sort(([a], [b]) => compareUtf8(a, b))
		.map(([key, member]) => `${JSON.stringify(key)}:${canonicalJson(member)}`);
	return `{${members.join(',')}}`;
}

/** Order of two strings by their UTF-8 bytes: what `sort` must use wherever bytes are hashed (locales never). */
export function compareUtf8(a: string, b: string): number {
	// UTF-16 order differs from UTF-8 order only where a surrogate meets U+E000..U+FFFF.
	if (a === b) return 0;
	const length = Math.min(a.length, b.length);
	for (let i = 0; i < length; i++) {
		const x = a.charCodeAt(i);
		const y = b.charCodeAt(i);
		if (x === y) continue;
		const surrogates = Number(isSurrogate(x)) - Number(isSurrogate(y));
		return surrogates !== 0 ? surrogates : x - y;
	}
	return a.length - b.length;
}

function isSurrogate(unit: number): boolean {
	return unit >= 0xd800 && unit <= 0xdfff;
}

const CROCKFORD = '0123456789abcdefghjkmnpqrstvwxyz';

/** A random id of lower-case Crockford base32, 5 bits a character. */
export function randomId(length = 8): string {
	return Array.from(randomBytes(length), (byte) => CROCKFORD[byte & 31]).join('');
}

/** `count` random bytes as base64url: for tokens and keys. */
export function randomSecret(count = 32): string {
	return randomBytes(count).toString('base64url');
}

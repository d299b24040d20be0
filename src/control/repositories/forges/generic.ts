import type { IncomingHttpHeaders } from 'node:http';
import { pushHook } from '#wire/repositories.ts';
import { hmac, one, same, type ForgeDialect } from './forge.ts';

/** What was signed longer ago, or in the future, is a replay or a wrong clock. */
export const SIGNED_WITHIN_MS = 5 * 60_000;

/** Any other: `x-jibe-signature: t=<seconds since 1970>,v1=<hex of HMAC-SHA256 over "<t>.<body>">`. */
export const generic: ForgeDialect = {
	signed(headers, body, secret, now) {
		const { t, v1 } = readSignature(headers);
		const right = same(v1, hmac(secret, `${t}.`, body));
		return right && Math.abs(now - Number(t) * 1000) <= SIGNED_WITHIN_MS;
	},
	delivery: (headers) => one(headers['x-jibe-delivery']) ?? one(headers['x-jibe-signature']),
	read(_headers, body) {
		const { ref } = pushHook.parse(body);
		return { type: 'push', ref, of: null };
	},
	status: null,
};

/** The end of the second that it was signed in, wall ms. */
export function signedAt(headers: IncomingHttpHeaders): number {
	return Number(readSignature(headers).t) * 1000 + 999;
}

function readSignature(headers: IncomingHttpHeaders): { t: string; v1: string } {
	const [, t = '0', v1 = ''] = /^t=(\d{1,12}),v1=([0-9a-f]{64})$/.exec(one(headers['x-jibe-signature']) ?? '') ?? [];
	return { t, v1 };
}

import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import type { CommitStatus } from '#state/deliveries.ts';
import type { Request } from '../../outbound/outbound.ts';

/** What a forge tells by a webhook, once it is known that the forge said it. */
export type Told =
	| { type: 'push'; ref: string; /** `team/notes`; null: it doesn't say. */ of: string | null }
	| { type: 'pull'; of: string | null; pull: ToldPull }
	/** Nothing to do for it. */
	| { type: 'other'; event: string; of: string | null };

export interface ToldPull {
	number: number;
	/** Where its commits can be fetched from the repository that it is asked of. */
	ref: string;
	commit: string;
	branch: string;
	/** `somebody/notes`; null: that is gone. */
	from: string | null;
	fork: boolean;
	title: string;
	author: string;
	state: 'open' | 'closed';
}

/** One file a forge. */
export interface ForgeDialect {
	/** Whether this was sent by somebody who has the secret; takes as long when not. */
	signed(headers: IncomingHttpHeaders, body: Buffer, secret: string, now: number): boolean;
	/** Its own name of the delivery; null: none. */
	delivery(headers: IncomingHttpHeaders): string | null;
	/** @throws ZodError when it is not what this forge sends */
	read(headers: IncomingHttpHeaders, body: unknown): Told;
	/** How a commit's status is told; null: it can't be. */
	status: ((of: { api: string; path: string; token: string; status: CommitStatus }) => Request) | null;
}

export function hmac(secret: string, ...parts: (Buffer | string)[]): string {
	const made = createHmac('sha256', secret);
	for (const part of parts) made.update(part);
	return made.digest('hex');
}

/** As long for any text, however much of it is right. */
export function same(given: string | string[] | undefined, right: string): boolean {
	const [a, b] = [Array.isArray(given) ? '' : (given ?? ''), right].map((text) => createHash('sha256').update(text).digest());
	return timingSafeEqual(a!, b!);
}

export function one(header: string | string[] | undefined): string | null {
	return typeof header === 'string' && header !== '' ? header : null;
}

const MAX_DESCRIPTION = 140;

export function short(text: string): string {
	return text.length <= MAX_DESCRIPTION ? text : `${text.slice(0, MAX_DESCRIPTION - 1)}…`;
}

import { z } from 'zod';
import { randomId, randomSecret } from '#digest/digest.ts';
import { tokenRole } from './api.ts';
import { digest } from './names.ts';

/**
 * What a command and control say to one another when a person with a browser is to allow a token. The command makes the
 * token and shows control its hash alone; allowed, the hash becomes a token's. So no secret ever travels back.
 */

const ID_CHARACTERS = 10;
const TOKEN = /^jibe_([0-9a-hjkmnp-tv-z]{10})_[A-Za-z0-9_-]{43}$/;

/** 256 random bits behind an id that finds its row. */
export function newToken(): { id: string; secret: string } {
	const id = randomId(ID_CHARACTERS);
	return { id, secret: `jibe_${id}_${randomSecret()}` };
}

/** null: no token has this form. */
export function tokenIdOf(secret: string): string | null {
	return TOKEN.exec(secret)?.[1] ?? null;
}

/** Letters that are not taken for one another, and make no words. */
export const CODE_LETTERS = 'BCDFGHJKLMNPQRSTVWXZ';
export const CODE_LENGTH = 8;

/** As people type it: with or without its hyphen, in any case. */
export const signInCode = z
	.string()
	.max(40)
	.transform((text) => text.toUpperCase().replaceAll(/[^A-Z]/g, ''))
	.refine((code) => code.length === CODE_LENGTH, 'eight letters, such as BCDF-GHJK');

export const signInRequest = z.object({
	token: z.string().regex(/^[0-9a-hjkmnp-tv-z]{10}$/),
	/** Of the whole token. */
	hash: digest,
	/** For the person who allows it. */
	machine: z.string().regex(/^[\w.-]{1,60}$/, 'a host name'),
});
/** `code` as it is shown: `BCDF-GHJK`. */
export const signInAnswer = z.object({ code: z.string(), expiresAt: z.number() });
export const signInState = z.object({ state: z.enum(['waiting', 'allowed']) });

/** What is being allowed. */
export const signInView = z.object({ code: z.string(), machine: z.string(), address: z.string(), expiresAt: z.number() });
export const signInDecision = z.object({ allow: z.boolean(), role: tokenRole });
export const signInDecided = z.object({ name: z.string() });

import { z } from 'zod';
import { isDigest, type Digest } from '#digest/digest.ts';

/** The names that cross between programs, each with the one rule for it. */

export const appName = z
	.string()
	.max(40)
	.regex(/^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/, 'lower-case letters, digits and single hyphens')
	.refine((name) => !name.includes('--'), 'no double hyphen');

export const environmentName = appName;
export const regionName = z
	.string()
	.max(20)
	.regex(/^[a-z][a-z0-9-]*$/);
export const serverName = z
	.string()
	.min(1)
	.max(63)
	.regex(/^[a-z0-9][a-z0-9-]*$/);
/** What a server has that others may lack, such as `gpu`: given when it joins, asked for by `servers` in jibe.json. */
export const serverLabel = z.string().regex(/^[a-z0-9][a-z0-9-]{0,39}$/, 'lower-case letters, digits and hyphens');
/** `dpl_` and at least 8 characters of lower-case Crockford base32. */
export const deploymentId = z.string().regex(/^dpl_[0-9a-hjkmnp-tv-z]{8,26}$/);
/** A release's number, unique per app: `v42` is 42. */
export const releaseNumber = z.int().positive();
export const digest = z.custom<Digest>((value) => typeof value === 'string' && isDigest(value), 'sha256: and 64 hex digits');

export const PRODUCTION = 'production';

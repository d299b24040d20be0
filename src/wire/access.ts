import { z } from 'zod';
import { readSigned, signText } from './credential.ts';
import { deploymentId } from './names.ts';

/** What lets a person see a single deployment of production: signed by the installation, in a link and then in a cookie. */
const access = z.object({
	kind: z.literal('access'),
	deployment: deploymentId,
	/** Wall seconds. */
	expires: z.int(),
});
export type Access = z.infer<typeof access>;

/** Name of the query parameter and of the cookie. */
export const ACCESS_NAME = 'jibe-access';

export function issueAccess(of: { deployment: string; expires: number }, privatePem: string): string {
	return signText(JSON.stringify({ kind: 'access', ...of } satisfies Access), privatePem);
}

/** Null when it is not signed by this installation, expired, or no access at all. */
export function readAccess(text: string, publicPem: string, nowMs: number): Access | null {
	const signed = readSigned(text, publicPem);
	if (signed === null) return null;
	let value: unknown;
	try {
		value = JSON.parse(signed);
	} catch {
		return null;
	}
	const parsed = access.safeParse(value);
	return parsed.success && parsed.data.expires * 1000 > nowMs ? parsed.data : null;
}

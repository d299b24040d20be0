import { createPrivateKey, createPublicKey, generateKeyPairSync, sign, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { regionName, serverName } from './names.ts';
import { role } from './region.ts';

/**
 * A program's credential: who it is, signed by the installation's Ed25519 key, so that a depot can check its
 * agents and edges while control is away. `<base64url JSON>.<base64url signature>`.
 */
export const claims = z
	.object({
		installation: z.string(),
		role,
		server: serverName,
		/** None for a builder: what it makes is for all of them. */
		regions: z.array(regionName),
		/** Wall seconds. */
		expires: z.int(),
	})
	.refine(({ role: of, regions }) => of === 'builder' || regions.length > 0);
export type Claims = z.infer<typeof claims>;

export function newSigningKey(): { privatePem: string; publicPem: string } {
	const { privateKey, publicKey } = generateKeyPairSync('ed25519');
	return {
		privatePem: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
		publicPem: publicKey.export({ type: 'spki', format: 'pem' }).toString(),
	};
}

export function issueCredential(of: Claims, privatePem: string): string {
	return signText(JSON.stringify(of), privatePem);
}

/** The claims, or null when the text is not a credential, not signed by this installation, or expired. */
export function readCredential(text: string, publicPem: string, nowMs: number): Claims | null {
	const json = readSigned(text, publicPem);
	if (json === null) return null;
	const parsed = claims.safeParse(parseJson(json));
	return parsed.success && parsed.data.expires * 1000 > nowMs ? parsed.data : null;
}

/** `<data>/credentials/<role>.json`, as the supervisor writes it for a program that it starts. */
const credentialFile = z.object({ credential: z.string(), publicKey: z.string(), installation: z.string() });

/** Read at each use, because it is renewed while the program runs. @throws when it is missing or not such a file */
export function readCredentialFile(path: string): z.infer<typeof credentialFile> {
	return credentialFile.parse(JSON.parse(readFileSync(path, 'utf8')));
}

/** Any short text, signed: also what signed links carry. */
export function signText(text: string, privatePem: string): string {
	const body = Buffer.from(text).toString('base64url');
	return `${body}.${sign(null, Buffer.from(body), createPrivateKey(privatePem)).toString('base64url')}`;
}

export function readSigned(signed: string, publicPem: string): string | null {
	if (signed.length > 8192) return null;
	const [body, signature, more] = signed.split('.');
	if (!body || !signature || more !== undefined) return null;
	const good = verify(null, Buffer.from(body), createPublicKey(publicPem), Buffer.from(signature, 'base64url'));
	return good ? Buffer.from(body, 'base64url').toString() : null;
}

function parseJson(text: string): unknown {
	try {
		return JSON.parse(text);
	} catch {
		return null;
	}
}

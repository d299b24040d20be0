import type { ServerRow } from '#state/joined-servers.ts';
import { issueCertificate, publicKeyOf, spkiOf } from '#wire/certificate.ts';
import { issueCredential } from '#wire/credential.ts';
import { checkInText, isProven, joinText, type CheckInRequest, type JoinRequest, type ServerPapers } from '#wire/join.ts';
import { packageText, type PackageRequest } from '#wire/package.ts';
import type { House } from './house.ts';
import { Refusal } from './ports.ts';

/** What a joined server shows of itself, and what control gives it for that. */

/** Of a certificate; a server renews it when two thirds are over. */
export const CERTIFICATE_LIFE_MS = 24 * 3_600_000;
/** A server that was off for longer needs a join string again. */
export const RENEWABLE_FOR_MS = 30 * 86_400_000;
/** Of what programs of one region show one another: they go by the list of servers, and may be without control for that long. */
const PEER_LIFE_MS = RENEWABLE_FOR_MS;

export function expiryFrom(now: number): number {
	// To the second, as certificates have it.
	return Math.floor((now + CERTIFICATE_LIFE_MS) / 1000) * 1000;
}

/** `sha256/…` of the new key. @throws Refusal (bad_proof) */
export function provenKey(body: JoinRequest): string {
	return spkiProven(joinText(body), body.publicKey, body.proof);
}

/** `sha256/…` of the key that it had before, or null. @throws Refusal (bad_proof) */
export function provenFormer(body: JoinRequest): string | null {
	return body.former && spkiProven(joinText(body), body.former.publicKey, body.former.proof);
}

/** @throws Refusal (bad_proof) */
export function provenCheckIn(installation: string, body: CheckInRequest): string {
	return spkiProven(checkInText(installation, body), body.publicKey, body.proof);
}

/** @throws Refusal (bad_proof) */
export function provenPackage(installation: string, body: PackageRequest): string {
	return spkiProven(packageText(installation, body), body.publicKey, body.proof);
}

function spkiProven(text: string, publicKey: string, proof: string): string {
	try {
		const key = publicKeyOf(publicKey);
		if (isProven(text, key, proof)) return spkiOf(key);
	} catch (cause) {
		throw badProof(cause);
	}
	throw badProof(null);
}

function badProof(cause: unknown): Refusal {
	const why = cause instanceof Error ? `: ${cause.message}` : '';
	return new Refusal('bad_proof', 403, `the request is not signed by the key that it names${why}`, 'join again by "jibe server add"');
}

/** Certificates for the server's key, and credentials for its programs. */
export function papersFor({ installation, clock }: House, server: ServerRow, publicKey: string): ServerPapers {
	const { name, region, roles } = server;
	const now = clock.now();
	const expires = server.certificateExpires;
	const certified = { commonName: name, publicKey: publicKeyOf(publicKey), names: [`${name}.server.${installation.id}.jibe`] };
	const claims = { installation: installation.id, server: name, regions: [region], expires: Math.floor((now + PEER_LIFE_MS) / 1000) };
	return {
		installation: installation.id,
		server: name,
		region,
		roles,
		certificate: issueCertificate(installation.ca, { ...certified, notAfter: expires }, now),
		peerCertificate: issueCertificate(installation.ca, { ...certified, notAfter: now + PEER_LIFE_MS }, now),
		ca: installation.ca.certificate,
		expires,
		credentials: Object.fromEntries(roles.map((role) => [role, issueCredential({ ...claims, role }, installation.privatePem)])),
		publicKey: installation.publicPem,
	};
}

import { z } from 'zod';
import { digest, regionName, serverName } from './names.ts';
import { keyPem, proof } from './join.ts';

/** How joined servers get to another version of Jibe: control has its package, tells each server when it is its turn, and hears how it went. */

/** Of what `npm pack` makes: bundles, without Node and PostgreSQL. */
export const MAX_PACKAGE_BYTES = 64 * 1024 * 1024;
/** `runs` of what a server says: so many digits of the digest name the place that a package was unpacked to. */
export const PACKAGE_ID_DIGITS = 12;

export const packageAnswer = z.object({ digest });

/** `POST /api/v1/servers/package`: signed by the server's key, as its check-ins are. */
export const packageRequest = z.object({ server: serverName, publicKey: keyPem, digest, proof, at: z.number() });
export type PackageRequest = z.infer<typeof packageRequest>;

export function packageText(installation: string, of: Pick<PackageRequest, 'server' | 'digest' | 'at'>): string {
	return `jibe package\n${installation}\n${of.server}\n${of.digest}\n${of.at}`;
}

/** One of `GET /api/v1/packages`. */
export const serverPackageStatus = z.object({
	name: serverName,
	region: regionName,
	/** All programs of its roles are connected. */
	whole: z.boolean(),
	wanted: digest.nullable(),
	runs: z.string().nullable(),
	version: z.string().nullable(),
	problem: z.string().nullable(),
	saidAt: z.number().nullable(),
});
export type ServerPackageStatus = z.infer<typeof serverPackageStatus>;
export const packagesAnswer = z.object({ servers: z.array(serverPackageStatus) });
export const packageWanted = z.object({ digest });

export function runsPackage(runs: string | null, wanted: string): boolean {
	return runs !== null && wanted.startsWith(`sha256:${runs}`);
}

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { regionName, serverName } from './names.ts';
import { role } from './region.ts';

/**
 * Who a joined server is: `<data>/server/server.json`, beside `key.pem` (0600), `cert.pem`, `peer.pem`, `ca.pem` and `servers.json`
 * (the last `servers` message). Made by `jibe agent join`; a data directory without it belongs to control's own machine.
 */
export const serverIdentity = z.object({
	installation: z.string(),
	server: serverName,
	region: regionName,
	roles: z.array(role).min(1),
	/** Every address of control, `https://host:port`; tried in turn. */
	control: z.array(z.string()).min(1),
	/** `sha256/<base64>` of the DER of Jibe's own CA certificate: what join and login strings carry. */
	fingerprint: z.string(),
	/** Where the region's other servers reach it, and the ports of its listeners. */
	host: z.string(),
	depotPort: z.int(),
	agentPort: z.int(),
	edgePort: z.int(),
});
export type ServerIdentity = z.infer<typeof serverIdentity>;

/**
 * A server has two certificates of one key. `cert.pem` is for control, and good for a day. `peer.pem` is for the region's
 * other servers, who go by the list of servers and not by a date: a region must go on for longer than a day without control.
 */
export type Towards = 'control' | 'peers';

const CERTIFICATE_FILES: Record<Towards, string> = { control: 'cert.pem', peers: 'peer.pem' };

/** What a program needs for mutual TLS, read anew at each use because certificates are renewed while programs run. */
export interface TlsIdentity {
	key: Buffer;
	cert: Buffer;
	ca: Buffer;
}

/** @throws when one of the files is missing */
export function readTlsIdentity(directory: string, towards: Towards): TlsIdentity {
	const read = (name: string) => readFileSync(join(directory, name));
	return { key: read('key.pem'), cert: read(CERTIFICATE_FILES[towards]), ca: read('ca.pem') };
}

import { X509Certificate } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkServerIdentity, type ConnectionOptions, type PeerCertificate, type TLSSocket, type TlsOptions } from 'node:tls';
import type { Log } from '#log/log.ts';
import { spkiOf } from './certificate.ts';
import { servers as serversSchema, type Role, type ServerPeer, type Servers } from './region.ts';
import { controlName } from './control-identity.ts';
import { readTlsIdentity, type Towards } from './server-identity.ts';

/**
 * Whom a program on a joined server may speak to: the newest `servers` message it has heard, kept on disk beside the
 * server's certificate. A certificate of Jibe's CA says who somebody was when it was issued; this list says who still is.
 */

const FILE = 'servers.json';
const TLS_VERSION = 'TLSv1.3';

export interface PeersOptions {
	/** `<data>/server`: the certificate of this server and what it last heard of the others. */
	directory: string;
	/** This server's own name. */
	server: string;
	log: Log;
}

export class Peers {
	readonly server: string;
	#newest: Servers;
	readonly #directory: string;
	readonly #log: Log;
	readonly #listeners = new Set<(newest: Servers) => void>();

	constructor({ directory, server, log }: PeersOptions) {
		this.server = server;
		this.#directory = directory;
		this.#log = log;
		this.#newest = readNewest(directory, log) ?? { type: 'servers', version: 0, control: [], servers: [] };
	}

	get newest(): Servers {
		return this.#newest;
	}

	/** Takes over a newer list and tells who listens; false: it is not newer. */
	take(message: Servers): boolean {
		if (message.version <= this.#newest.version) return false;
		this.#newest = message;
		if (!this.named(this.server)) this.#log.warn('server.not_listed', { server: this.server, version: message.version });
		this.#keep(message);
		for (const listener of this.#listeners) listener(message);
		return true;
	}

	/** Hears of each newer list. Returns the way to stop. */
	onChange(listener: (newest: Servers) => void): () => void {
		this.#listeners.add(listener);
		return () => this.#listeners.delete(listener);
	}

	named(name: string): ServerPeer | null {
		return this.#newest.servers.find((peer) => peer.name === name) ?? null;
	}

	/** The other servers of these regions that run a program of this role. */
	others(role: Role, regions: readonly string[]): ServerPeer[] {
		return this.#newest.servers.filter((peer) => peer.name !== this.server && peer.roles.includes(role) && regions.includes(peer.region));
	}

	/** Who is at the other end of an accepted TLS connection; null: nobody whom the newest list names with that key. */
	at(socket: TLSSocket): ServerPeer | null {
		const certificate = socket.authorized ? socket.getPeerX509Certificate() : undefined;
		return certificate ? this.#holder(certificate) : null;
	}

	/** For a connection to another server of the region: it must be that server, by the key in the newest list. */
	towards(peer: string): ConnectionOptions {
		return {
			...this.#own('peers'),
			checkServerIdentity: (_host: string, certificate: PeerCertificate) =>
				this.#holder(new X509Certificate(certificate.raw))?.name === peer ? undefined : new NotTrusted(peer),
		};
	}

	/** For a connection to control: Jibe's own certificate, whatever other one control's listener has. */
	towardsControl(installation: string): ConnectionOptions {
		const name = controlName(installation);
		return {
			...this.#own('control'),
			servername: name,
			checkServerIdentity: (_host: string, certificate: PeerCertificate) => checkServerIdentity(name, certificate),
		};
	}

	/** For a listener: the other end must have a certificate of Jibe's CA. Who it is and whether it is still trusted, `at` says. */
	listening(): TlsOptions {
		return { ...this.#own('peers'), requestCert: true, rejectUnauthorized: true };
	}

	/** Read at each use, because certificates are renewed while programs run. */
	#own(towards: Towards): Pick<ConnectionOptions, 'key' | 'cert' | 'ca' | 'minVersion'> {
		const { key, cert, ca } = readTlsIdentity(this.#directory, towards);
		return { key, cert, ca, minVersion: TLS_VERSION };
	}

	#holder(certificate: X509Certificate): ServerPeer | null {
		const peer = this.named(commonName(certificate));
		return peer?.spki === spkiOf(certificate.publicKey) ? peer : null;
	}

	/** Other programs of this server write the same file: the newest stays. */
	#keep(message: Servers): void {
		const file = join(this.#directory, FILE);
		try {
			if ((readNewest(this.#directory, this.#log)?.version ?? -1) >= message.version) return;
			mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
			writeFileSync(`${file}.${process.pid}`, JSON.stringify(message), { mode: 0o600 });
			renameSync(`${file}.${process.pid}`, file);
		} catch (error) {
			// A full disk must not keep a program from trusting whom it should: what is known stays in memory.
			this.#log.error('servers.not_written', { file, error });
		}
	}
}

export class NotTrusted extends Error {
	readonly code = 'peer_not_trusted';
	constructor(peer: string) {
		super(`what answers for the server ${peer} has another name or key than the list of servers says, or was removed`);
	}
}

function readNewest(directory: string, log: Log): Servers | null {
	const file = join(directory, FILE);
	try {
		return serversSchema.parse(JSON.parse(readFileSync(file, 'utf8')));
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'ENOENT') log.error('servers.unreadable', { file, error });
		return null;
	}
}

/** The server's name that a certificate was issued for; empty when it names none. */
export function commonName(certificate: X509Certificate): string {
	return /^CN=(.*)$/m.exec(certificate.subject)?.[1] ?? '';
}

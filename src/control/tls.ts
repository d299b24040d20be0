import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:https';
import { isIP } from 'node:net';
import { createSocket } from 'node:dgram';
import { hostname, networkInterfaces } from 'node:os';
import { createSecureContext, type SecureContext } from 'node:tls';
import { z } from 'zod';
import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { Installation } from '#state/state.ts';
import { issueCertificate, newKey } from '#wire/certificate.ts';
import { controlName } from '#wire/control-identity.ts';

/**
 * Control's second listener, for other machines: the same as on loopback, over TLS. It presents a certificate of Jibe's
 * own CA, or the public one it was given, and then its own only to those who ask for Jibe by name. Certificates of
 * clients are asked for and not required: browsers and commands have tokens, servers have certificates.
 */

export const tlsSettings = z.object({
	host: z.string(),
	/** 0: any free one. */
	port: z.int().min(0).max(65_535),
	/** Host names and addresses under which servers and people reach it; absent: this machine's. */
	names: z.array(z.string()).optional(),
	/** Files of a public certificate (with its chain) and its key. */
	certFile: z.string().optional(),
	keyFile: z.string().optional(),
});
export type TlsSettings = z.infer<typeof tlsSettings>;

const LIFE_MS = 90 * 86_400_000;
const HANDSHAKE_TIMEOUT_MS = 10_000;
/** New certificates, ours and those that somebody else renews in their files, are presented this long after. */
const RENEW_EACH_MS = 12 * 3_600_000;
const WILDCARDS: ReadonlySet<string> = new Set(['0.0.0.0', '::', '']);
/** By this end all names that only Jibe's own certificates have. */
const OWN_SUFFIX = '.jibe';

export interface TlsListener {
	server: Server;
	/** `https://host:port`, each of them. */
	addresses: string[];
	close(): void;
}

export interface TlsOptions {
	settings: TlsSettings;
	installation: Installation;
	limits: { headersTimeout: number; requestTimeout: number; maxHeaderSize: number };
	log: Log;
	clock: Clock;
}

/** Listens once it resolves; requests that come before there is a handler wait in their sockets. */
export async function listenTls(options: TlsOptions, onServer: (server: Server) => void): Promise<TlsListener> {
	const { settings, limits, log, clock } = options;
	const names = settings.names?.length ? [...settings.names] : [await ownName(settings.host)];
	let own = ownContext(options, names);
	const publicCertificate = readPublic(settings);
	const trusting = { ca: options.installation.ca.certificate, requestCert: true, rejectUnauthorized: false };
	const server = createServer({
		...limits,
		handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
		...trusting,
		...(publicCertificate ?? own.material),
		SNICallback(name, done) {
			done(null, publicCertificate === null || name.endsWith(OWN_SUFFIX) ? own.context : undefined);
		},
	});
	server.on('tlsClientError', (error) => log.debug('tls.no_handshake', { error }));
	const renewing = clock.every(RENEW_EACH_MS, () => {
		try {
			own = ownContext(options, names);
			server.setSecureContext({ ca: trusting.ca, ...(readPublic(settings) ?? own.material) });
		} catch (error) {
			log.warn('tls.certificate', { error });
		}
	});
	onServer(server);
	await new Promise<void>((resolve, reject) => {
		server.once('error', reject);
		server.listen(settings.port, settings.host, () => {
			server.off('error', reject);
			resolve();
		});
	});
	const bound = server.address();
	const port = typeof bound === 'object' && bound ? bound.port : settings.port;
	return {
		server,
		addresses: names.map((name) => `https://${name.includes(':') ? `[${name}]` : name}:${port}`),
		close: () => renewing.cancel(),
	};
}

function ownContext(
	{ installation, clock }: TlsOptions,
	names: readonly string[],
): { material: { key: string; cert: string }; context: SecureContext } {
	const { privatePem, publicKey } = newKey();
	const now = clock.now();
	const all = [...new Set([controlName(installation.id), ...names, hostname(), 'localhost', '127.0.0.1', '::1'])];
	const request = { commonName: 'control', publicKey, names: all, notAfter: now + LIFE_MS };
	// The CA's certificate comes along: who has only its fingerprint finds it there.
	const cert = issueCertificate(installation.ca, request, now) + installation.ca.certificate;
	const material = { key: privatePem, cert };
	return { material, context: createSecureContext({ ...material, ca: installation.ca.certificate }) };
}

/** @throws with the file's name when it can't be read */
function readPublic({ certFile, keyFile }: TlsSettings): { key: Buffer; cert: Buffer } | null {
	if (certFile === undefined || keyFile === undefined) return null;
	return { cert: readFileSync(certFile), key: readFileSync(keyFile) };
}

/** Reserved for documentation: never sent to, it only asks the kernel for the way out. */
const SOMEWHERE = { 4: '192.0.2.1', 6: '2001:db8::1' } as const;

/** The address that other machines may know this one by: that of the way out of it, else the first that is not loopback. */
async function ownName(host: string): Promise<string> {
	if (!WILDCARDS.has(host)) return host;
	const wayOut = (await addressTowards(4)) ?? (host === '::' ? await addressTowards(6) : null);
	const others = Object.values(networkInterfaces())
		.flat()
		.flatMap((one) => (one && !one.internal && isIP(one.address) === 4 ? [one.address] : []));
	return wayOut ?? others[0] ?? '127.0.0.1';
}

/** null: there is no way out. Nothing is sent. */
function addressTowards(family: 4 | 6): Promise<string | null> {
	return new Promise((resolve) => {
		const socket = createSocket(`udp${family}`);
		const end = (address: string | null) => {
			socket.close();
			resolve(address);
		};
		socket.once('error', () => end(null));
		socket.connect(9, SOMEWHERE[family], () => end(socket.address().address));
	});
}

import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:https';
import { isIP } from 'node:net';
import { hostname, networkInterfaces } from 'node:os';
import { createSecureContext, type SecureContext } from 'node:tls';
import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { Installation } from '#state/state.ts';
import { issueCertificate, newKey } from '#wire/certificate.ts';
import { controlName } from '#wire/server-identity.ts';

/**
 * Control's second listener, for other machines: the same as on loopback, over TLS. It presents a certificate of Jibe's
 * own CA, or the public one it was given, and then its own only to those who ask for Jibe by name. Certificates of
 * clients are asked for and not required: browsers and commands have tokens, servers have certificates.
 */

export interface TlsSettings {
	host: string;
	/** 0: any free one. */
	port: number;
	/** Host names and addresses under which servers and people reach it; none: those of this machine. */
	names?: readonly string[] | undefined;
	/** Files of a public certificate (with its chain) and its key. */
	certFile?: string | undefined;
	keyFile?: string | undefined;
}

const LIFE_MS = 90 * 86_400_000;
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
	const names = settings.names?.length ? [...settings.names] : ownNames(settings.host);
	let own = ownContext(options, names);
	const publicCertificate = readPublic(settings);
	const trusting = { ca: options.installation.ca.certificate, requestCert: true, rejectUnauthorized: false };
	const server = createServer({
		...limits,
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

/** The addresses that other machines may know this one by; loopback where it has no other. */
function ownNames(host: string): string[] {
	if (!WILDCARDS.has(host)) return [host];
	const found = Object.values(networkInterfaces())
		.flat()
		.filter((one) => one !== undefined && !one.internal && !one.address.startsWith('fe80'))
		.map((one) => one?.address ?? '');
	const inOrder = [...found.filter((address) => isIP(address) === 4), ...found.filter((address) => isIP(address) === 6)];
	return inOrder.length > 0 ? inOrder : ['127.0.0.1'];
}

import { X509Certificate } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { checkServerIdentity, connect, type ConnectionOptions, type PeerCertificate, type TLSSocket } from 'node:tls';
import { readTime, systemClock } from '#clock/clock.ts';
import { fingerprintOf, organisationOf } from '#wire/certificate.ts';
import { CLOCK_OFF_MS, controlName } from '#wire/control-identity.ts';
import { EXIT, Failure } from './failure.ts';
import { cacheDirectory } from './places.ts';
import type { Server } from './server.ts';

/** How a control on another machine is recognised: by Jibe's own CA, which a fingerprint names, or by a public certificate. */

/** Jibe's own CA, and the name that control's certificate of it has. */
export interface Trust {
	/** PEM. */
	ca: string;
	name: string;
}

/** What one learns of a control by looking at it; nothing of it is believed yet but that it holds the key of that CA. */
export interface Met {
	ca: string;
	fingerprint: string;
	installation: string;
	/** Control's wall clock less our own. */
	aheadMs: number;
}

const MEET_WITHIN_MS = 5_000;
/** What the listener presents Jibe's own certificate for, when one does not know the installation yet. */
const ANY_CONTROL = 'control.jibe';

/** @throws Failure (wrong_control, not_jibe, …) when the pinned CA is not there */
export async function tlsOptions(server: Server): Promise<ConnectionOptions> {
	if (!server.trust && server.pin) server.trust = recall(server.pin) ?? (await learn(server.url, server.pin));
	if (!server.trust) return {};
	const { ca, name } = server.trust;
	return {
		ca,
		servername: name,
		checkServerIdentity: (_host: string, certificate: PeerCertificate) => checkServerIdentity(name, certificate),
	};
}

export function trustOf({ ca, installation }: Pick<Met, 'ca' | 'installation'>): Trust {
	return { ca, name: controlName(installation) };
}

/** @throws Failure (wrong_control) when another CA answers there */
export async function learn(url: URL, fingerprint: string): Promise<Trust> {
	const met = await meet(url);
	if (met.fingerprint !== fingerprint) throw wrongControl(url, met.fingerprint, fingerprint);
	remember(met);
	return trustOf(met);
}

export function wrongControl(url: URL, found: string, expected: string): Failure {
	const message = `what answers at ${url.origin} is another control: its CA is ${found}, and ${expected} was expected`;
	return new Failure('wrong_control', EXIT.usage, message, {
		hint: 'look whether the address is right, and from which control the string is',
	});
}

/** Connects without believing anything, looks at the certificates, and asks for the time. @throws Failure (unreachable, not_jibe) */
export async function meet(url: URL): Promise<Met> {
	const socket = await handshake(url);
	try {
		const ca = authorityOf(socket);
		if (!ca) {
			throw new Failure('not_jibe', EXIT.usage, `what answers at ${url.origin} is no control of Jibe's`, {
				hint: 'the address is the one that "jibe up --listen" says',
			});
		}
		const aheadMs = (await dateOf(socket, url)) - systemClock.now();
		const pem = ca.toString();
		return { ca: pem, fingerprint: fingerprintOf(pem), installation: organisationOf(ca), aheadMs };
	} finally {
		socket.destroy();
	}
}

function handshake(url: URL): Promise<TLSSocket> {
	return new Promise((resolve, reject) => {
		const host = url.hostname.replace(/^\[|\]$/g, '');
		const socket = connect({ host, port: Number(url.port || 443), servername: ANY_CONTROL, rejectUnauthorized: false });
		const fail = (cause: unknown) => {
			socket.destroy();
			const hint = 'look whether control runs there, and whether a firewall is between: one port of control is all that is needed';
			reject(new Failure('unreachable', EXIT.jibe, `control at ${url.origin} can't be reached: ${wordsOf(cause)}`, { hint, cause }));
		};
		socket.setTimeout(MEET_WITHIN_MS, () => fail(new Error(`no answer within ${MEET_WITHIN_MS / 1000} s`)));
		socket.once('error', fail);
		socket.once('secureConnect', () => {
			socket.off('error', fail);
			socket.on('error', () => socket.destroy());
			resolve(socket);
		});
	});
}

/** The CA's certificate that came along, when it has signed what was presented, for a name that only control has. */
function authorityOf(socket: TLSSocket): X509Certificate | null {
	const presented = socket.getPeerCertificate(true);
	if (!presented.raw || !presented.issuerCertificate?.raw) return null;
	const leaf = new X509Certificate(presented.raw);
	const ca = new X509Certificate(presented.issuerCertificate.raw);
	const signed = ca.ca && ca.verify(ca.publicKey) && leaf.verify(ca.publicKey);
	return signed && leaf.checkHost(controlName(organisationOf(ca))) !== undefined ? ca : null;
}

function dateOf(socket: TLSSocket, url: URL): Promise<number> {
	return new Promise((resolve, reject) => {
		const asked = httpRequest({ createConnection: () => socket, path: '/healthz', headers: { host: url.host } }, (response) => {
			response.resume();
			resolve(readTime(response.headers.date ?? '') ?? systemClock.now());
		});
		asked.once('error', reject);
		asked.end();
	});
}

/** Words for a machine whose clock is off, or null. */
export function clockProblem(aheadMs: number): Failure | null {
	if (Math.abs(aheadMs) <= CLOCK_OFF_MS) return null;
	const message = `this machine's clock is ${span(Math.abs(aheadMs))} ${aheadMs > 0 ? 'behind' : 'ahead of'} control's`;
	return new Failure('clock_off', EXIT.usage, message, { hint: 'set it (timedatectl set-ntp true), then try again' });
}

function span(ms: number): string {
	const minutes = Math.round(ms / 60_000);
	return minutes < 120 ? `${minutes} min` : minutes < 48 * 60 ? `${Math.round(minutes / 60)} h` : `${Math.round(minutes / 1_440)} days`;
}

const OF_TLS = /^(CERT_|ERR_TLS_|SELF_SIGNED|DEPTH_ZERO|UNABLE_TO_|INVALID_CA|HOSTNAME_MISMATCH)/;

/** What to tell of a certificate that was not believed; null: the error is another one. */
export async function whyNotTrusted(error: NodeJS.ErrnoException, server: Server): Promise<Failure | null> {
	if (!OF_TLS.test(error.code ?? '')) return null;
	const { url, trust } = server;
	const met = await meet(url).catch((cause: unknown) => (cause instanceof Failure ? cause : null));
	if (met instanceof Failure || met === null) {
		return new Failure('not_trusted', EXIT.usage, `the certificate of ${url.origin} is not good: ${error.message}`, { cause: error });
	}
	const clock = clockProblem(met.aheadMs);
	if (clock) return clock;
	const expected = trust && fingerprintOf(trust.ca);
	if (expected && met.fingerprint !== expected) return wrongControl(url, met.fingerprint, expected);
	return new Failure('not_trusted', EXIT.usage, `${url.origin} has a certificate that this machine does not know: ${error.message}`, {
		hint: `its CA is ${met.fingerprint}; if control's machine says the same: jibe login ${url.origin}#${met.fingerprint}`,
		fields: { fingerprint: met.fingerprint },
		cause: error,
	});
}

function wordsOf(cause: unknown): string {
	return cause instanceof Error ? cause.message : String(cause);
}

/** CAs that were met under their fingerprint: looked at again when read, so that nobody can put another in the place. */
function recall(fingerprint: string): Trust | null {
	try {
		const ca = readFileSync(cacheFile(fingerprint), 'utf8');
		if (fingerprintOf(ca) !== fingerprint) return null;
		return trustOf({ ca, installation: organisationOf(new X509Certificate(ca)) });
	} catch {
		return null; // not met before, or damaged: it is asked for again
	}
}

function remember({ ca, fingerprint }: Met): void {
	const file = cacheFile(fingerprint);
	try {
		mkdirSync(join(file, '..'), { recursive: true, mode: 0o700 });
		writeFileSync(`${file}.${process.pid}`, ca, { mode: 0o600 });
		renameSync(`${file}.${process.pid}`, file);
	} catch {
		return; // a cache: without it one more look is needed each time
	}
}

function cacheFile(fingerprint: string): string {
	return join(cacheDirectory(), 'controls', `${Buffer.from(fingerprint).toString('base64url')}.pem`);
}

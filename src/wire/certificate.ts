import {
	X509Certificate,
	createHash,
	createPrivateKey,
	createPublicKey,
	generateKeyPairSync,
	randomBytes,
	sign,
	type KeyObject,
} from 'node:crypto';
import { isIP } from 'node:net';
import { isoTime } from '#clock/clock.ts';

/**
 * Jibe's own CA and the certificates it signs: P-256, one level, three profiles. Written as DER here, because that is a
 * page, and the libraries for it bring twenty packages; Node's own OpenSSL reads what this writes, and judges it.
 */

const DAY_MS = 86_400_000;
const AUTHORITY_LIFE_MS = 20 * 365 * DAY_MS;
/** A clock that is behind finds what was just signed valid already. */
export const BACKDATED_MS = 2 * 3_600_000;

export interface Authority {
	/** PEM. */
	certificate: string;
	key: string;
}

export interface CertificateRequest {
	commonName: string;
	/** Of the one who is certified: SPKI. */
	publicKey: KeyObject;
	/** DNS names and IP addresses that a listener with it answers to. */
	names: readonly string[];
	notAfter: number;
}

export function newKey(): { privatePem: string; publicKey: KeyObject } {
	const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
	return { privatePem: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), publicKey };
}

export function newAuthority(installation: string, nowMs: number): Authority {
	const { privatePem, publicKey } = newKey();
	const subject = nameOf({ organisation: installation, commonName: `Jibe ${installation}` });
	const identifier = keyIdentifier(publicKey);
	const extensions = [
		extension(OID.basicConstraints, true, sequence(BOOLEAN_TRUE, integer(Buffer.from([0])))),
		extension(OID.keyUsage, true, bitString(Buffer.from([KEY_CERT_SIGN]), 1)),
		extension(OID.subjectKeyIdentifier, false, octetString(identifier)),
	];
	const certificate = signed({
		issuer: subject,
		subject,
		notBefore: nowMs - DAY_MS,
		notAfter: nowMs + AUTHORITY_LIFE_MS,
		publicKey,
		extensions,
		issuerKey: privatePem,
	});
	return { certificate, key: privatePem };
}

/** For TLS in both directions: a server's programs listen and dial with one certificate, and so does control. */
export function issueCertificate(authority: Authority, of: CertificateRequest, nowMs: number): string {
	const issuer = new X509Certificate(authority.certificate);
	const organisation = organisationOf(issuer);
	const extensions = [
		extension(OID.basicConstraints, true, sequence()),
		extension(OID.keyUsage, true, bitString(Buffer.from([DIGITAL_SIGNATURE]), 7)),
		extension(OID.extendedKeyUsage, false, sequence(oid(OID.serverAuth), oid(OID.clientAuth))),
		extension(OID.subjectKeyIdentifier, false, octetString(keyIdentifier(of.publicKey))),
		extension(OID.authorityKeyIdentifier, false, sequence(tagged(0x80, keyIdentifier(issuer.publicKey)))),
		...(of.names.length > 0 ? [extension(OID.subjectAltName, false, sequence(...of.names.map(alternativeName)))] : []),
	];
	return signed({
		issuer: nameOf({ organisation, commonName: `Jibe ${organisation}` }),
		subject: nameOf({ organisation, commonName: of.commonName }),
		notBefore: nowMs - BACKDATED_MS,
		notAfter: of.notAfter,
		publicKey: of.publicKey,
		extensions,
		issuerKey: authority.key,
	});
}

/** `sha256/<base64>` of a public key's SPKI: by which a server is known. */
export function spkiOf(key: KeyObject): string {
	return pin(key.export({ type: 'spki', format: 'der' }));
}

/** `sha256/<base64>` of a certificate's DER: what join and login strings carry of Jibe's CA. */
export function fingerprintOf(certificate: string | Buffer): string {
	return pin(new X509Certificate(certificate).raw);
}

/** The installation that a certificate of Jibe's belongs to; empty for others. */
export function organisationOf(certificate: X509Certificate): string {
	return /^O=(.*)$/m.exec(certificate.subject)?.[1] ?? '';
}

/** @throws when it is not the PEM of a P-256 public key */
export function publicKeyOf(pem: string): KeyObject {
	const key = createPublicKey({ key: pem, format: 'pem', type: 'spki' });
	if (key.asymmetricKeyDetails?.namedCurve !== 'prime256v1') throw new Error('not a P-256 public key');
	return key;
}

function pin(bytes: Uint8Array): string {
	return `sha256/${createHash('sha256').update(bytes).digest('base64')}`;
}

// DER, as far as certificates need it.

const OID = {
	ecdsaWithSha256: '1.2.840.10045.4.3.2',
	organisation: '2.5.4.10',
	commonName: '2.5.4.3',
	basicConstraints: '2.5.29.19',
	keyUsage: '2.5.29.15',
	extendedKeyUsage: '2.5.29.37',
	subjectAltName: '2.5.29.17',
	subjectKeyIdentifier: '2.5.29.14',
	authorityKeyIdentifier: '2.5.29.35',
	serverAuth: '1.3.6.1.5.5.7.3.1',
	clientAuth: '1.3.6.1.5.5.7.3.2',
} as const;
/** Bits of KeyUsage, from the left. */
const DIGITAL_SIGNATURE = 0x80;
const KEY_CERT_SIGN = 0x06;
const SERIAL_BYTES = 16;
/** From then on times are written with four digits of the year. */
const FIRST_LONG_YEAR = 2050;

interface ToBeSigned {
	issuer: Buffer;
	subject: Buffer;
	notBefore: number;
	notAfter: number;
	publicKey: KeyObject;
	extensions: Buffer[];
	issuerKey: string;
}

function signed(of: ToBeSigned): string {
	const algorithm = sequence(oid(OID.ecdsaWithSha256));
	const serial = randomBytes(SERIAL_BYTES);
	serial[0] = (serial[0]! & 0x7f) | 0x40; // positive, and never shortened
	const body = sequence(
		tagged(0xa0, integer(Buffer.from([2]))),
		integer(serial),
		algorithm,
		of.issuer,
		sequence(time(of.notBefore), time(of.notAfter)),
		of.subject,
		of.publicKey.export({ type: 'spki', format: 'der' }),
		tagged(0xa3, sequence(...of.extensions)),
	);
	const signature = sign('sha256', body, createPrivateKey(of.issuerKey));
	const der = sequence(body, algorithm, bitString(signature, 0));
	const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
	return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`;
}

function nameOf(of: { organisation: string; commonName: string }): Buffer {
	const part = (type: string, text: string) => tagged(0x31, sequence(oid(type), tagged(0x0c, Buffer.from(text))));
	return sequence(part(OID.organisation, of.organisation), part(OID.commonName, of.commonName));
}

function extension(type: string, critical: boolean, value: Buffer): Buffer {
	return sequence(oid(type), ...(critical ? [BOOLEAN_TRUE] : []), octetString(value));
}

function alternativeName(name: string): Buffer {
	return isIP(name) ? tagged(0x87, addressBytes(name)) : tagged(0x82, Buffer.from(name));
}

function addressBytes(address: string): Buffer {
	if (isIP(address) === 4) return Buffer.from(address.split('.').map(Number));
	const bytes = Buffer.alloc(16);
	const [head = '', tail] = address.split('::', 2);
	const groups = (text: string) => (text === '' ? [] : text.split(':')).map((group) => Number.parseInt(group, 16));
	groups(head).forEach((group, i) => bytes.writeUInt16BE(group, i * 2));
	const last = groups(tail ?? '');
	last.forEach((group, i) => bytes.writeUInt16BE(group, 16 - (last.length - i) * 2));
	return bytes;
}

function keyIdentifier(key: KeyObject): Buffer {
	const der = key.export({ type: 'spki', format: 'der' });
	return createHash('sha256').update(der).digest().subarray(0, 20);
}

function tagged(tag: number, content: Buffer): Buffer {
	const { length } = content;
	const head = length < 0x80 ? [tag, length] : length < 0x100 ? [tag, 0x81, length] : [tag, 0x82, length >> 8, length & 0xff];
	return Buffer.concat([Buffer.from(head), content]);
}

function sequence(...parts: Buffer[]): Buffer {
	return tagged(0x30, Buffer.concat(parts));
}

function integer(bytes: Buffer): Buffer {
	return tagged(0x02, bytes);
}

function octetString(bytes: Buffer): Buffer {
	return tagged(0x04, bytes);
}

function bitString(bytes: Buffer, unusedBits: number): Buffer {
	return tagged(0x03, Buffer.concat([Buffer.from([unusedBits]), bytes]));
}

const BOOLEAN_TRUE = tagged(0x01, Buffer.from([0xff]));

function oid(text: string): Buffer {
	const [first = 0, second = 0, ...rest] = text.split('.').map(Number);
	const bytes = [first * 40 + second];
	for (const part of rest) {
		const digits = [part & 0x7f];
		for (let left = part >> 7; left > 0; left >>= 7) digits.unshift((left & 0x7f) | 0x80);
		bytes.push(...digits);
	}
	return tagged(0x06, Buffer.from(bytes));
}

function time(atMs: number): Buffer {
	const digits = isoTime(atMs).replace(/\.\d+/, '').replace(/[-:T]/g, '');
	const year = Number(digits.slice(0, 4));
	return year < FIRST_LONG_YEAR ? tagged(0x17, Buffer.from(digits.slice(2))) : tagged(0x18, Buffer.from(digits));
}

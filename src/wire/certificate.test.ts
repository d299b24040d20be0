import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type TLSSocket } from 'node:tls';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { systemClock } from '#clock/clock.ts';
import {
	fingerprintOf,
	issueCertificate,
	newAuthority,
	newKey,
	organisationOf,
	publicKeyOf,
	spkiOf,
	type Authority,
} from './certificate.ts';

const HOUR_MS = 3_600_000;
const now = systemClock.now();

function certified(authority: Authority, commonName: string, names: string[], at = now) {
	const { privatePem, publicKey } = newKey();
	const cert = issueCertificate(authority, { commonName, publicKey, names, notAfter: at + 24 * HOUR_MS }, at);
	return { key: privatePem, cert, ca: authority.certificate, spki: spkiOf(publicKey) };
}

test('OpenSSL takes what this CA signs, on both ends of a connection, and nothing that another CA signed', async (t) => {
	const authority = newAuthority('1nstallat10n', now);
	const control = certified(authority, 'control', ['control.1nstallat10n.jibe', '127.0.0.1', 'fe80::1:2']);
	const server = createServer({ ...control, requestCert: true, rejectUnauthorized: false }).listen(0, '127.0.0.1');
	t.after(() => server.close());
	await once(server, 'listening');
	const { port } = server.address() as AddressInfo;
	const dial = async (of: { key: string; cert: string; ca: string }) => {
		const accepted = once(server, 'secureConnection') as Promise<[TLSSocket]>;
		const socket = connect({ port, host: '127.0.0.1', servername: 'control.1nstallat10n.jibe', ...of });
		const [peer] = await Promise.race([accepted, once(socket, 'error').then(([error]) => Promise.reject(error as Error))]);
		const said = { authorized: peer.authorized, error: String(peer.authorizationError), subject: peer.getPeerCertificate().subject };
		socket.destroy();
		peer.destroy();
		return said;
	};
	const good = await dial(certified(authority, 'web-1', []));
	assert.equal(good.authorized, true, good.error);
	assert.deepEqual({ ...good.subject }, { O: '1nstallat10n', CN: 'web-1' });
	const stranger = certified(newAuthority('1nstallat10n', now), 'web-1', []);
	assert.equal((await dial({ ...stranger, ca: authority.certificate })).authorized, false);
	await assert.rejects(dial(stranger), { code: /CERT|ISSUER|SIGNATURE/ });
	const late = certified(authority, 'web-1', [], now - 25 * HOUR_MS);
	assert.deepEqual(await dial(late).then(({ authorized, error }) => [authorized, error]), [false, 'CERT_HAS_EXPIRED']);
});

test('a certificate says who it is for, and is valid for a clock that is an hour behind', () => {
	const authority = newAuthority('abc', now);
	const made = certified(authority, 'web-1', ['web-1.server.abc.jibe', '10.0.0.7', '2001:db8::7']);
	const read = new X509Certificate(made.cert);
	assert.equal(organisationOf(read), 'abc');
	assert.equal(spkiOf(read.publicKey), made.spki);
	assert.equal(spkiOf(publicKeyOf(read.publicKey.export({ type: 'spki', format: 'pem' }).toString())), made.spki);
	assert.ok(read.checkHost('web-1.server.abc.jibe') && read.checkIP('10.0.0.7') && read.checkIP('2001:db8::7'));
	assert.ok(Date.parse(read.validFrom) <= now - HOUR_MS);
	assert.ok(!read.ca && new X509Certificate(authority.certificate).ca);
	assert.ok(read.verify(new X509Certificate(authority.certificate).publicKey));
	assert.match(fingerprintOf(authority.certificate), /^sha256\/[A-Za-z0-9+/]{43}=$/);
});

test('the CA outlives the years that certificates write with two digits', () => {
	const authority = newAuthority('abc', Date.UTC(2035, 0, 1));
	assert.equal(new X509Certificate(authority.certificate).validTo, 'Dec 27 00:00:00 2054 GMT');
});

test('a key of another kind is no server’s key', () => {
	assert.throws(() => publicKeyOf('-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n'));
});

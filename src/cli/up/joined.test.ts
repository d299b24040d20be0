import assert from 'node:assert/strict';
import { createPublicKey } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { systemClock } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import { issueCertificate, newAuthority, newKey } from '#wire/certificate.ts';
import type { ServerIdentity } from '#wire/server-identity.ts';
import { isRenewalDue } from './check-in.ts';
import { JoinedGround, serverPrograms } from './joined.ts';

const HOUR_MS = 3_600_000;
const log = createLog({}, { write: () => {} });
const IDENTITY: ServerIdentity = {
	installation: 'here',
	server: 'web-1',
	region: 'fra',
	roles: ['depot', 'agent', 'edge'],
	control: ['https://127.0.0.1:9'],
	fingerprint: 'sha256/x',
	host: '10.0.0.7',
	depotPort: 7072,
	agentPort: 7071,
	edgePort: 8080,
};

/** A server's directory with certificates that end in so many hours; what is where control was hangs up. */
async function joined(t: TestContext, hours: { control: number; peers: number }): Promise<string> {
	const data = mkdtempSync(join(tmpdir(), 'jibe-joined-'));
	t.after(() => rmSync(data, { recursive: true }));
	const stranger = createServer((socket) => socket.destroy()).listen(0, '127.0.0.1');
	t.after(() => stranger.close());
	await once(stranger, 'listening');
	const control = [`https://127.0.0.1:${(stranger.address() as AddressInfo).port}`];
	const directory = join(data, 'server');
	mkdirSync(directory);
	const now = systemClock.now();
	const ca = newAuthority('here', now);
	const { privatePem } = newKey();
	const publicKey = createPublicKey(privatePem);
	const certificate = (left: number) => {
		const notAfter = now + left * HOUR_MS;
		return issueCertificate(ca, { commonName: 'web-1', publicKey, names: [], notAfter }, notAfter - 24 * HOUR_MS);
	};
	const files = {
		'server.json': JSON.stringify({ ...IDENTITY, control }),
		'key.pem': privatePem,
		'ca.pem': ca.certificate,
		'cert.pem': certificate(hours.control),
		'peer.pem': certificate(hours.peers),
		'ticket.json': JSON.stringify({ ticket: 't'.repeat(43), next: null }),
	};
	for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text);
	return data;
}

const NOTHING = { keepers: [], begin: () => Promise.resolve(), replaceStale: () => Promise.resolve(), given: () => {} };

test('programs of a server are those of its roles, and listen where the region can reach them', (t) => {
	const data = mkdtempSync(join(tmpdir(), 'jibe-joined-'));
	t.after(() => rmSync(data, { recursive: true }));
	const names = (roles: ServerIdentity['roles']) => serverPrograms(data, { ...IDENTITY, roles }).map(({ name }) => name);
	assert.deepEqual(names(['depot', 'agent', 'edge']), ['depot', 'agent', 'edge-0', 'edge-1']);
	assert.deepEqual(names(['agent']), ['agent']);
	const [depot, agent, edge] = serverPrograms(data, IDENTITY).map(({ settings }) => settings);
	assert.deepEqual([depot?.['upstreams'], depot?.['listen']], [IDENTITY.control, { host: '0.0.0.0', port: 7072 }]);
	assert.deepEqual([agent?.['listen'], agent?.['identity']], [{ host: '0.0.0.0', port: 7071 }, join(data, 'server')]); // prettier-ignore
	assert.deepEqual([edge?.['regions'], edge?.['host']], [[{ name: 'fra', port: 8080 }], '0.0.0.0']);
	const six = serverPrograms(data, { ...IDENTITY, host: '2001:db8::7' });
	assert.equal(six.at(-1)?.settings['host'], '::');
});

test('a certificate is renewed when two thirds of its life are over', async (t) => {
	assert.equal(isRenewalDue(await joined(t, { control: 12, peers: 700 })), false);
	assert.equal(isRenewalDue(await joined(t, { control: 7, peers: 700 })), true);
});

test('without control a server starts with what it has, until that has expired too', async (t) => {
	const day = await joined(t, { control: -24, peers: 600 });
	await new JoinedGround(day, log).open(NOTHING);
	const month = await joined(t, { control: -720, peers: -1 });
	await assert.rejects(new JoinedGround(month, log).open(NOTHING), {
		code: 'certificate_expired',
		hint: /jibe server add --region fra --name web-1/,
	});
});

import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ServerResponse } from 'node:http';
import { test, type TestContext } from 'node:test';
import { createLog } from '#log/log.ts';
import { sha256 } from '#digest/digest.ts';
import { newAuthority, newKey } from '#wire/certificate.ts';
import type { Servers } from '#wire/region.ts';
import type { ServerIdentity } from '#wire/server-identity.ts';
import { openStage, temporary } from '../fixture.ts';
import { readAttempt, writeAttempt } from '../installed/attempt.ts';
import { OwnUpgrade, runsHere } from './own-upgrade.ts';

const WANTED = sha256('the package');

/** A server's directory whose list says what it is to run, and a control that has something to give. */
async function joined(t: TestContext, given: (response: ServerResponse) => void) {
	const stage = await openStage(t, { 'POST /api/v1/servers/package': (_request, response) => given(response) });
	const data = temporary(t, 'jibe-own-');
	for (const name of ['server', 'logs']) mkdirSync(join(data, name));
	writeFileSync(join(data, 'server/key.pem'), newKey().privatePem);
	writeFileSync(join(data, 'server/ca.pem'), newAuthority('i', 1_800_000_000_000).certificate);
	const identity = { installation: 'i', server: 'one', control: [`http://127.0.0.1:${stage.port}`] } as unknown as ServerIdentity;
	const list = (version: number): Servers => ({
		type: 'servers', version, control: [], servers: [{
			name: 'one', region: 'fra', roles: ['agent'], host: 'a', depotPort: null, agentPort: 1, spki: 'x', package: WANTED,
		}],
	}); // prettier-ignore
	const say = (version: number) => writeFileSync(join(data, 'server/servers.json'), JSON.stringify(list(version)));
	const told = Promise.withResolvers<void>();
	const tell = () => Promise.resolve(told.resolve());
	const waits = Promise.withResolvers<void>();
	const log = createLog({}, { level: 'debug', write: (line) => line.includes('failed_before') && waits.resolve() });
	const upgrade = new OwnUpgrade({ data, identity: () => identity, log, tell });
	// The timers of a program that waits keep nothing alive.
	const alive = setInterval(() => {}, 1_000);
	t.after(() => clearInterval(alive));
	return { data, stage, say, told: told.promise, waits: waits.promise, watch: () => upgrade.watch() };
}

test('what control sends is run only if it is what was named, and control hears why not', async (t) => {
	const { data, say, told, watch, stage } = await joined(t, (response) => response.end('something else'));
	say(7);
	watch();
	await told;
	assert.match(readAttempt(data)?.problem ?? '', /^control sent 14 bytes that are not the package sha256:/);
	assert.match(runsHere(data).problem ?? '', /not the package/);
	assert.deepEqual([readAttempt(data)?.version, stage.asked.length], [7, 1]);
});

test('what failed is not tried again until it is told again', async (t) => {
	const { data, say, told, waits, watch, stage } = await joined(t, (response) => {
		response.writeHead(404, { 'content-type': 'application/json' });
		response.end(JSON.stringify({ error: { code: 'package_gone', message: 'control does not have that package any more', hint: null } }));
	});
	writeAttempt(data, { wanted: WANTED, version: 7, problem: 'it was broken' });
	say(7);
	watch();
	await waits;
	assert.equal(stage.asked.length, 0);
	say(8);
	await told;
	assert.equal(stage.asked.length, 1);
	assert.match(readAttempt(data)?.problem ?? '', /does not have that package/);
});

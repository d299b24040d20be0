import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { createLog } from '#log/log.ts';
import { openAuthority } from '../../test/fixtures/certificates.ts';
import { openJoined } from './joined.ts';

const log = createLog({}, { write: () => {} });

test("programs of control's own machine are of no joined server", () => {
	assert.equal(openJoined(undefined, log), null);
});

test('a joined server is what its directory says; without that nothing starts', (t) => {
	const { directory } = openAuthority(t).server('one');
	assert.throws(() => openJoined(directory, log), { code: 'ENOENT' });
	const identity = {
		installation: 'here',
		server: 'one',
		region: 'fra',
		roles: ['agent'],
		control: ['https://192.0.2.1:7443'],
		fingerprint: 'sha256/x',
		host: '192.0.2.2',
		depotPort: 7072,
		agentPort: 7071,
		edgePort: 8080,
	};
	writeFileSync(join(directory, 'server.json'), JSON.stringify(identity));
	const joined = openJoined(directory, log);
	assert.deepEqual([joined?.identity.roles, joined?.peers.server, joined?.peers.newest.version], [['agent'], 'one', 0]);
	writeFileSync(join(directory, 'server.json'), JSON.stringify({ ...identity, roles: [] }));
	assert.throws(() => openJoined(directory, log), /roles/);
});

import assert from 'node:assert/strict';
import { existsSync, globSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { systemClock } from '#clock/clock.ts';
import { runDirectory } from '#process/directory.ts';
import { testLog } from '../../test/fixtures/database.ts';
import { startPostgres, stopPostgres } from './embedded.ts';
import { openPostgres } from './major.ts';
import { openState } from './open.ts';

/** Debian's, as the one of the version before. */
const OLDER =
	globSync('/usr/lib/postgresql/*').find((place) => existsSync(join(place, 'bin/postgres')) && Number(basename(place)) < 18) ?? '';
const MAJOR = basename(OLDER);
const skip = OLDER === '' ? "needs Debian's PostgreSQL (postgresql)" : false;

function directory(t: TestContext): { data: string; runDir: string; log: typeof testLog } {
	const data = mkdtempSync(join(tmpdir(), 'jibe-major-'));
	const runDir = runDirectory(data);
	t.after(async () => {
		await stopPostgres(data);
		rmSync(data, { recursive: true });
		rmSync(runDir, { recursive: true, force: true });
	});
	return { data, runDir, log: testLog };
}

test('a database of an older major is brought over with all it holds, and its files stay', { skip }, async (t) => {
	const options = directory(t);
	const older = await startPostgres({ ...options, as: { binaries: OLDER, cluster: 'cluster' } });
	const before = await openState({ database: older.connection, log: testLog, clock: systemClock });
	const installation = await before.installation();
	const { secret } = await before.tokens.create({
		name: 'kept', role: 'admin', apps: null, environments: null, expiresAt: null, by: 'test',
	}); // prettier-ignore
	await before.close();
	older.leave();

	const postgres = await openPostgres(options);
	const state = await openState({ database: postgres.connection, log: testLog, clock: systemClock });
	assert.equal((await state.installation()).id, installation.id);
	assert.ok((await state.installation()).epoch > installation.epoch);
	assert.equal((await state.tokens.verify(secret))?.name, 'kept');
	await state.close();
	postgres.leave();
	const versionIn = (cluster: string) => readFileSync(join(options.data, 'postgres', cluster, 'PG_VERSION'), 'utf8').trim();
	assert.equal(versionIn('cluster'), '18');
	assert.equal(versionIn(`cluster-${MAJOR}`), MAJOR);

	// Interrupted between the two renames, and before the first: it goes on where it was.
	await stopPostgres(options.data);
	const place = (name: string) => join(options.data, 'postgres', name);
	renameSync(place('cluster'), place('cluster-whole'));
	(await openPostgres(options)).leave();
	await stopPostgres(options.data);
	renameSync(place('cluster'), place('cluster-whole'));
	renameSync(place(`cluster-${MAJOR}`), place('cluster'));
	const again = await openPostgres(options);
	const once = await openState({ database: again.connection, log: testLog, clock: systemClock });
	assert.equal((await once.tokens.verify(secret))?.name, 'kept');
	await once.close();
	await again.stop();
});

test('a database of a newer major is refused, and left as it is', async (t) => {
	const options = directory(t);
	(await startPostgres(options)).leave();
	await stopPostgres(options.data);
	const file = join(options.data, 'postgres/cluster/PG_VERSION');
	writeFileSync(file, '99\n');
	await assert.rejects(openPostgres(options), {
		code: 'database_unavailable',
		message: /is one of PostgreSQL 99, and this version brings 18: .*jibe restore/,
	});
	assert.equal(readFileSync(file, 'utf8'), '99\n');
});

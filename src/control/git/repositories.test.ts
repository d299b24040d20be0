import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { noGit } from '../../../test/fixtures/git-server.ts';
import { Repositories } from './repositories.ts';

const MIB = 1024 * 1024;
const NOW_S = 1_790_000_000;

test('copies that are too old or too many go, the least used first, and none that is in use', { skip: noGit }, async (t) => {
	const data = mkdtempSync(join(tmpdir(), 'jibe-copies-'));
	t.after(() => rmSync(data, { recursive: true, force: true }));
	const repositories = new Repositories(data);
	const ages = { fresh: 1, hour: 3_600, day: 86_400, busy: 200_000, month: 2_700_000 };
	for (const [name, ageS] of Object.entries(ages)) {
		const directory = await repositories.make(name);
		writeFileSync(join(directory, 'objects', 'large'), Buffer.alloc(MIB));
		utimesSync(directory, NOW_S - ageS, NOW_S - ageS);
	}
	for (const [name, ageS] of [
		['.new-old', 200_000],
		['.new-now', 10],
	] as const) {
		mkdirSync(join(data, 'git', name));
		utimesSync(join(data, 'git', name), NOW_S - ageS, NOW_S - ageS);
	}
	const clean = (maxMib: number) => repositories.clean(NOW_S * 1_000, { maxBytes: (maxMib + 0.5) * MIB, maxAgeMs: 30 * 86_400_000 });
	await repositories.using('busy', async () => {
		assert.deepEqual(await clean(10), ['month']);
		assert.deepEqual(await clean(2), ['day'], 'what is in use counts, and stays');
	});
	assert.deepEqual(
		readdirSync(join(data, 'git')).toSorted((a, b) => a.localeCompare(b)),
		['.new-now', 'busy.git', 'fresh.git', 'hour.git'],
	);
	assert.deepEqual(await clean(1), ['fresh', 'hour'].toReversed(), 'it was used just now');
});

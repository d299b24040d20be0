import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { directoriesIn, unused } from './least-used.ts';

test('what is too old goes, then the least used of what is too much; a directory that is not there has nothing', async (t) => {
	const place = mkdtempSync(join(tmpdir(), 'jibe-used-'));
	t.after(() => rmSync(place, { recursive: true }));
	for (const [name, usedAt] of Object.entries({ a: 100, b: 900, c: 800, d: 700 })) {
		mkdirSync(join(place, name, 'inside'), { recursive: true });
		writeFileSync(join(place, name, 'inside', 'file'), Buffer.alloc(1000));
		utimesSync(join(place, name), usedAt, usedAt);
	}
	const going = async (maxBytes: number, maxAgeMs: number) =>
		(await unused(await directoriesIn(place), 1_000_000, { maxBytes, maxAgeMs })).map(({ path }) => basename(path));
	assert.deepEqual(await going(4_000, 900_000), []);
	assert.deepEqual(await going(4_000, 899_999), ['a']);
	assert.deepEqual(await going(2_999, 900_000), ['a', 'd']);
	assert.deepEqual(await going(0, 0), ['a', 'd', 'c', 'b']);
	assert.deepEqual(await directoriesIn(join(place, 'nothing')), []);
});

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { uidOf } from './uids.ts';

test('each app and environment has a uid of its own, the same each time, in a range of its installation', (t) => {
	const data = mkdtempSync(join(tmpdir(), 'jibe-uids-'));
	t.after(() => rmSync(data, { recursive: true }));
	const notes = uidOf(data, { app: 'notes', environment: 'production' });
	const staging = uidOf(data, { app: 'notes', environment: 'staging' });
	const other = uidOf(data, { app: 'other', environment: 'production' });
	assert.equal(new Set([notes, staging, other]).size, 3);
	assert.equal(uidOf(data, { app: 'notes', environment: 'staging' }), staging);
	for (const uid of [notes, staging, other]) assert.ok(uid >= 2_000_000_000 && uid < 2 ** 31);
});

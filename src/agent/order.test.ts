import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import type { UpMessage } from '#wire/region.ts';
import { openOrder } from './order.ts';

const log = createLog({}, { write: () => {} });

test('each report has a higher number than the one before, also after a restart with the clock set back', (t) => {
	const home = mkdtempSync(join(tmpdir(), 'jibe-order-'));
	t.after(() => rmSync(home, { recursive: true }));
	const first = openOrder(home, { ...systemClock, now: () => 5_000 }, log);
	assert.deepEqual([numberOf(first(said)), numberOf(first(said))], [{ run: 5_000, count: 0 }, { run: 5_000, count: 1 }]); // prettier-ignore
	const second = openOrder(home, { ...systemClock, now: () => 1_000 }, log);
	assert.deepEqual(numberOf(second(said)), { run: 5_001, count: 0 });
	writeFileSync(join(home, 'run'), 'torn');
	assert.deepEqual(numberOf(openOrder(home, { ...systemClock, now: () => 9_000 }, log)(said)), { run: 9_000, count: 0 });
});

const said: UpMessage = {
	type: 'instances',
	server: 'one',
	groups: [{ region: 'fra', app: 'notes', environment: 'production', instances: [] }],
};

function numberOf(message: UpMessage) {
	return message.type === 'instances' ? message.groups[0]?.order : null;
}

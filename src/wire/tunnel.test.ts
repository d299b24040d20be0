import assert from 'node:assert/strict';
import { test } from 'node:test';
import { randomId } from '#digest/digest.ts';
import { MAX_LINE_BYTES, PULSE_EACH_MS, PULSE_LOST_AFTER_MS, tunnelLine } from './tunnel.ts';

test('the line that names an instance fits, and a lost echo or two are no lost server', () => {
	const line = tunnelLine(randomId(64));
	assert.match(line, /^jibe-tunnel\/1 \w+\n$/);
	assert.ok(line.length < MAX_LINE_BYTES);
	assert.ok(PULSE_LOST_AFTER_MS > 3 * PULSE_EACH_MS);
});

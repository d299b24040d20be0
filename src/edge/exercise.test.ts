import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import { newSigningKey } from '#wire/credential.ts';
import { exercise } from './exercise.ts';
import { temporary } from './fixture.ts';

test('the exercise asks through a front of its own, and leaves nothing', async (t) => {
	const directory = join(temporary(t), 'exercise');
	const lines: string[] = [];
	const log = createLog({ role: 'edge' }, { write: (line) => lines.push(line) });
	await exercise({ directory, publicKey: newSigningKey().publicPem, clock: systemClock, log });
	assert.equal(existsSync(directory), false);
	assert.deepEqual(lines, []);
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isoTime, pause, systemClock } from './clock.ts';

test('a timer runs once, later, unless it was cancelled', async () => {
	const ran: string[] = [];
	systemClock.after(0, () => ran.push('cancelled')).cancel();
	await new Promise<void>((resolve) => {
		systemClock.after(1, () => {
			ran.push('kept');
			resolve();
		});
		assert.deepEqual(ran, []);
	});
	assert.deepEqual(ran, ['kept']);
});

test('a periodic timer runs until it is cancelled', async () => {
	let runs = 0;
	await new Promise<void>((resolve) => {
		const timer = systemClock.every(1, () => {
			if (++runs < 3) return;
			timer.cancel();
			resolve();
		});
		void pause(1000); // periodic timers keep nothing alive by themselves
	});
	assert.equal(runs, 3);
});

test('the monotonic clock never goes back', async () => {
	const before = systemClock.monotonic();
	await pause(1);
	assert.ok(systemClock.monotonic() > before);
});

test('times are written as RFC 3339 in UTC', () => {
	assert.equal(isoTime(0), '1970-01-01T00:00:00.000Z');
	assert.equal(isoTime(1_795_210_600_123), '2026-11-20T21:36:40.123Z');
});

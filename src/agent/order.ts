import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { UpMessage } from '#wire/region.ts';

/**
 * Numbers what an agent reports, so that whoever hears it by several depots knows which report is the newer. Each start of
 * the agent counts from a number that is higher than that of the start before, also if the clock was set back since.
 */
export function openOrder(home: string, clock: Clock, log: Log): (message: UpMessage) => UpMessage {
	const file = join(home, 'run');
	const run = Math.max(Math.floor(clock.now()), lastRun(file) + 1);
	try {
		mkdirSync(home, { recursive: true, mode: 0o700 });
		writeFileSync(`${file}.draft`, String(run));
		renameSync(`${file}.draft`, file);
	} catch (error) {
		// The clock alone orders the starts then: a full disk must not keep instances from being looked after.
		log.warn('run.not_written', { file, error });
	}
	let count = 0;
	return (message) => {
		if (message.type !== 'instances') return message;
		const order = { run, count: count++ };
		return { ...message, groups: message.groups.map((group) => ({ ...group, order })) };
	};
}

function lastRun(file: string): number {
	try {
		const last = Number(readFileSync(file, 'utf8'));
		return Number.isSafeInteger(last) ? last : 0;
	} catch {
		return 0; // the first start here
	}
}

import { rmSync, statfsSync, statSync, type StatsFs } from 'node:fs';
import { open, rename, rm, statfs } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';

/**
 * Room on the disk that is given up when nothing else is left: the way back must be recorded, and a database that has no
 * page for it is no way back. While it is gone nothing new is taken in, so that what it gave is not filled with uploads.
 */
export interface Reserve {
	/** Given up, and not there again yet. */
	readonly spent: boolean;
	close(): void;
}

/** A segment of PostgreSQL's log, and as much again for pages. */
export const RESERVE_BYTES = 32 * 1024 * 1024;
/** With less room than this it is given up. */
const LOW_BYTES = 2 * 1024 * 1024;
/** With more it is laid by again, and what is new is taken in again. */
const ENOUGH_BYTES = 2 * RESERVE_BYTES;
const LOOK_EACH_MS = 1_000;
const PIECE_BYTES = 1024 * 1024;

export function openReserve(data: string, clock: Clock, log: Log): Reserve {
	const file = join(data, 'reserve');
	let held = statSync(file, { throwIfNoEntry: false })?.size === RESERVE_BYTES;
	let spent = false;
	let looking = false;
	const look = async (): Promise<void> => {
		const free = freeBytes(await statfs(data));
		if (free < LOW_BYTES && held) {
			rmSync(file, { force: true });
			[held, spent] = [false, true];
			log.error('reserve.spent', { free, hint: 'make room on the disk of the data directory: until then nothing new is deployed' });
		} else if (free > ENOUGH_BYTES && !held) {
			await lay(file);
			[held, spent] = [true, false];
		}
	};
	const timer = clock.every(LOOK_EACH_MS, () => {
		if (looking) return;
		looking = true;
		look()
			.catch((error: unknown) => log.warn('reserve.look_failed', { error }))
			.finally(() => (looking = false));
	});
	return {
		get spent() {
			return spent && freeBytes(statfsSync(data)) <= ENOUGH_BYTES;
		},
		close: () => timer.cancel(),
	};
}

function freeBytes({ bavail, bsize }: StatsFs): number {
	return bavail * bsize;
}

/** Bytes that no file system can make smaller than they are. */
async function lay(file: string): Promise<void> {
	const draft = `${file}.tmp`;
	try {
		const handle = await open(draft, 'w', 0o600);
		const piece = randomBytes(PIECE_BYTES);
		try {
			for (let written = 0; written < RESERVE_BYTES; written += PIECE_BYTES) await handle.write(piece);
		} finally {
			await handle.close();
		}
		await rename(draft, file);
	} catch (error) {
		await rm(draft, { force: true });
		throw error;
	}
}

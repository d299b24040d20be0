import { readFileSync, statfsSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { ServerState, UpMessage } from '#wire/region.ts';
import type { Room } from './room.ts';

/** What this server has, told after each connection, and again when it has changed by so much that placement may care. */
export interface StateTeller {
	/** Who is connected now has heard nothing yet. */
	again(): void;
	/** Looks, and tells what has changed by much. */
	look(): Promise<void>;
}

/** What has changed by less is told no more often than this. */
const SAY_AFTER_MS = 60_000;
/** Of the budget, or of what an app was measured to take. */
const MUCH_SHARE = 0.05;
/** Of free disk: below this every bit of it counts. */
const SCARCE_DISK_MIB = 2_048;
const MUCH_SCARCE_DISK_MIB = 64;
const MIB = 1024 * 1024;
const CHECKUP_EACH_MS = 60_000;
/** What is wrong may be so for a moment only: a neighbour whose programs are being replaced. */
const CHECKUP_AGAIN_MS = 5_000;

type Findings = NonNullable<ServerState['findings']>;
export type Checkup = () => Promise<Findings>;

export function createStateTeller(of: {
	server: string;
	regions: readonly string[];
	room: Room;
	/** Where the agent keeps releases and data. */
	directory: string;
	clock: Clock;
	log: Log;
	/** Apps that keep files of their own here. */
	keeps(): string[];
	/** Looks at the machine and at whom it reaches. */
	checkup?: Checkup | undefined;
	send(message: UpMessage): boolean;
}): StateTeller {
	const { server, regions, room, directory, clock, log } = of;
	const version = ownVersion();
	const platform = platformHere();
	let disk = diskIn(statfsSync(directory));
	let said: ServerState | null = null;
	let saidAt = 0;
	let findings: Findings = [];
	let lookedAt: number | null = null;
	const lookAround = async () => {
		const now = clock.monotonic();
		const periodMs = findings.some(({ state }) => state === 'bad') ? CHECKUP_AGAIN_MS : CHECKUP_EACH_MS;
		if (!of.checkup || (lookedAt !== null && now - lookedAt < periodMs)) return;
		lookedAt = now;
		findings = await of.checkup();
	};
	const say = () => {
		const { budgetMiB, reservedMiB, appsMiB } = room.state();
		const state: ServerState = {
			type: 'serverState',
			server,
			regions: [...regions],
			version,
			platform,
			cpus: availableParallelism(),
			budgetMiB,
			reservedMiB: Math.ceil(reservedMiB),
			appsMiB,
			keeps: of.keeps(),
			...disk,
			at: clock.now(),
			findings,
		};
		const aged = clock.monotonic() - saidAt >= SAY_AFTER_MS && JSON.stringify({ ...state, at: 0 }) !== JSON.stringify({ ...said, at: 0 });
		if (said !== null && !aged && !differsMuch(said, state)) return;
		said = of.send(state) ? state : null;
		saidAt = clock.monotonic();
	};
	return {
		again() {
			said = null;
			say();
		},
		async look() {
			try {
				disk = diskIn(await statfs(directory));
			} catch (error) {
				log.warn('disk.unmeasured', { directory, error });
			}
			try {
				await lookAround();
			} catch (error) {
				log.warn('checkup.failed', { error });
			}
			say();
		},
	};
}

export function differsMuch(before: ServerState, now: ServerState): boolean {
	const scarce = Math.min(before.diskFreeMiB, now.diskFreeMiB) < SCARCE_DISK_MIB;
	const muchDisk = scarce ? MUCH_SCARCE_DISK_MIB : Math.max(MUCH_SCARCE_DISK_MIB, now.diskMiB * MUCH_SHARE);
	const apps = new Set([...Object.keys(before.appsMiB), ...Object.keys(now.appsMiB)]);
	const moved = (a: number | undefined, b: number | undefined) => a === undefined || b === undefined || Math.abs(a - b) > a * MUCH_SHARE;
	return (
		before.budgetMiB !== now.budgetMiB ||
		Math.abs(before.reservedMiB - now.reservedMiB) > now.budgetMiB * MUCH_SHARE ||
		before.keeps?.join() !== now.keeps?.join() ||
		before.diskMiB !== now.diskMiB ||
		Math.abs(before.diskFreeMiB - now.diskFreeMiB) >= muchDisk ||
		[...apps].some((app) => moved(before.appsMiB[app], now.appsMiB[app])) ||
		verdicts(before) !== verdicts(now)
	);
}

/** How well it is, without the numbers that change all the time. */
function verdicts({ findings = [] }: ServerState): string {
	return findings.map(({ check, state }) => `${check}:${state}`).join();
}

function diskIn({ blocks, bavail, bsize }: { blocks: number; bavail: number; bsize: number }): { diskMiB: number; diskFreeMiB: number } {
	return { diskMiB: Math.floor((blocks * bsize) / MIB), diskFreeMiB: Math.floor((bavail * bsize) / MIB) };
}

/** From the package that this file, or the bundle that it became, belongs to. */
function ownVersion(): string {
	const up = import.meta.filename.endsWith('.ts') ? ['..', '..'] : ['..'];
	return (JSON.parse(readFileSync(join(import.meta.dirname, ...up, 'package.json'), 'utf8')) as { version: string }).version;
}

/** As artifacts name theirs. */
function platformHere(): string {
	if (process.platform !== 'linux') return `${process.platform}-${process.arch}`;
	return `linux-${process.arch}-${isMusl() ? 'musl' : 'glibc'}`;
}

function isMusl(): boolean {
	try {
		return readFileSync('/usr/bin/ldd', 'latin1').includes('musl');
	} catch {
		return false;
	}
}

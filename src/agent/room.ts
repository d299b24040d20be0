import { totalmem } from 'node:os';
import { pssKiB } from '#process/memory.ts';
import type { InstanceProcess } from './instance-process.ts';

/**
 * Memory of this server as the instances share it. A start reserves what instances of its app were measured to take;
 * when that is not there, the idle pool gives way first, then frozen instances of former releases, then it is refused.
 */
export const FIRST_RESERVATION_MIB = 64;
/** The rest is for the system, the database and the programs of Jibe. */
const SHARE_OF_SERVER = 0.75;

export class NoRoom extends Error {
	readonly code = 'room';
}

export interface Room {
	/** Resolves with what gives the reservation back: once the process itself is counted, or will not be. @throws NoRoom */
	reserve(app: string, what?: string): Promise<() => void>;
	/** Measures one process of an app, the first that has served for a while; costs about a millisecond. */
	measureOnce(app: string, process: InstanceProcess): void;
	/** All of it, what of it is taken, and what one instance of each app here is reserved. */
	state(): { budgetMiB: number; reservedMiB: number; appsMiB: Record<string, number> };
}

export function createRoom(of: {
	server: string;
	budgetMiB?: number;
	/** All that are idle, frozen or running. */
	processes: () => { app: string }[];
	/** In this order until there is room. Each resolves with how many processes ended. */
	giveWay: (() => Promise<number>)[];
}): Room {
	const budget = of.budgetMiB ?? Math.floor((memoryOfServer() / 1024 / 1024) * SHARE_OF_SERVER);
	const measured = new Map<string, number>();
	const need = (app: string) => measured.get(app) ?? FIRST_RESERVATION_MIB;
	const reserved = new Set<{ app: string }>();
	const used = () => [...of.processes(), ...reserved].reduce((sum, { app }) => sum + need(app), 0);
	return {
		async reserve(app, what = 'one more instance') {
			for (const way of of.giveWay) {
				if (used() + need(app) <= budget) break;
				await way();
			}
			const missing = Math.ceil(used() + need(app) - budget);
			if (missing > 0)
				throw new NoRoom(
					`server ${of.server} lacks ${missing} MiB of memory for ${what} (budget ${budget} MiB); add a server, or stop something`,
				);
			const mine = { app };
			reserved.add(mine);
			return () => void reserved.delete(mine);
		},
		measureOnce(app, process) {
			if (measured.has(app)) return;
			const kib = pssKiB(process.record.identity.pid);
			if (kib !== null) measured.set(app, Math.max(1, Math.ceil(kib / 1024)));
		},
		state() {
			const apps = new Set(of.processes().map(({ app }) => app));
			const known = [...apps].filter((app) => measured.has(app));
			return { budgetMiB: budget, reservedMiB: used(), appsMiB: Object.fromEntries(known.map((app) => [app, need(app)])) };
		},
	};
}

/** In a container less than the machine has. */
function memoryOfServer(): number {
	const limit = process.constrainedMemory();
	return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}

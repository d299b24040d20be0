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
	reserve(app: string): Promise<void>;
	/** Measures a process of an app; costs about a millisecond. */
	measure(app: string, process: InstanceProcess): void;
}

export function createRoom(of: {
	server: string;
	budgetMiB?: number;
	/** How many processes there are: all that are idle, frozen or running. */
	processes: () => { app: string }[];
	/** In this order until there is room. Each resolves with how many processes ended. */
	giveWay: (() => Promise<number>)[];
}): Room {
	const budget = of.budgetMiB ?? Math.floor((totalmem() / 1024 / 1024) * SHARE_OF_SERVER);
	const measured = new Map<string, number>();
	const need = (app: string) => measured.get(app) ?? FIRST_RESERVATION_MIB;
	const used = () => of.processes().reduce((sum, { app }) => sum + need(app), 0);
	return {
		async reserve(app) {
			for (const way of of.giveWay) {
				if (used() + need(app) <= budget) return;
				await way();
			}
			const missing = Math.ceil(used() + need(app) - budget);
			if (missing > 0)
				throw new NoRoom(
					`server ${of.server} lacks ${missing} MiB of memory for one more instance (budget ${budget} MiB); add a server, or stop something`,
				);
		},
		measure(app, process) {
			const kib = pssKiB(process.record.identity.pid);
			if (kib !== null) measured.set(app, Math.max(1, Math.ceil(kib / 1024)));
		},
	};
}

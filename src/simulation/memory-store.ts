import type { Clock } from '#clock/clock.ts';
import type { DeploymentStore } from '#control/ports.ts';
import type { MemoryDatabase } from './memory-database.ts';

const ANSWER_MS = 3;

/** The database as the driver asks it: answers take a moment, and trouble of its own it has none. */
export function storeOver(database: MemoryDatabase, clock: Clock): DeploymentStore {
	const call = <T>(transaction: () => T): Promise<T> => {
		const { promise, resolve, reject } = Promise.withResolvers<T>();
		clock.after(ANSWER_MS, () => {
			try {
				resolve(transaction());
			} catch (error) {
				reject(error);
			}
		});
		return promise;
	};
	return {
		create: (input) => call(() => database.create(input, clock.now())),
		advance: (step) => call(() => database.advance(step)),
		take: (id, owner, from) => call(() => database.take(id, owner, from)),
		lanes: () => call(() => database.lanes()),
		open: () => call(() => database.open()),
		deployment: (id) => call(() => structuredClone(database.deployments.get(id)?.deployment ?? null)),
		history: (of) => call(() => database.history(of)),
		wants: (of) => call(() => database.wantsOf(of)),
		write: (of) => call(() => database.write(of)),
		releases: (app, numbers) => call(() => database.releasesOf(app, numbers)),
	};
}

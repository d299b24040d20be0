import type { Clock } from '#clock/clock.ts';
import type { DeploymentStore } from '#control/ports.ts';
import type { MemoryDatabase } from './memory-database.ts';

const ANSWER_MS = 3;

/** The database as the driver asks it. `call`: how a transaction is made and answered; without it that takes a moment, and there is no trouble. */
export function storeOver(database: MemoryDatabase, clock: Clock, call: Call = answering(clock)): DeploymentStore {
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

export type Call = <T>(transaction: () => T) => Promise<T>;

function answering(clock: Clock): Call {
	return <T>(transaction: () => T) => {
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
}

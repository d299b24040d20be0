import type { House } from './house.ts';
import { Refusal } from './ports.ts';

/**
 * After a region was found ahead of the database (a restored backup, a lost disk): the epoch goes up, and what the
 * database wants of the app is written again in it, newer than anything a region may have seen.
 */
export async function recover({ state, driver, hub, log }: House, app: string, by: string): Promise<{ epoch: number }> {
	const wants = await state.deployments.wants({ app });
	if (driver.readOnly(app) === null) throw new Refusal('nothing_to_recover', 409, `no region is ahead of the database for ${app}`);
	const epoch = await state.raiseEpoch(by);
	for (const [environment, theirs] of Map.groupBy(wants, (want) => want.environment)) {
		const writes = theirs.map(({ region, epoch: at, version, pointer, run }) => ({ region, expect: { epoch: at, version }, pointer, run }));
		await state.deployments.write({ app, environment, writes, removed: theirs.every((want) => want.removed) });
	}
	await driver.recovered(app);
	await hub.refreshAll();
	log.warn('app.recovered', { app, epoch, by });
	return { epoch };
}

import { hookRoutes } from '../api/hooks.ts';
import { repositoryRoutes } from '../api/repositories.ts';
import { gitRoutes } from '../git/serve.ts';
import type { House } from '../house.ts';
import type { Route } from '../route.ts';
import { look, type Pushes } from './look.ts';
import { Looks } from './looks.ts';
import { Statuses } from './statuses.ts';

/** Repositories that live elsewhere: what their forges tell is worked off, and they are told what comes of it. */
export interface Forges {
	routes: Route[];
	/** Takes up what waits. */
	begin(): void;
	close(): Promise<void>;
}

const CLEAN_EACH_MS = 3_600_000;

/** `publicUrl`: of control, as people and forges reach it. */
export function openForges(house: House, pushes: Pushes, publicUrl: string): Forges {
	const looks = new Looks(house, (claimed, stop) => look({ house, pushes, stop }, claimed));
	const statuses = new Statuses(house, publicUrl);
	const hurry = () => looks.hurry();
	const cleaning = house.clock.every(CLEAN_EACH_MS, () => {
		clean(house).catch((error: unknown) => house.log.warn('repositories.not_cleaned', { error }));
	});
	return {
		routes: [...hookRoutes(house, hurry), ...repositoryRoutes(house, hurry), ...gitRoutes(house, pushes)],
		begin: hurry,
		async close() {
			cleaning.cancel();
			await Promise.all([looks.close(), statuses.close()]);
		},
	};
}

async function clean({ git, clock, log }: House): Promise<void> {
	const names = await git.clean(clock.now());
	if (names.length > 0) log.info('repositories.cleaned', { names });
}

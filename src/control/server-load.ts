import type { ServerStatus } from '#wire/join.ts';
import type { Want } from '#wire/region.ts';
import type { Hub } from './hub.ts';

/** What a server has, and what is placed on it: as its agent said, and as control wants it. */
export function loadOf(hub: Pick<Hub, 'servers'>, wants: readonly Want[], server: string): Pick<ServerStatus, 'has' | 'placed'> {
	const state = hub.servers().find((view) => view.server === server)?.state ?? null;
	const placed = wants.flatMap(({ app, environment, run }) =>
		run
			.map((one) => ({ app, environment, release: one.release, instances: one.placed?.[server] ?? 0 }))
			.filter(({ instances }) => instances > 0),
	);
	if (!state) return { has: null, placed };
	const { version, platform, cpus, budgetMiB, reservedMiB, diskMiB, diskFreeMiB } = state;
	return { has: { version, platform, cpus, budgetMiB, reservedMiB, diskMiB, diskFreeMiB }, placed };
}

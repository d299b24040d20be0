import type { ServerRow } from '#state/state.ts';
import { instancesOn } from '#wire/region.ts';
import type { House } from './house.ts';
import { Refusal } from './ports.ts';

/** All that its agent tells of, whatever becomes of it; of a server that is lost, what is still placed there. */
export async function instancesOf({ hub, roster, state }: Pick<House, 'hub' | 'roster' | 'state'>, server: string): Promise<number> {
	const wants = await state.deployments.wants({});
	if (hub.servers().some((view) => view.server === server && view.connected)) {
		return wants.flatMap((want) => hub.instancesByServer(want)).filter((one) => one.server === server).length;
	}
	const there = wants.filter(({ region }) => region === roster.named(server)?.region).flatMap(({ run }) => run);
	return there.reduce((sum, run) => sum + instancesOn(server, run), 0);
}

/** What runs there can only go to another server of its region. @throws Refusal (no_other_server) */
export async function refuseToStrand(house: House, server: ServerRow): Promise<void> {
	const connected = new Set(house.hub.servers().flatMap((view) => (view.connected ? [view.server] : [])));
	const others = house.roster.servers().filter(({ name, region, roles, draining, conflict }) => {
		const may = region === server.region && roles.includes('agent') && !draining && conflict === null;
		return may && name !== server.name && connected.has(name);
	});
	if (others.length > 0 || (await instancesOf(house, server.name)) === 0) return;
	const message = `${server.name} is the only server of ${server.region} that can run instances: there is nowhere to move them to`;
	const hint = `add one with "jibe server add --region ${server.region}"; "jibe server remove ${server.name}" takes the region away`;
	throw new Refusal('no_other_server', 409, message, hint);
}

/**
 * Resolves once a server that is draining has no instance left. Placement moves them away, because the server is marked;
 * its agent stops each one that no want places there any more, and says so. `told` hears how many are left at each change.
 */
export async function drained(house: House, server: string, signal: AbortSignal, told: (left: number) => void): Promise<void> {
	let last = -1;
	for (;;) {
		const changed = nextChange(house, signal);
		const left = await instancesOf(house, server);
		if (left !== last) told((last = left));
		if (left === 0 || signal.aborted) return changed.cancel();
		await changed.promise;
	}
}

/** Something was said of instances, or of who is there. */
function nextChange({ hub, roster }: House, signal: AbortSignal): { promise: Promise<void>; cancel(): void } {
	const { promise, resolve } = Promise.withResolvers<void>();
	const stops = [
		hub.subscribe((event) => {
			if (event.type === 'instances' || event.type === 'presence' || event.type === 'lost') resolve();
		}),
		roster.subscribe(resolve),
	];
	const cancel = () => {
		for (const stop of stops) stop();
		resolve();
	};
	signal.addEventListener('abort', () => resolve(), { once: true });
	void promise.then(cancel);
	return { promise, cancel };
}

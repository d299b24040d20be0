import type { ServerRow } from '#state/joined-servers.ts';
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
 * What keeps a server from being empty: what is placed there, and what it still runs. One that is not there runs nothing
 * that could be waited for: what was placed on it is placed elsewhere once it is lost.
 */
export async function leftOn({ hub, state, driver }: Pick<House, 'hub' | 'state' | 'driver'>, server: string): Promise<Left> {
	const there = hub.servers().some((view) => view.server === server && view.connected);
	let left = 0;
	const why = new Set<string>();
	for (const want of await state.deployments.wants({})) {
		const placed = want.run.reduce((sum, run) => sum + (run.placed?.[server] ?? 0), 0);
		const running = there ? hub.instancesByServer(want).filter((one) => one.server === server).length : 0;
		left += Math.max(placed, running);
		const stranded = placed > 0 ? driver.stranded(want) : null;
		if (stranded !== null) why.add(stranded);
	}
	return { left, why: why.size === 0 ? null : [...why].join('; ') };
}

export interface Left {
	left: number;
	/** What keeps it there, in words; null: it is on its way. */
	why: string | null;
}

/**
 * Resolves once a server that is draining has no instance left. Placement moves them away, because the server is marked;
 * its agent stops each one that no want places there any more, and says so. `told` hears how many are left at each change.
 */
export async function drained(house: House, server: string, signal: AbortSignal, told: (left: Left) => void): Promise<void> {
	let last: Left | null = null;
	for (;;) {
		const changed = nextChange(house, signal);
		const now = await leftOn(house, server);
		if (now.left !== last?.left || now.why !== last.why) told((last = now));
		if (now.left === 0 || signal.aborted) return changed.cancel();
		await changed.promise;
	}
}

/** Control hears of much that changes; what it does itself later than it heard is found by looking again. */
const LOOK_AGAIN_MS = 1_000;

/** Something was said of instances, or of who is there. */
function nextChange({ hub, roster, clock }: House, signal: AbortSignal): { promise: Promise<void>; cancel(): void } {
	const { promise, resolve } = Promise.withResolvers<void>();
	const timer = clock.after(LOOK_AGAIN_MS, resolve, { idle: true });
	const stops = [
		hub.subscribe((event) => {
			if (event.type === 'instances' || event.type === 'presence' || event.type === 'lost') resolve();
		}),
		roster.subscribe(resolve),
		() => timer.cancel(),
	];
	const cancel = () => {
		for (const stop of stops) stop();
		resolve();
	};
	signal.addEventListener('abort', () => resolve(), { once: true });
	void promise.then(cancel);
	return { promise, cancel };
}

import type { House } from './house.ts';

/** All that its agent tells of, whatever becomes of it. */
export async function instancesOf({ hub, state }: Pick<House, 'hub' | 'state'>, server: string): Promise<number> {
	const wants = await state.deployments.wants({});
	return wants.flatMap((want) => hub.instancesByServer(want)).filter((one) => one.server === server).length;
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

import type { House } from './house.ts';

/** What control records and counts while it runs: regions lost and back, deployments, requests, the database. */

const DATABASE_LOOK_MS = 5_000;

export function watchHouse({ hub, driver, state, metrics, log, clock }: House): { close(): void } {
	const record = (type: string, region: string) => {
		const event = { at: clock.now(), type, app: null, environment: null, deployment: null, data: { region } };
		state.events.add([event]).catch((error: unknown) => log.warn('event.unrecorded', { type, region, error }));
	};
	const count = () => {
		for (const { name, connected, edges } of hub.regions()) {
			metrics.set('jibe_region_connected', { region: name }, connected ? 1 : 0);
			metrics.set('jibe_region_edges', { region: name }, edges.length);
		}
	};
	const stops = [
		hub.subscribe((event) => {
			if (event.type === 'stats') metrics.countStats(event.stats);
			if (event.type === 'lost' || event.type === 'back') {
				log.warn(`region.${event.type}`, { region: event.region });
				record(`region.${event.type}`, event.region);
			}
			if (event.type === 'lost' || event.type === 'back' || event.type === 'presence') count();
		}),
		driver.watch((deployment, { type }) => {
			if (type !== 'deployment.state') return;
			metrics.add('jibe_transitions_total', { kind: deployment.kind, state: deployment.state });
			if (deployment.endedAt !== null) metrics.add('jibe_deployments_total', { kind: deployment.kind, state: deployment.state });
		}),
	];
	const look = () => {
		state.reachable().then(
			(up) => metrics.set('jibe_database_up', {}, up ? 1 : 0),
			(error: unknown) => log.error('database.look_failed', { error }),
		);
	};
	count();
	look();
	const looking = clock.every(DATABASE_LOOK_MS, look);
	return {
		close() {
			looking.cancel();
			for (const stop of stops) stop();
		},
	};
}

import { isFinal } from '#pipeline/states.ts';
import type { Deployment } from '#wire/api.ts';
import type { StatusAnswer } from '#wire/builds.ts';
import { compareVersions, type Want } from '#wire/region.ts';
import type { z } from 'zod';
import type { appRegion, regionStatus } from '#wire/api.ts';
import type { Caller } from './access.ts';
import { buildsOf } from './builds/views.ts';
import { appAddress, edgeServer } from './app-edge.ts';
import type { House } from './house.ts';
import { Refusal } from './ports.ts';
import { refuseUnknown } from './unknown-app.ts';

/** What serves where, put together from what is wanted (database) and what the regions say (hub). */

type AppRegion = z.infer<typeof appRegion>;
type RegionStatus = z.infer<typeof regionStatus>;

/** @throws Refusal 404 app_unknown */
export async function appStatus(house: House, app: string, environment: string, caller: Pick<Caller, 'token'>): Promise<StatusAnswer> {
	const { state, driver } = house;
	const [wants, [deployment]] = await Promise.all([
		state.deployments.wants({ app, environment }),
		state.deployments.history({ app, environment, limit: 1 }),
	]);
	const mine = wants.filter((want) => !want.removed);
	const builds = await buildsOf(house, { app, environment }, deployment);
	if (mine.length === 0 && !deployment && !builds.build) {
		await refuseUnknown(house, caller, app, environment);
		throw new Refusal('app_unknown', 404, `nothing of ${app} is left in ${environment}`, 'deploy it again: `jibe deploy`');
	}
	const rollbackTo = mine.length === 0 ? null : await driver.rollbackTarget(app, environment);
	const notices = await driver.notices(app, environment);
	const serving = servingOf(house, mine);
	const release = serving === null ? undefined : (await state.deployments.releases(app, [serving]))[0];
	return {
		app,
		environment,
		...appAddress(house.roster, app, environment, release?.domains),
		serving,
		commit: release?.commit ?? null,
		deployment: deployment ?? null,
		watching: (deployment?.watchUntil ?? 0) > house.clock.now(),
		rollbackTo,
		readOnly: driver.readOnly(app),
		...(notices.length > 0 ? { notices } : {}),
		regions: inOrder(house, mine).map((want) => regionOf(house, want, deployment)),
		...builds,
	};
}

function inOrder({ regions }: House, wants: readonly Want[]): Want[] {
	const position = new Map(regions.map(({ name }, index) => [name, index]));
	const of = ({ region }: Want) => position.get(region) ?? regions.length;
	return wants.toSorted((a, b) => of(a) - of(b));
}

/** What the first region's pointer names: the one that people mean by "what serves". */
export function servingOf({ regions }: House, wants: readonly Want[]): number | null {
	const first = regions.map(({ name }) => wants.find((want) => want.region === name)).find((want) => want !== undefined);
	return first?.pointer.primary ?? null;
}

function regionOf({ hub, driver }: House, want: Want, deployment: Deployment | undefined): AppRegion {
	const { region, epoch, version, pointer } = want;
	const applied = hub.applied(want);
	const view = hub.regions().find(({ name }) => name === region);
	const obeys = applied !== null && compareVersions(applied, want) >= 0;
	const moving = deployment !== undefined && !isFinal(deployment.state);
	const instances = hub.instancesByServer(want);
	const state =
		pointer.primary === null ? (moving ? 'moving' : 'empty') : !view?.connected ? 'lost' : obeys ? 'live' : moving ? 'moving' : 'pending';
	return {
		region,
		state,
		reason:
			pointer.hold ??
			(state === 'lost' ? 'not_connected' : state === 'pending' ? (view?.edges.length === 0 ? 'no_edge' : 'not_applied') : null),
		wanted: { epoch, version, pointer },
		applied,
		instances: instances.map(({ server, instance }) => {
			const { release, healthy, pid, restarts, reason } = instance;
			// Its agent tells it a moment after the edges send it requests.
			const named = release === pointer.primary || release === pointer.candidate?.release;
			const doing = instance.state === 'prepared' && named && obeys ? 'serving' : instance.state;
			return { server, release, state: doing, healthy, pid, restarts, reason };
		}),
		stranded: driver.stranded(want),
		warmRelease: instances.filter(({ instance }) => instance.state === 'warm').map(({ instance }) => instance.release).sort((a, b) => b - a)[0] ?? null, // prettier-ignore
	};
}

export function regionStatuses({ hub, regions, roster }: House): RegionStatus[] {
	const views = new Map(hub.regions().map((view) => [view.name, view]));
	const instances = new Map<string, number>();
	for (const want of hub.wanted()) instances.set(want.region, (instances.get(want.region) ?? 0) + hub.instancesByServer(want).length);
	return regions.map(({ name, edgePort }) => {
		const view = views.get(name);
		return {
			name,
			state: view?.connected ? 'connected' : 'lost',
			lastSeenAt: view?.lastSeenAt ?? null,
			servers: view?.agents.length ?? 0,
			edges: view?.edges.length ?? 0,
			instances: instances.get(name) ?? 0,
			edgeUrl: edgeUrl(roster, name, edgePort),
		};
	});
}

/** Of a region of joined servers: the first that has an edge. */
function edgeUrl(roster: House['roster'], region: string, localPort: number): string {
	const server = edgeServer(roster, region);
	if (!server) return `http://127.0.0.1:${localPort}`;
	return `http://${server.host.includes(':') ? `[${server.host}]` : server.host}:${server.port}`;
}

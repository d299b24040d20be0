import { PRODUCTION } from '#wire/names.ts';
import type { Roster } from './roster.ts';

/** Where apps are reached: in the first region, which is where people look. */

type Regions = Pick<Roster, 'regions' | 'isLocal' | 'servers'>;

/**
 * On this machine `http://notes.localhost:8080`, `http://staging--notes.localhost:8080`. Elsewhere that name leads nowhere: then
 * one of the app's domains, or the address of a server with the name that its edges know the app by in `host`.
 */
export function appAddress(
	roster: Regions,
	app: string,
	environment: string,
	domains: readonly string[] = [],
): { url: string; host: string | null } {
	const host = nameOf(app, environment);
	const first = roster.regions()[0];
	const server = first && edgeServer(roster, first.name);
	if (!server) return { url: `http://${host}:${first?.edgePort ?? HTTP_PORT}`, host: null };
	const port = server.port === HTTP_PORT ? '' : `:${server.port}`;
	const [domain] = domains;
	if (domain !== undefined) return { url: `http://${domain}${port}`, host: null };
	return { url: `http://${server.host.includes(':') ? `[${server.host}]` : server.host}${port}`, host };
}

/** Where an app is asked as its visitors ask it, from a server of the region; null: no edge of the region is known. */
export function edgeOf(
	roster: Regions,
	region: string,
	app: string,
	environment: string,
): { host: string; port: number; name: string } | null {
	const name = nameOf(app, environment);
	const local = roster.isLocal(region) ? roster.regions().find((one) => one.name === region) : undefined;
	if (local) return { host: '127.0.0.1', port: local.edgePort, name };
	const server = edgeServer(roster, region);
	return server && { ...server, name };
}

/** Edges know an app by the first label of a host. */
function nameOf(app: string, environment: string): string {
	return `${environment === PRODUCTION ? app : `${environment}--${app}`}.localhost`;
}

/** Of a region of joined servers: the first that has an edge. */
export function edgeServer(roster: Regions, region: string): { host: string; port: number } | null {
	if (roster.isLocal(region)) return null;
	const server = roster.servers().find((one) => one.region === region && one.edgePort !== null && one.roles.includes('edge'));
	return server?.edgePort ? { host: server.host, port: server.edgePort } : null;
}

const HTTP_PORT = 80;

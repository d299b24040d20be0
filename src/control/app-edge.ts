import type { Roster } from './roster.ts';

/** Where an app is asked as its visitors ask it, from a server of the region; null: no edge of the region is known. */
export function edgeOf(roster: Roster, region: string, url: string): { host: string; port: number; name: string } | null {
	const name = new URL(url).hostname;
	const local = roster.isLocal(region) ? roster.regions().find((one) => one.name === region) : undefined;
	if (local) return { host: '127.0.0.1', port: local.edgePort, name };
	const server = roster.servers().find((one) => one.region === region && one.edgePort !== null && one.roles.includes('edge'));
	return server?.edgePort ? { host: server.host, port: server.edgePort, name } : null;
}

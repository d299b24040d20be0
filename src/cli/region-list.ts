import { systemClock } from '#clock/clock.ts';
import { EXIT, type Exit } from './failure.ts';
import { ago, table } from './output.ts';
import { ask, findServer } from './server.ts';
import type { Invocation, Verb } from './verbs.ts';

interface Region {
	name: string;
	state: string;
	lastSeenAt: number | null;
	servers: number;
	edges: number;
	instances?: number;
	edgeUrl: string;
}

export const verb: Verb = {
	syntax: { options: {}, positionals: [], optional: 0 },
	async run({ out, data }: Invocation): Promise<Exit> {
		const { regions } = (await ask(findServer(data), { path: '/api/v1/regions' })) as { regions: Region[] };
		const rows = regions.map((region) => [
			region.name,
			region.state,
			String(region.servers),
			String(region.edges),
			String(region.instances ?? '?'),
			region.edgeUrl,
			region.state === 'connected' || region.lastSeenAt === null ? '' : `last seen ${ago(systemClock.now() - region.lastSeenAt)}`,
		]);
		out.result({ regions }, table(['region', 'state', 'servers', 'edges', 'instances', 'url', ''], rows));
		return EXIT.done;
	},
};

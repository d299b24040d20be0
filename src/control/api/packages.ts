import { z } from 'zod';
import { sha256 } from '#digest/digest.ts';
import { CLOCK_OFF_MS } from '#wire/control-identity.ts';
import { serverName } from '#wire/names.ts';
import {
	MAX_PACKAGE_BYTES,
	packageAnswer,
	packageRequest,
	packagesAnswer,
	packageWanted,
	type PackageRequest,
	type ServerPackageStatus,
} from '#wire/package.ts';
import type { House } from '../house.ts';
import { provenPackage } from '../papers.ts';
import { Refusal } from '../ports.ts';
import { Raw, route, type Route } from '../route.ts';

/** Packages of Jibe on their way to joined servers. */
export function packageRoutes(house: House): Route[] {
	const { state, roster } = house;
	return [
		route({
			method: 'GET',
			path: '/api/v1/packages',
			summary: 'Which version every joined server runs, and which it is to run.',
			role: 'viewer',
			answer: packagesAnswer,
			handle: async () => ({ servers: await statuses(house) }),
		}),
		route({
			method: 'POST',
			path: '/api/v1/packages',
			summary: 'A package of Jibe that servers can be told to go over to.',
			role: 'admin',
			query: z.object({ version: z.string().regex(/^\d+\.\d+\.\d+[-\w.]*$/) }),
			uploadBytes: MAX_PACKAGE_BYTES,
			answer: packageAnswer,
			handle: async ({ upload, query }) => ({ digest: await state.packages.add(query.version, upload) }),
		}),
		route({
			method: 'PUT',
			path: '/api/v1/servers/:server/package',
			summary: 'A server is to go over to a package that was sent.',
			role: 'admin',
			params: z.object({ server: serverName }),
			body: packageWanted,
			answer: null,
			async handle({ params, body, caller }) {
				await state.packages.want(params.server, body.digest, caller.by);
				await roster.refresh();
			},
		}),
		route({
			method: 'POST',
			path: '/api/v1/servers/package',
			summary: 'The bytes of the package that a server was told to go over to.',
			role: 'public',
			body: packageRequest,
			answer: 'application/gzip',
			handle: ({ body }) => packageFor(house, body),
		}),
	];
}

/** Only to a server that is one, and that was told to. */
async function packageFor({ state, roster, installation, clock }: House, body: PackageRequest): Promise<Raw> {
	const spki = provenPackage(installation.id, body);
	const row = roster.named(body.server);
	if (!row || row.spki !== spki || row.conflict !== null) {
		throw new Refusal('server_unknown', 403, `${body.server} is no server of this control`, '"jibe server list" shows them');
	}
	if (Math.abs(body.at - clock.now()) > CLOCK_OFF_MS) throw new Refusal('clock_off', 409, "this server's clock is off", 'set it by NTP');
	const wanted = (await state.packages.servers()).find(({ server }) => server === body.server)?.wanted;
	if (wanted !== body.digest) throw new Refusal('not_wanted', 409, `${body.server} is not to run that package`, null);
	const bytes = await state.packages.bytes(body.digest);
	if (!bytes || sha256(bytes) !== body.digest) {
		throw new Refusal('package_gone', 404, 'control does not have that package any more', '"jibe upgrade" sends it again');
	}
	return new Raw(new Uint8Array(bytes), 'application/gzip');
}

async function statuses({ state, roster, hub }: House): Promise<ServerPackageStatus[]> {
	const said = new Map((await state.packages.servers()).map((one) => [one.server, one]));
	return roster.servers().map(({ name, region, roles, conflict }) => {
		const view = hub.regions().find((one) => one.name === region);
		const edges = view?.edges.filter((edge) => edge.startsWith(`${name}/`)).length ?? 0;
		const there = {
			depot: view?.connected === true,
			agent: view?.agents.includes(name) === true,
			edge: edges >= EDGES_PER_SERVER,
			// Started when there is something to build.
			builder: true,
		};
		const of = said.get(name);
		return {
			name,
			region,
			whole: conflict === null && roles.every((role) => there[role]),
			wanted: of?.wanted ?? null,
			runs: of?.runs ?? null,
			version: of?.version ?? null,
			problem: of?.problem ?? null,
			saidAt: of?.saidAt ?? null,
		};
	});
}

const EDGES_PER_SERVER = 2;

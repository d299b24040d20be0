import { z } from 'zod';
import { isoTime } from '#clock/clock.ts';
import type { ServerRow } from '#state/joined-servers.ts';
import { fingerprintOf } from '#wire/certificate.ts';
import { CLOCK_OFF_MS } from '#wire/control-identity.ts';
import {
	checkInAnswer,
	checkInRequest,
	controlAnswer,
	drainLine,
	formatJoinString,
	joinRequest,
	joinTokenAnswer,
	joinTokenRequest,
	serversAnswer,
	type DrainLine,
	type ServerStatus,
} from '#wire/join.ts';
import { serverName } from '#wire/names.ts';
import type { Role } from '#wire/region.ts';
import { sees } from '../access.ts';
import { drained, instancesOf, refuseToStrand } from '../drain.ts';
import type { House } from '../house.ts';
import { RENEWABLE_FOR_MS, expiryFrom, papersFor, provenCheckIn, provenFormer, provenKey } from '../papers.ts';
import { Refusal } from '../ports.ts';
import { ANSWERED, route, type Route } from '../route.ts';
import { loadOf } from '../server-load.ts';

const ALL_ROLES: Role[] = ['depot', 'agent', 'edge'];
/** Names that control's own machine goes by. */
const RESERVED = /^(local|control)(-|$)/;

/** Servers: who may join, who joined, who is to go. */
export function serverRoutes(house: House): Route[] {
	return [...peopleRoutes(house), ...removalRoutes(house), ...machineRoutes(house)];
}

const named = z.object({ server: serverName });

function peopleRoutes(house: House): Route[] {
	const { state, roster, installation } = house;
	return [
		route({
			method: 'GET',
			path: '/api/v1/servers',
			summary: 'The servers that joined, and how they are.',
			role: 'viewer',
			answer: serversAnswer,
			async handle({ caller }) {
				const [rows, all] = await Promise.all([state.servers.list(), state.deployments.wants({})]);
				// A token for some apps is not told of the others.
				const wants = all.filter(({ app }) => sees(caller.token, app));
				const statuses = rows.map(async (row) => ({ ...(await statusOf(house, row)), ...loadOf(house.hub, wants, row.name) }));
				return { servers: await Promise.all(statuses) };
			},
		}),
		route({
			method: 'GET',
			path: '/api/v1/control',
			summary: 'Where other machines reach control, and how they recognise it.',
			role: 'viewer',
			answer: controlAnswer,
			handle: () => {
				const fingerprint = fingerprintOf(installation.ca.certificate);
				return Promise.resolve({ installation: installation.id, addresses: roster.addresses(), fingerprint });
			},
		}),
		route({
			method: 'POST',
			path: '/api/v1/servers/tokens',
			summary: 'A join string: lets one machine in, within 15 min.',
			role: 'admin',
			body: joinTokenRequest,
			answer: joinTokenAnswer,
			async handle({ body, caller }) {
				const { region, labels, name } = body;
				const addresses = roster.addresses();
				if (addresses.length === 0) {
					const hint = 'start it with "jibe up --listen 0.0.0.0:7443" (or another address and port)';
					throw new Refusal('not_listening', 409, 'control listens on loopback only: no other machine can reach it', hint);
				}
				if (roster.isLocal(region)) {
					const hint = 'name another region; "jibe up --regions none" leaves control without local ones';
					throw new Refusal('region_is_local', 409, `the region ${region} is on control's own machine`, hint);
				}
				if (name !== null && RESERVED.test(name)) throw reserved(name);
				const former = name === null ? null : roster.named(name);
				if (former && former.region !== region) {
					throw new Refusal(
						'join_other_region',
						409,
						`the server ${name} is one of ${former.region}`,
						`"jibe server remove ${name}" first`,
					);
				}
				const roles = body.roles ?? former?.roles ?? defaultRoles(house, region);
				const { token, expiresAt } = await state.servers.createToken({ region, roles, labels, name, by: caller.by });
				const join = formatJoinString({ addresses, fingerprint: fingerprintOf(installation.ca.certificate), token });
				return { join, expiresAt, region, roles };
			},
		}),
	];
}

/** The first server of a region carries everything; the others run instances. */
function defaultRoles({ roster }: House, region: string): Role[] {
	return roster.servers().some((row) => row.region === region && row.roles.includes('depot')) ? ['agent'] : ALL_ROLES;
}

function removalRoutes(house: House): Route[] {
	const { state, roster, clock } = house;
	return [
		route({
			method: 'POST',
			path: '/api/v1/servers/:server/drain',
			summary: 'Moves what runs there away, and tells how much is left until nothing is. With `cancel=1`: it may be placed there again.',
			role: 'admin',
			params: named,
			query: z.object({ cancel: z.enum(['0', '1']).default('0') }),
			answer: drainLine,
			lines: true,
			async handle({ params: { server }, query, caller, response }) {
				const row = roster.named(server);
				if (row && query.cancel === '0') await refuseToStrand(house, row);
				await state.servers.setDraining(server, query.cancel === '0', caller.by);
				await roster.refresh();
				response.writeHead(200, {
					'content-type': 'application/x-ndjson',
					'cache-control': 'no-store',
					'x-content-type-options': 'nosniff',
				});
				const write = (line: DrainLine) => void response.write(`${JSON.stringify(line)}\n`);
				const gone = new AbortController();
				response.on('close', () => gone.abort());
				if (query.cancel === '0') await drained(house, server, gone.signal, (left) => write(left));
				write({ drained: true });
				response.end();
				return ANSWERED;
			},
		}),
		route({
			method: 'DELETE',
			path: '/api/v1/servers/:server',
			summary: 'Revokes a server, at once: control and its region refuse it from now on.',
			role: 'admin',
			params: named,
			answer: null,
			async handle({ params: { server }, caller }) {
				if (!(await state.servers.remove(server, caller.by))) {
					throw new Refusal('server_unknown', 404, `there is no server ${server}`, '"jibe server list" shows them');
				}
				await roster.refresh();
				house.log.info('server.removed', { server, by: caller.by, at: clock.now() });
			},
		}),
	];
}

function machineRoutes(house: House): Route[] {
	const { state, roster, installation, clock } = house;
	return [
		route({
			method: 'POST',
			path: '/api/v1/servers/join',
			summary: 'A machine becomes a server, by the token of a join string.',
			role: 'public',
			body: joinRequest,
			answer: checkInAnswer,
			async handle({ body, request }) {
				const now = clock.now();
				refuseClock(body.at, now);
				if (RESERVED.test(body.name)) throw reserved(body.name);
				const spki = provenKey(body);
				const row = await state.servers.join({
					...body,
					spki,
					formerSpki: provenFormer(body),
					from: request.socket.remoteAddress ?? '',
					certificateExpires: expiryFrom(now),
				});
				await roster.refresh();
				house.log.info('server.joined', { server: row.name, region: row.region, from: row.seenFrom });
				return { papers: papersFor(house, row, body.publicKey), servers: roster.message([row.region]), at: clock.now() };
			},
		}),
		route({
			method: 'POST',
			path: '/api/v1/servers/check-in',
			summary: 'A server shows that it is the only one with its identity, and gets new papers when it asks.',
			role: 'public',
			body: checkInRequest,
			answer: checkInAnswer,
			async handle({ body, request }) {
				const now = clock.now();
				const { server: name, ticket, next, renew } = body;
				const spki = provenCheckIn(installation.id, body);
				const held = roster.named(name);
				if (renew && held && now - held.certificateExpires > RENEWABLE_FOR_MS) throw tooLate(held);
				const certificateExpires = renew ? expiryFrom(now) : null;
				const from = request.socket.remoteAddress ?? '';
				const row = await state.servers.checkIn({ name, spki, ticket, next, from, certificateExpires });
				const { runs } = body;
				if (runs) await state.packages.says(name, { version: runs.version, runs: runs.package, problem: runs.problem });
				house.clocks.set(name, body.at - now);
				return { papers: renew ? papersFor(house, row, body.publicKey) : null, servers: roster.message([row.region]), at: clock.now() };
			},
		}),
	];
}

function tooLate({ name, certificateExpires }: ServerRow): Refusal {
	const message = `the certificate of ${name} expired on ${isoTime(certificateExpires)}, more than 30 days ago`;
	return new Refusal('certificate_too_old', 403, message, `join again: "jibe server add --name ${name}" makes a join string`);
}

function reserved(name: string): Refusal {
	return new Refusal('name_reserved', 422, `"${name}" can't be a server's name: control's own machine goes by it`, 'choose another --name');
}

/** Certificates have times: with a clock that is wrong nothing would work, and nothing would say why. */
function refuseClock(theirs: number, ours: number): void {
	const off = theirs - ours;
	if (Math.abs(off) <= CLOCK_OFF_MS) return;
	const message = `this server's clock is ${clockWords(off)} control's`;
	throw new Refusal('clock_off', 409, message, 'set it (timedatectl set-ntp true), then join again with the same join string');
}

function clockWords(offMs: number): string {
	return `${Math.round(Math.abs(offMs) / 60_000)} min ${offMs > 0 ? 'ahead of' : 'behind'}`;
}

async function statusOf(house: House, row: ServerRow): Promise<Omit<ServerStatus, 'has' | 'placed'>> {
	const { name, conflict, draining, spki: _, ...rest } = row;
	const clockOff = house.clocks.get(name) ?? 0;
	const reason = conflict ?? (Math.abs(clockOff) > CLOCK_OFF_MS ? `its clock is ${clockWords(clockOff)} control's` : null);
	const view = house.hub.regions().find((region) => region.name === row.region);
	const there = view?.connected === true && (view.agents.includes(name) || view.edges.some((edge) => edge.startsWith(`${name}/`)));
	const state = conflict !== null ? 'conflict' : draining ? 'draining' : there ? 'connected' : 'lost';
	return { name, ...rest, state, reason, instances: await instancesOf(house, name) };
}

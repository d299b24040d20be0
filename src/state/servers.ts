import { sql, type Compilable } from 'kysely';
import { isoTime, type Clock } from '#clock/clock.ts';
import { randomSecret, sha256 } from '#digest/digest.ts';
import type { Role } from '#wire/region.ts';
import { auditEntry } from './audit.ts';
import type { Database } from './database.ts';
import { packDigests } from './digests.ts';
import type { EventFeed } from './events.ts';
import type { CheckIn, JoiningServer, NewJoinToken, ServerList, ServerRow, Servers } from './joined-servers.ts';
import { StateError } from './state.ts';
import type { Tables } from './tables.ts';

/** Long enough to paste a line on another machine. */
const JOIN_TOKEN_LIFE_MS = 15 * 60_000;
/** Used and late tokens are remembered so that whoever brings one is told which it is. */
const JOIN_TOKEN_KEPT_MS = 30 * 86_400_000;
/** A replica of control that has not said so for this long is not where it was. */
const ADDRESS_KEPT_MS = 24 * 3_600_000;
/** A restored database counts from an older version on, in a higher epoch. */
const VERSIONS_AN_EPOCH = 1_000_000_000;

type Rows = <R>(query: Compilable<R>) => Promise<R[]>;
type Row = Tables['jibe.server'];

export class ServerTable implements Servers {
	private readonly db: Database;
	private readonly clock: Clock;
	private readonly events: EventFeed;

	constructor(db: Database, clock: Clock, events: EventFeed) {
		this.db = db;
		this.clock = clock;
		this.events = events;
	}

	async list(): Promise<ServerRow[]> {
		const rows = await this.db.rows(this.db.build.selectFrom('jibe.server').selectAll().where('removed_at', 'is', null).orderBy('name'));
		return rows.map(serverOf);
	}

	all(): Promise<ServerList> {
		const since = this.clock.now() - ADDRESS_KEPT_MS;
		const { build } = this.db;
		return this.db.transaction(async (rows) => {
			// The version first: a list that is newer than its version is sent again, one that is older would not be.
			const [installation] = await rows(build.selectFrom('jibe.installation').select(['servers_version', 'epoch']));
			const servers = await rows(build.selectFrom('jibe.server').selectAll().where('removed_at', 'is', null).orderBy('name'));
			const addresses = await rows(
				build.selectFrom('jibe.control_address').selectAll().where('seen_at', '>', since).orderBy('seen_at', 'desc').orderBy('address'),
			);
			const wanted = await rows(build.selectFrom('jibe.server_package').select(['server', 'wanted']));
			return {
				packages: Object.fromEntries(wanted.flatMap(({ server, wanted: digest }) => (digest === null ? [] : [[server, digest]]))),
				version: (installation?.epoch ?? 0) * VERSIONS_AN_EPOCH + (installation?.servers_version ?? 0),
				servers: servers.map(serverOf),
				addresses: addresses.map(({ address }) => address),
			};
		});
	}

	async createToken({ by, ...of }: NewJoinToken): Promise<{ token: string; expiresAt: number }> {
		const at = this.clock.now();
		const token = randomSecret();
		const expiresAt = at + JOIN_TOKEN_LIFE_MS;
		const { build } = this.db;
		await this.db.transaction(async (rows) => {
			await rows(build.deleteFrom('jibe.join_token').where('expires_at', '<', at - JOIN_TOKEN_KEPT_MS));
			const row = { hash: hashOf(token), ...of, created_at: at, expires_at: expiresAt, used_at: null, used_by: null, used_spki: null };
			await rows(build.insertInto('jibe.join_token').values(row));
			await this.note(rows, { at, by, action: 'server.invited', detail: { ...of } });
		});
		return { token, expiresAt };
	}

	async join(of: JoiningServer): Promise<ServerRow> {
		const at = this.clock.now();
		const { build } = this.db;
		const row = await this.db.transaction(async (rows) => {
			const [token] = await rows(build.selectFrom('jibe.join_token').selectAll().where('hash', '=', hashOf(of.token)).forUpdate());
			const admitted = admit(token, of, at);
			const name = admitted.token.name ?? of.name;
			const [former] = await rows(build.selectFrom('jibe.server').selectAll().where('name', '=', name).forUpdate());
			if (admitted.again && former?.spki === of.spki) return former;
			refuseTaken(former, admitted.token.name, of);
			const joined: Row = {
				name,
				region: admitted.token.region,
				roles: admitted.roles,
				labels: admitted.token.labels,
				host: of.host,
				depot_port: admitted.roles.includes('depot') ? of.depotPort : null,
				agent_port: admitted.roles.includes('agent') ? of.agentPort : null,
				edge_port: admitted.roles.includes('edge') ? of.edgePort : null,
				spki: of.spki,
				joined_at: at,
				certificate_expires: of.certificateExpires,
				draining: false,
				conflict: null,
				ticket: of.ticket,
				ticket_epoch: await this.epoch(rows),
				seen_at: at,
				seen_from: of.from,
				removed_at: null,
			};
			await rows(
				build
					.insertInto('jibe.server')
					.values(joined)
					.onConflict((conflict) => conflict.column('name').doUpdateSet(joined)),
			);
			const used = { used_at: at, used_by: name, used_spki: of.spki };
			await rows(build.updateTable('jibe.join_token').set(used).where('hash', '=', hashOf(of.token)));
			await this.openRegion(rows, joined.region, of.edgePort);
			const detail = { server: name, region: joined.region, roles: joined.roles, from: of.from, spki: of.spki };
			await this.changed(rows, { at, by: `server:${name}`, action: 'server.joined', detail });
			return joined;
		});
		this.events.hint();
		return serverOf(row);
	}

	async checkIn(of: CheckIn): Promise<ServerRow> {
		const at = this.clock.now();
		const { build } = this.db;
		const row = await this.db.transaction(async (rows) => {
			const [held] = await rows(build.selectFrom('jibe.server').selectAll().where('name', '=', of.name).forUpdate());
			const known = refuseUnknown(held, of);
			const expected = [known.ticket, ...(known.ticket === of.next ? [of.ticket] : [])];
			// After a restore the tickets here are older than those that servers hold: the epoch was raised then.
			const restored = known.ticket_epoch < (await this.epoch(rows));
			if (known.conflict === null && !restored && !expected.includes(of.ticket)) {
				const conflict = `two machines have its identity: one at ${known.seen_from}, one at ${of.from}`;
				await rows(build.updateTable('jibe.server').set({ conflict }).where('name', '=', of.name));
				const detail = { server: of.name, from: of.from, other: known.seen_from };
				await this.changed(rows, { at, by: 'jibe', action: 'server.conflict', detail });
				return { ...known, conflict };
			}
			if (known.conflict !== null) return known;
			const next = {
				ticket: of.next,
				ticket_epoch: await this.epoch(rows),
				seen_at: at,
				seen_from: of.from,
				certificate_expires: of.certificateExpires ?? known.certificate_expires,
			};
			await rows(build.updateTable('jibe.server').set(next).where('name', '=', of.name));
			return { ...known, ...next };
		});
		if (row.conflict === null) return serverOf(row);
		this.events.hint();
		throw new StateError('server_conflict', `the server ${row.name} is refused: ${row.conflict}`);
	}

	async setDraining(name: string, draining: boolean, by: string): Promise<ServerRow> {
		const at = this.clock.now();
		const { build } = this.db;
		const row = await this.db.transaction(async (rows) => {
			const [changed] = await rows(
				build.updateTable('jibe.server').set({ draining }).where('name', '=', name).where('removed_at', 'is', null).returningAll(),
			);
			if (!changed) throw new StateError('server_unknown', `there is no server ${name}`);
			const action = draining ? 'server.draining' : 'server.resumed';
			await this.changed(rows, { at, by, action, detail: { server: name, region: changed.region } });
			return changed;
		});
		this.events.hint();
		return serverOf(row);
	}

	async remove(name: string, by: string): Promise<boolean> {
		const at = this.clock.now();
		const { build } = this.db;
		const removed = await this.db.transaction(async (rows) => {
			const [gone] = await rows(
				build
					.updateTable('jibe.server')
					.set({ removed_at: at })
					.where('name', '=', name)
					.where('removed_at', 'is', null)
					.returning('region'),
			);
			if (!gone) return false;
			await this.changed(rows, { at, by, action: 'server.removed', detail: { server: name, region: gone.region } });
			return true;
		});
		this.events.hint();
		return removed;
	}

	async announce(addresses: readonly string[]): Promise<void> {
		const at = this.clock.now();
		const { build } = this.db;
		await this.db.transaction(async (rows) => {
			const since = at - ADDRESS_KEPT_MS;
			const known = await rows(build.selectFrom('jibe.control_address').selectAll());
			await rows(build.deleteFrom('jibe.control_address').where('seen_at', '<=', since));
			for (const address of addresses) {
				await rows(
					build
						.insertInto('jibe.control_address')
						.values({ address, seen_at: at })
						.onConflict((conflict) => conflict.column('address').doUpdateSet({ seen_at: at })),
				);
			}
			const current = new Set(known.filter(({ seen_at }) => seen_at > since).map(({ address }) => address));
			if (addresses.every((address) => current.has(address)) && current.size === known.length) return;
			await this.changed(rows, { at, by: 'jibe', action: 'server.control_moved', detail: { addresses: [...addresses] } });
		});
		this.events.hint();
	}

	private async epoch(rows: Rows): Promise<number> {
		const [installation] = await rows(this.db.build.selectFrom('jibe.installation').select('epoch'));
		return installation?.epoch ?? 0;
	}

	/** A region that there was no server in comes after all others. */
	private async openRegion(rows: Rows, name: string, edgePort: number): Promise<void> {
		const { build } = this.db;
		const [last] = await rows(build.selectFrom('jibe.region').select((of) => of.fn.max('position').as('position')));
		const row = { name, position: Number(last?.position ?? -1) + 1, edge_port: edgePort, retired: false };
		await rows(
			build
				.insertInto('jibe.region')
				.values(row)
				.onConflict((conflict) => conflict.column('name').doUpdateSet({ retired: false })),
		);
	}

	/** Whom a region may trust is not what it was: a new version, an entry in the audit, and an event for every replica. */
	private async changed(rows: Rows, entry: Entry): Promise<void> {
		await rows(this.db.build.updateTable('jibe.installation').set((of) => ({ servers_version: of('servers_version', '+', 1) })));
		const { at, action, detail } = entry;
		const event = { at, type: action, app: null, environment: null, deployment: null, data: detail };
		const publish = sql`select jibe.publish(${JSON.stringify([event])}::jsonb)`;
		await rows({ compile: () => publish.compile(this.db.build) });
		await this.note(rows, entry);
	}

	private async note(rows: Rows, entry: Entry): Promise<void> {
		await rows(auditEntry(this.db, { ...entry, app: null, environment: null }));
	}
}

interface Entry {
	at: number;
	by: string;
	action: string;
	detail: Record<string, unknown>;
}

type TokenRow = Tables['jibe.join_token'];

/** `again`: its answer was lost, and the same key asks once more. */
function admit(token: TokenRow | undefined, of: JoiningServer, at: number): { token: TokenRow; roles: Role[]; again: boolean } {
	if (!token) throw new StateError('join_token_unknown', 'this control has not made that join string, or it is more than 30 days old');
	const again = token.used_spki === of.spki;
	if (token.used_at !== null && !again) {
		const when = `${token.used_by} joined with it on ${isoTime(token.used_at)}`;
		throw new StateError('join_token_used', `this join string was used before: ${when}`);
	}
	if (!again && token.expires_at <= at) {
		throw new StateError('join_token_expired', `this join string was good until ${isoTime(token.expires_at)}; it is ${isoTime(at)}`);
	}
	if (of.region !== null && of.region !== token.region) {
		throw new StateError('join_other_region', `this join string is for region ${token.region}, and this server is one of ${of.region}`);
	}
	const beyond = (of.roles ?? []).filter((role) => !token.roles.includes(role));
	if (beyond.length > 0) {
		throw new StateError('join_roles', `this join string is for ${token.roles.join(', ')}, not for ${beyond.join(', ')}`);
	}
	return { token, roles: token.roles.filter((role) => of.roles?.includes(role) ?? true), again };
}

/** In the place of a server comes who an admin named, or who has shown to have its key. */
function refuseTaken(former: Row | undefined, invited: string | null, of: JoiningServer): void {
	if (!former || former.removed_at !== null || invited === former.name) return;
	if (of.formerSpki === former.spki && former.conflict === null) return;
	throw new StateError('server_exists', `there is a server ${former.name} (region ${former.region}, last seen at ${former.seen_from})`);
}

function refuseUnknown(row: Row | undefined, of: CheckIn): Row {
	if (!row) throw new StateError('server_unknown', `this control knows no server ${of.name}`);
	if (row.spki !== of.spki)
		throw new StateError('server_replaced', `another machine has joined as ${of.name} on ${isoTime(row.joined_at)}`);
	if (row.removed_at === null) return row;
	throw new StateError('server_removed', `the server ${of.name} was removed on ${isoTime(row.removed_at)}`);
}

function hashOf(secret: string): Buffer {
	return packDigests([sha256(secret)]);
}

function serverOf(row: Row): ServerRow {
	const { name, region, roles, labels, host, spki, draining, conflict } = row;
	return {
		name,
		region,
		roles,
		labels,
		host,
		depotPort: row.depot_port,
		agentPort: row.agent_port,
		edgePort: row.edge_port,
		spki,
		joinedAt: row.joined_at,
		certificateExpires: row.certificate_expires,
		draining,
		conflict,
		seenAt: row.seen_at,
		seenFrom: row.seen_from,
	};
}

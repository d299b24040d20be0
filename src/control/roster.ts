import type { IncomingMessage } from 'node:http';
import { TLSSocket } from 'node:tls';
import type { Clock } from '#clock/clock.ts';
import type { Log } from '#log/log.ts';
import type { ServerList, ServerRow } from '#state/joined-servers.ts';
import type { State } from '#state/state.ts';
import type { LinkHandlers, ServerLink } from '#wire/accept.ts';
import { commonName } from '#wire/peers.ts';
import { spkiOf } from '#wire/certificate.ts';
import type { Claims } from '#wire/credential.ts';
import type { Servers } from '#wire/region.ts';

/**
 * The servers that joined, as the database has them: whom control and the regions trust. Read again at each event of
 * theirs, whichever replica wrote it; a server that is no longer in it loses its links at once.
 */

/** Events are sometimes late, never lost; this is for a database that was away. */
const READ_EACH_MS = 30_000;

export interface RosterOptions {
	state: State;
	/** Those on control's own machine. */
	local: readonly { name: string; edgePort: number }[];
	/** Where this control is reached, first of all. */
	addresses: readonly string[];
	log: Log;
	clock: Clock;
}

export class Roster {
	private list: ServerList = { version: 0, servers: [], addresses: [], packages: {} };
	private readonly of: RosterOptions;
	private readonly links = new Map<ServerLink, string>();
	private readonly listeners = new Set<() => void>();
	private readonly stops: (() => void)[];
	private joinedRegions: { name: string; edgePort: number }[] = [];

	constructor(options: RosterOptions) {
		this.of = options;
		const read = () => void this.refresh().catch((error: unknown) => options.log.warn('servers.unread', { error }));
		const reading = options.clock.every(READ_EACH_MS, read);
		const unsubscribe = options.state.events.subscribe(({ type }) => {
			if (type.startsWith('server.')) read();
		});
		this.stops = [() => reading.cancel(), unsubscribe];
	}

	servers(): readonly ServerRow[] {
		return this.list.servers;
	}

	/** Names of those that are believed to be who they say. */
	trusted(): Set<string> {
		return new Set(this.list.servers.filter(({ conflict }) => conflict === null).map(({ name }) => name));
	}

	named(name: string): ServerRow | null {
		return this.list.servers.find((server) => server.name === name) ?? null;
	}

	/** In order, the first is the canary region: those on this machine, then those of joined servers. */
	regions(): readonly { name: string; edgePort: number }[] {
		return [...this.of.local, ...this.joinedRegions];
	}

	isLocal(region: string): boolean {
		return this.of.local.some(({ name }) => name === region);
	}

	/** Every address of control, this one's first. */
	addresses(): string[] {
		return [...new Set([...this.of.addresses, ...this.list.addresses])];
	}

	/** What these regions are told: whom to trust, and where control is. Servers in conflict are nobody. */
	message(regions: readonly string[]): Servers {
		const trusted = this.list.servers.filter(({ region, conflict }) => conflict === null && regions.includes(region));
		return {
			type: 'servers',
			version: this.list.version,
			control: this.addresses(),
			servers: trusted.map(({ name, region, roles, host, depotPort, agentPort, spki }) => {
				const wanted = this.list.packages[name];
				return { name, region, roles, host, depotPort, agentPort, spki, ...(wanted === undefined ? {} : { package: wanted }) };
			}),
		};
	}

	/** Hears after each change. Returns the way to stop. */
	subscribe(listener: () => void): () => void {
		this.listeners.add(listener);
		return () => this.listeners.delete(listener);
	}

	async refresh(): Promise<void> {
		const { state } = this.of;
		const list = await state.servers.all();
		const regions = await state.regions.list();
		if (list.version < this.list.version) return;
		const changed = JSON.stringify(list) !== JSON.stringify(this.list);
		this.list = list;
		// Builders alone make no region: nothing runs there.
		const running = list.servers.filter(({ roles }) => roles.some((role) => role !== 'builder'));
		const theirs = new Set(running.map(({ region }) => region).filter((region) => !this.isLocal(region)));
		this.joinedRegions = regions.filter(({ name }) => theirs.has(name)).map(({ name, edgePort }) => ({ name, edgePort }));
		if (!changed) return;
		for (const [link, spki] of this.links) {
			const row = this.named(link.claims.server);
			if (row?.spki === spki && row.conflict === null) continue;
			this.of.log.warn('server.cut_off', { server: link.claims.server, reason: row?.conflict ?? 'removed' });
			link.close('this server was removed, or is refused');
		}
		for (const listener of this.listeners) listener();
	}

	/**
	 * Why a request that came over TLS with these claims is refused, or null. Over loopback the claims alone count: programs
	 * of control's own machine have no certificates.
	 */
	refusal(request: IncomingMessage, claims: Claims): string | null {
		const { socket } = request;
		if (!(socket instanceof TLSSocket)) return null;
		const certificate = socket.getPeerX509Certificate();
		if (!certificate) return 'a program on another machine shows the certificate of its server';
		if (!socket.authorized) return `the certificate is not good here: ${wordsOf(String(socket.authorizationError))}`;
		if (certificate.validToDate.getTime() <= this.of.clock.now()) return `the certificate is not good here: ${wordsOf(EXPIRED)}`;
		if (commonName(certificate) !== claims.server) return `the certificate is not that of the server ${claims.server}`;
		const row = this.named(claims.server);
		if (!row) return `the server ${claims.server} was removed`;
		if (row.spki !== spkiOf(certificate.publicKey)) return `another machine has joined as ${claims.server} since`;
		if (row.conflict !== null) return `the server ${claims.server} is refused: ${row.conflict}`;
		const beyond = claims.regions.find((region) => region !== row.region);
		if (beyond !== undefined) return `the server ${claims.server} is one of ${row.region}, not of ${beyond}`;
		return row.roles.includes(claims.role) ? null : `the server ${claims.server} has no ${claims.role}`;
	}

	/** Remembers a joined server's link until it ends, so that it can be cut off. */
	watch(link: ServerLink, handlers: LinkHandlers): LinkHandlers {
		const row = this.named(link.claims.server);
		if (row) this.links.set(link, row.spki);
		return {
			onMessage: (message, text) => handlers.onMessage(message, text),
			onClosed: (reason) => {
				this.links.delete(link);
				handlers.onClosed(reason);
			},
		};
	}

	close(): void {
		for (const stop of this.stops) stop();
	}
}

const EXPIRED = 'CERT_HAS_EXPIRED';

function wordsOf(code: string): string {
	if (code === EXPIRED) return 'it has expired (the server renews it when it can reach control)';
	if (code === 'CERT_NOT_YET_VALID') return "it is not valid yet: control's clock is behind";
	return `it is of another installation (${code})`;
}

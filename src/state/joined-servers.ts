import type { Digest } from '#digest/digest.ts';
import type { Role } from '#wire/region.ts';

export interface ServerRow {
	name: string;
	region: string;
	roles: Role[];
	labels: string[];
	/** Where the region's other servers reach it. */
	host: string;
	depotPort: number | null;
	agentPort: number | null;
	edgePort: number | null;
	/** `sha256/<base64>` of its public key. */
	spki: string;
	joinedAt: number;
	certificateExpires: number;
	draining: boolean;
	/** Why it is refused until a person chooses, or null. */
	conflict: string | null;
	/** When, and from which address, it last checked in. */
	seenAt: number;
	seenFrom: string;
}

/** What control, depots, agents and edges go by: whom to trust, and where control is. */
export interface ServerList {
	/** Counts up with each change. */
	version: number;
	servers: ServerRow[];
	/** Server → the package that it is to run. */
	packages: Record<string, Digest>;
	/** Every address of control that a replica said lately, the latest first. */
	addresses: string[];
}

/** Servers of the team that joined. Each change is published as an event `server.…`. @throws StateError */
export interface Servers {
	/** Those that joined and were not removed, by name; with those in conflict. */
	list(): Promise<ServerRow[]>;
	all(): Promise<ServerList>;
	/** A token that lets one machine join, within 15 min. */
	createToken(of: NewJoinToken): Promise<{ token: string; expiresAt: number }>;
	/** Uses the token up; asked again by the same key, it answers the same. */
	join(of: JoiningServer): Promise<ServerRow>;
	/** A server shows that it is the one machine with its identity. `certificateExpires`: of the new certificate it gets. */
	checkIn(of: CheckIn): Promise<ServerRow>;
	setDraining(name: string, draining: boolean, by: string): Promise<ServerRow>;
	/** false: there is no such server. */
	remove(name: string, by: string): Promise<boolean>;
	/** This control is reached at these addresses. */
	announce(addresses: readonly string[]): Promise<void>;
}

export interface NewJoinToken {
	region: string;
	roles: Role[];
	labels: string[];
	/** Of the server that it may take the place of; null: a new one. */
	name: string | null;
	by: string;
}

export interface JoiningServer {
	token: string;
	name: string;
	/** Fewer than the token's; null: the token's. */
	roles: Role[] | null;
	/** The region that it believes to join; null: that of the token. */
	region: string | null;
	host: string;
	depotPort: number;
	agentPort: number;
	edgePort: number;
	spki: string;
	/** The key that it has shown to have under this name before. */
	formerSpki: string | null;
	ticket: string;
	from: string;
	certificateExpires: number;
}

export interface CheckIn {
	name: string;
	spki: string;
	/** What it was to show this time, and what it will show the next. */
	ticket: string;
	next: string;
	from: string;
	certificateExpires: number | null;
}

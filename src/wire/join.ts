import { createPrivateKey, sign, verify, type KeyObject } from 'node:crypto';
import { z } from 'zod';
import { appName, environmentName, regionName, releaseNumber, serverLabel, serverName } from './names.ts';
import { role, servers } from './region.ts';

/** How a machine becomes, and stays, a server of an installation: the join string, and what it and control say to each other. */

const PREFIX = 'jibe1.';
const MAX_JOIN_STRING = 4_096;
const MAX_PEM = 1_024;
const MAX_PROOF = 256;

const joinString = z.object({
	/** Control's addresses, `https://host:port`. */
	a: z.array(z.url({ protocol: /^https$/ })).min(1),
	/** Of Jibe's CA: `sha256/<base64>`. */
	f: z.string().regex(/^sha256\/[A-Za-z0-9+/]{43}=$/),
	/** Single use. */
	t: z.string().min(20),
});
export interface JoinString {
	addresses: string[];
	fingerprint: string;
	token: string;
}

export function formatJoinString({ addresses, fingerprint, token }: JoinString): string {
	return PREFIX + Buffer.from(JSON.stringify({ a: addresses, f: fingerprint, t: token })).toString('base64url');
}

/** null: cut short, mistyped, or something else altogether. */
export function readJoinString(text: string): JoinString | null {
	if (!text.startsWith(PREFIX) || text.length > MAX_JOIN_STRING) return null;
	let value: unknown;
	try {
		value = JSON.parse(Buffer.from(text.slice(PREFIX.length), 'base64url').toString());
	} catch {
		return null;
	}
	const parsed = joinString.safeParse(value);
	return parsed.success ? { addresses: parsed.data.a, fingerprint: parsed.data.f, token: parsed.data.t } : null;
}

const port = z.int().min(1).max(65_535);
const host = z
	.string()
	.max(253)
	.regex(/^[A-Za-z0-9.:_-]+$/, 'a host name or an address');
export const keyPem = z.string().max(MAX_PEM);
export const proof = z.string().max(MAX_PROOF);
const ticket = z.string().min(20).max(64);

/** `POST /api/v1/servers/join`: no token but the one from the join string. */
export const joinRequest = z.object({
	token: z.string().max(128),
	name: serverName,
	/** What it believes to join, where it was a server before or was told; null: whatever the token is for. */
	region: regionName.nullable(),
	/** Fewer than the token allows; null: all of them. */
	roles: z.array(role).min(1).nullable(),
	host,
	depotPort: port,
	agentPort: port,
	edgePort: port,
	/** Its new key. */
	publicKey: keyPem,
	proof,
	/** The key that it had under this name before, and the same signed by that. */
	former: z.object({ publicKey: keyPem, proof }).nullable(),
	/** What it shows when it checks in for the first time. */
	ticket,
	/** Its wall clock. */
	at: z.number(),
});
export type JoinRequest = z.infer<typeof joinRequest>;

/** `POST /api/v1/servers/check-in`: signed by the server's key, so that a certificate that has expired does not shut it out. */
export const checkInRequest = z.object({
	server: serverName,
	publicKey: keyPem,
	/** What it was to show this time, and what it will show the next: two machines can't both have it. */
	ticket,
	next: ticket,
	/** It wants a new certificate. */
	renew: z.boolean(),
	proof,
	at: z.number(),
	/** Which version of Jibe it runs, from which package, and why not the one that it is to run. */
	runs: z
		.object({ version: z.string().max(50), package: z.string().max(64).nullable(), problem: z.string().max(2_000).nullable() })
		.optional(),
});
export type CheckInRequest = z.infer<typeof checkInRequest>;

/** What a server needs to be one: answered to a join and to a check-in that asks for it. */
export const serverPapers = z.object({
	installation: z.string(),
	server: serverName,
	region: regionName,
	roles: z.array(role).min(1),
	/** PEM: its own for control, its own for the region's other servers, and that of the CA. */
	certificate: z.string(),
	peerCertificate: z.string(),
	ca: z.string(),
	/** Of the one for control. */
	expires: z.number(),
	/** Of its programs, as long as the one for other servers. */
	credentials: z.partialRecord(role, z.string()),
	/** What credentials are checked by. */
	publicKey: z.string(),
});
export type ServerPapers = z.infer<typeof serverPapers>;

export const checkInAnswer = z.object({
	papers: serverPapers.nullable(),
	/** Whom it may trust, and where control is. */
	servers,
	/** Control's wall clock. */
	at: z.number(),
});
export type CheckInAnswer = z.infer<typeof checkInAnswer>;

/** `POST /api/v1/servers/tokens` */
export const joinTokenRequest = z.object({
	region: regionName,
	/** null: all where the region has no depot yet, else an agent. */
	roles: z.array(role).min(1).nullable(),
	labels: z.array(serverLabel).max(20),
	/** Of the server whose place it takes. */
	name: serverName.nullable(),
});
export const joinTokenAnswer = z.object({ join: z.string(), expiresAt: z.number(), region: regionName, roles: z.array(role) });

/** `GET /api/v1/control`: how other machines find and recognise it. */
export const controlAnswer = z.object({
	installation: z.string(),
	addresses: z.array(z.string()),
	/** Of Jibe's CA: `sha256/<base64>`. */
	fingerprint: z.string(),
});
export type ControlAnswer = z.infer<typeof controlAnswer>;

/** One of `GET /api/v1/servers`. */
export const serverStatus = z.object({
	name: serverName,
	region: regionName,
	roles: z.array(role),
	labels: z.array(z.string()),
	host: z.string(),
	depotPort: port.nullable(),
	agentPort: port.nullable(),
	edgePort: port.nullable(),
	/** `conflict`: refused until a person chooses. */
	state: z.enum(['connected', 'lost', 'draining', 'conflict']),
	/** Why, in words; null where the state says it all. */
	reason: z.string().nullable(),
	joinedAt: z.number(),
	certificateExpires: z.number(),
	/** When, and from where, it last spoke to control. */
	seenAt: z.number(),
	seenFrom: z.string(),
	instances: z.int().nonnegative(),
	/** What its agent said of it last; null: nothing since control began. */
	has: z
		.object({
			version: z.string(),
			platform: z.string(),
			cpus: z.int(),
			budgetMiB: z.int(),
			reservedMiB: z.int(),
			diskMiB: z.int(),
			diskFreeMiB: z.int(),
		})
		.nullable()
		.default(null),
	/** What is placed there, by app. */
	placed: z.array(z.object({ app: appName, environment: environmentName, release: releaseNumber, instances: z.int() })).default([]),
});
export type ServerStatus = z.infer<typeof serverStatus>;
export const serversAnswer = z.object({ servers: z.array(serverStatus) });

/** Lines of `POST /api/v1/servers/{server}/drain`: how many instances are left there and what keeps them, until none is. */
export const drainLine = z.union([
	z.object({ left: z.int(), why: z.string().nullable().default(null) }),
	z.object({ drained: z.literal(true) }),
]);
export type DrainLine = z.infer<typeof drainLine>;

export function joinText({ token, publicKey, name }: Pick<JoinRequest, 'token' | 'publicKey' | 'name'>): string {
	return `jibe join\n${token}\n${name}\n${publicKey}`;
}

export function checkInText(installation: string, of: Omit<CheckInRequest, 'proof' | 'at' | 'runs'>): string {
	return `jibe check-in\n${installation}\n${of.server}\n${of.publicKey}\n${of.ticket}\n${of.next}\n${of.renew}`;
}

export function prove(text: string, privatePem: string): string {
	return sign('sha256', Buffer.from(text), createPrivateKey(privatePem)).toString('base64');
}

export function isProven(text: string, key: KeyObject, signature: string): boolean {
	return verify('sha256', Buffer.from(text), key, Buffer.from(signature, 'base64'));
}

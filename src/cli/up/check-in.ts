import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { X509Certificate, createPublicKey } from 'node:crypto';
import { join } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import { randomSecret } from '#digest/digest.ts';
import { checkInAnswer, checkInText, prove, type CheckInAnswer, type ServerPapers } from '#wire/join.ts';
import { servers as serversSchema } from '#wire/region.ts';
import { serverIdentity, type ServerIdentity } from '#wire/server-identity.ts';
import { Failure } from '../failure.ts';
import { ask, type Server } from '../server.ts';
import { clockProblem, trustOf } from '../tls.ts';

/** A joined server's papers: read, renewed, and shown to control as the only ones of their kind. */

const SECRET_MODE = 0o600;
/** Of a certificate's life: renewed once this share is over. */
const RENEW_AT_SHARE = 2 / 3;

/** `<data>/server` */
export function identityDirectory(data: string): string {
	return join(data, 'server');
}

/** Who this directory's server is; null: it is none. @throws when the file is damaged */
export function readIdentity(data: string): ServerIdentity | null {
	const text = readText(join(identityDirectory(data), 'server.json'));
	return text === null ? null : serverIdentity.parse(JSON.parse(text));
}

/** Whether two thirds of the certificate's life are over. */
export function isRenewalDue(data: string): boolean {
	const { from, to } = lifeOf(data, 'cert.pem');
	return systemClock.now() >= from + (to - from) * RENEW_AT_SHARE;
}

/** When control, and the region's other servers, no longer believe this one. */
export function expiresAt(data: string): { control: number; peers: number } {
	return { control: lifeOf(data, 'cert.pem').to, peers: lifeOf(data, 'peer.pem').to };
}

function lifeOf(data: string, file: string): { from: number; to: number } {
	const certificate = new X509Certificate(readFileSync(join(identityDirectory(data), file)));
	return { from: certificate.validFromDate.getTime(), to: certificate.validToDate.getTime() };
}

interface Tickets {
	/** What control expects to be shown next. */
	ticket: string;
	/** What it is to expect after that; written before it is said, because the answer may be lost. */
	next: string | null;
}

/**
 * Shows control that this is the machine with this identity, renews the certificate when that is due, and takes over what
 * control says of the others and of itself. @throws Failure: `unreachable`, or why this machine is no server any more
 */
export async function checkIn(
	data: string,
	identity: ServerIdentity,
	runs?: { version: string; package: string | null; problem: string | null },
): Promise<{ identity: ServerIdentity; warning: string | null }> {
	const directory = identityDirectory(data);
	const key = readFileSync(join(directory, 'key.pem'), 'utf8');
	const tickets = readTickets(directory);
	const next = tickets.next ?? randomSecret();
	writeTickets(directory, { ticket: tickets.ticket, next });
	const said = {
		server: identity.server,
		publicKey: createPublicKey(key).export({ type: 'spki', format: 'pem' }).toString(),
		ticket: tickets.ticket,
		next,
		renew: isRenewalDue(data),
	};
	const json = { ...said, proof: prove(checkInText(identity.installation, said), key), at: systemClock.now(), ...(runs ? { runs } : {}) };
	const server = controlOf(data, identity);
	const answer = checkInAnswer.parse(await ask(server, { method: 'POST', path: '/api/v1/servers/check-in', json }));
	writeTickets(directory, { ticket: next, next: null });
	if (answer.papers) writePapers(data, answer.papers);
	return { identity: takeList(data, identity, answer), warning: clockProblem(answer.at - systemClock.now())?.message ?? null };
}

export function controlOf(data: string, { control, installation }: ServerIdentity): Server {
	const ca = readFileSync(join(identityDirectory(data), 'ca.pem'), 'utf8');
	const [url, ...others] = control.map((address) => new URL(address));
	if (!url) throw new Failure('damaged', 4, `${join(identityDirectory(data), 'server.json')} names no address of control`);
	return { url, ...(others.length > 0 ? { others } : {}), token: '', trust: trustOf({ ca, installation }) };
}

/** Programs find them when they connect next. */
export function writePapers(data: string, papers: ServerPapers): void {
	const directory = identityDirectory(data);
	replaceFile(join(directory, 'ca.pem'), papers.ca);
	for (const [role, credential] of Object.entries(papers.credentials)) {
		const of = { credential, publicKey: papers.publicKey, installation: papers.installation };
		replaceFile(join(data, 'credentials', `${role}.json`), JSON.stringify(of));
	}
	replaceFile(join(directory, 'peer.pem'), papers.peerCertificate);
	replaceFile(join(directory, 'cert.pem'), papers.certificate);
}

/** The programs take it from the depot's link as well: whoever hears of a newer list first writes it. */
export function takeList(data: string, identity: ServerIdentity, { servers }: CheckInAnswer): ServerIdentity {
	const directory = identityDirectory(data);
	const held = readText(join(directory, 'servers.json'));
	const version = held === null ? -1 : (serversSchema.safeParse(parseJson(held)).data?.version ?? -1);
	if (servers.version > version) replaceFile(join(directory, 'servers.json'), JSON.stringify(servers));
	const same = servers.control.length === 0 || JSON.stringify(servers.control) === JSON.stringify(identity.control);
	if (same) return identity;
	const moved = { ...identity, control: servers.control };
	replaceFile(join(directory, 'server.json'), JSON.stringify(moved));
	return moved;
}

function readTickets(directory: string): Tickets {
	return JSON.parse(readFileSync(join(directory, 'ticket.json'), 'utf8')) as Tickets;
}

export function writeTickets(directory: string, tickets: Tickets): void {
	replaceFile(join(directory, 'ticket.json'), JSON.stringify(tickets));
}

export function replaceFile(file: string, text: string): void {
	const draft = `${file}.${process.pid}`;
	writeFileSync(draft, text, { mode: SECRET_MODE });
	renameSync(draft, file);
}

function readText(file: string): string | null {
	try {
		return readFileSync(file, 'utf8');
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
		throw error;
	}
}

function parseJson(text: string): unknown {
	try {
		return JSON.parse(text);
	} catch {
		return null; // cut short: the newer one takes its place
	}
}

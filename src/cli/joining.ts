import { createPrivateKey, createPublicKey } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:net';
import { systemClock } from '#clock/clock.ts';
import { randomSecret, sha256 } from '#digest/digest.ts';
import { newKey } from '#wire/certificate.ts';
import { checkInAnswer, joinText, prove, readJoinString, type JoinRequest, type JoinString } from '#wire/join.ts';
import { serverName } from '#wire/names.ts';
import type { Role } from '#wire/region.ts';
import type { ServerIdentity } from '#wire/server-identity.ts';
import { EXIT, Failure } from './failure.ts';
import { ask } from './server.ts';
import { clockProblem, meet, trustOf, wrongControl, type Met } from './tls.ts';
import { identityDirectory, readIdentity, replaceFile, takeList, writePapers, writeTickets } from './up/check-in.ts';
import { choosePorts } from './up/ports.ts';

/** How this machine becomes a server: by a join string, from one request to control and its answer. */

export interface Joining {
	data: string;
	text: string;
	/** Null: the host's, or the one it had. */
	name: string | null;
	/** Where the region's other servers reach it; null: the address that it speaks to control from. */
	host: string | null;
	/** Null: those of the join string. */
	roles: Role[] | null;
	region: string | null;
	edgePort: number | null;
}

const DEPOT_PORT = 7072;
const AGENT_PORT = 7071;
const EDGE_PORT = 8080;
const MAX_NAME = 63;
const ROUTE_WITHIN_MS = 5_000;

/** @throws Failure with what is wrong: the string, the address, the clock, or what control has against it */
export async function joinControl(of: Joining): Promise<ServerIdentity> {
	const string = read(of.text);
	const former = formerIdentity(of.data);
	const { met, url } = await reach(string);
	refuseOther(former, met, of.data);
	const host = of.host ?? (await ownAddress(url));
	const ports = await choosePortsOf(of, former);
	const draft = draftOf(of.data, string.token);
	const request = requestOf(of, { string, former, host, ports, draft });
	const others = string.addresses.map((address) => new URL(address)).filter((one) => one.href !== url.href);
	const server = { url, ...(others.length > 0 ? { others } : {}), token: '', trust: trustOf(met) };
	const answer = checkInAnswer.parse(await ask(server, { method: 'POST', path: '/api/v1/servers/join', json: request }));
	const { papers } = answer;
	if (!papers) throw new Failure('no_papers', EXIT.jibe, 'control answered without a certificate');
	const { installation, region, roles } = papers;
	const control = answer.servers.control.length > 0 ? answer.servers.control : string.addresses;
	const identity = { installation, server: papers.server, region, roles, control, fingerprint: string.fingerprint, host, ...ports };
	settle(of.data, identity, draft);
	writePapers(of.data, papers);
	takeList(of.data, identity, answer);
	rmSync(join(identityDirectory(of.data), 'joining.json'), { force: true });
	return identity;
}

function read(text: string): JoinString {
	const string = readJoinString(text.trim());
	if (string) return string;
	throw new Failure('join_string', EXIT.usage, 'this is not a whole join string', {
		hint: 'paste the whole line that "jibe server add" printed; it begins with jibe1. and has no spaces',
	});
}

function formerIdentity(data: string): ServerIdentity | null {
	const former = readIdentity(data);
	if (former === null && (existsSync(join(data, 'admin.token')) || existsSync(join(data, 'postgres')))) {
		throw new Failure('other_installation', EXIT.usage, `${data} belongs to a control`, { hint: 'name another directory with --data DIR' });
	}
	return former;
}

/** The first address that answers with the CA which the string names. */
async function reach({ addresses, fingerprint }: JoinString): Promise<{ met: Met; url: URL }> {
	let last: unknown = null;
	for (const address of addresses) {
		const url = new URL(address);
		try {
			const met = await meet(url);
			if (met.fingerprint !== fingerprint) throw wrongControl(url, met.fingerprint, fingerprint);
			const clock = clockProblem(met.aheadMs);
			if (clock) throw clock;
			return { met, url };
		} catch (error) {
			// What is said of a control that was reached says more than that another address is not.
			if (last === null || !(error instanceof Failure && error.code === 'unreachable')) last = error;
		}
	}
	throw last;
}

function refuseOther(former: ServerIdentity | null, met: Met, data: string): void {
	if (former === null || former.installation === met.installation) return;
	throw new Failure('other_installation', EXIT.usage, `${data} belongs to a server of another installation (${former.installation})`, {
		hint: 'name another directory with --data DIR; or "jibe down" there, and remove it',
	});
}

/** The address of this machine on the way to control. */
function ownAddress(url: URL): Promise<string> {
	return new Promise((resolve, reject) => {
		const socket = connect({ host: url.hostname.replace(/^\[|\]$/g, ''), port: Number(url.port || 443) });
		socket.setTimeout(ROUTE_WITHIN_MS, () => socket.destroy(new Error('no connection')));
		socket.once('connect', () => {
			resolve((socket.localAddress ?? '127.0.0.1').replace(/^::ffff:/, ''));
			socket.destroy();
		});
		socket.once('error', reject);
	});
}

type Ports = Pick<ServerIdentity, 'depotPort' | 'agentPort' | 'edgePort'>;

/** Those it had before are its own, whether its programs run or not. */
async function choosePortsOf({ edgePort }: Joining, former: ServerIdentity | null): Promise<Ports> {
	if (former) return { depotPort: former.depotPort, agentPort: former.agentPort, edgePort: edgePort ?? former.edgePort };
	const taken = new Set<number>();
	const choose = async (option: string, preferred: number, asked: number | null) => {
		const port = await choosePorts({ option, asked, preferred, count: 1, ours: new Set(), avoid: taken });
		taken.add(port);
		return port;
	};
	return {
		edgePort: await choose('--edge-port', EDGE_PORT, edgePort),
		agentPort: await choose('--agent-port', AGENT_PORT, null),
		depotPort: await choose('--depot-port', DEPOT_PORT, null),
	};
}

/** Key and first ticket, kept before control is asked: when its answer is lost, the same ones ask again. */
interface Draft {
	of: string;
	key: string;
	ticket: string;
}

function draftOf(data: string, token: string): Draft {
	const directory = identityDirectory(data);
	mkdirSync(directory, { recursive: true, mode: 0o700 });
	const file = join(directory, 'joining.json');
	const of = sha256(token);
	if (existsSync(file)) {
		const held = JSON.parse(readFileSync(file, 'utf8')) as Draft;
		if (held.of === of) return held;
	}
	const draft: Draft = { of, key: newKey().privatePem, ticket: randomSecret() };
	replaceFile(file, JSON.stringify(draft));
	return draft;
}

interface Parts {
	string: JoinString;
	former: ServerIdentity | null;
	host: string;
	ports: Ports;
	draft: Draft;
}

function requestOf(of: Joining, { string, former, host, ports, draft }: Parts): JoinRequest {
	const publicKey = publicPem(draft.key);
	const { token } = string;
	const name = of.name ?? former?.server ?? hostName();
	const text = joinText({ token, publicKey, name });
	const formerKey = former && readFileSync(join(identityDirectory(of.data), 'key.pem'), 'utf8');
	return {
		token,
		name,
		region: of.region ?? former?.region ?? null,
		roles: of.roles,
		host,
		...ports,
		publicKey,
		proof: prove(text, draft.key),
		former: formerKey && former.server === name ? { publicKey: publicPem(formerKey), proof: prove(text, formerKey) } : null,
		ticket: draft.ticket,
		at: systemClock.now(),
	};
}

function publicPem(privatePem: string): string {
	return createPublicKey(createPrivateKey(privatePem)).export({ type: 'spki', format: 'pem' }).toString();
}

function hostName(): string {
	const name = hostname()
		.toLowerCase()
		.split('.')[0]
		?.replaceAll(/[^a-z0-9-]+/g, '-')
		.replaceAll(/^-+|-+$/g, '')
		.slice(0, MAX_NAME);
	if (name && serverName.safeParse(name).success) return name;
	throw new Failure('usage', EXIT.usage, `this machine's name "${hostname()}" can't be a server's name`, { hint: 'name it with --name N' });
}

function settle(data: string, identity: ServerIdentity, { key, ticket }: Draft): void {
	const directory = identityDirectory(data);
	mkdirSync(join(data, 'credentials'), { recursive: true, mode: 0o700 });
	replaceFile(join(directory, 'key.pem'), key);
	replaceFile(join(directory, 'server.json'), JSON.stringify(identity));
	writeTickets(directory, { ticket, next: null });
}

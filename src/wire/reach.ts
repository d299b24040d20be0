import { connect } from 'node:net';
import { readFileSync } from 'node:fs';
import { X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import type { z } from 'zod';
import { systemClock } from '#clock/clock.ts';
import type { finding, ServerPeer, Servers } from './region.ts';

/** What a joined server can say of its connections to the others of its region, and of its papers. */

export type ReachFinding = z.infer<typeof finding>;

const REACH_WITHIN_MS = 2_000;
/** More than these are not tried: where one port of many is closed, it is closed for most. */
const MAX_TRIED = 48;
const HOUR_MS = 3_600_000;
/** Of 24: it is renewed when 8 are left. */
const SHORT_HOURS = 6;

/** Whether the others' depots and, where this server has edges, agents can be reached: edges send requests through them. */
export async function reachFindings(server: string, { servers }: Pick<Servers, 'servers'>): Promise<ReachFinding[]> {
	const own = servers.find(({ name }) => name === server);
	if (!own) return [];
	const others = servers.filter((peer) => peer.name !== server && peer.region === own.region);
	const targets = others.flatMap((peer) => portsOf(peer, own)).slice(0, MAX_TRIED);
	if (targets.length === 0) return [];
	const tried = await Promise.all(targets.map(async (target) => ({ ...target, problem: await problemOf(target.host, target.port) })));
	const failed = tried.filter(({ problem }) => problem !== null);
	if (failed.length === 0) {
		return [
			{
				check: 'reach',
				state: 'ok',
				detail: `${tried.length} ports of ${others.length} other servers of ${own.region} answer`,
				hint: null,
			},
		];
	}
	return failed.map(({ name, host, port, what, problem }) => ({
		check: 'reach',
		state: 'bad' as const,
		detail: `the ${what} of ${name} at ${host}:${port} can't be reached (${problem})`,
		hint: `open port ${port} from ${own.host} to ${host} inside the region, or correct its address: jibe agent join … --host ADDR`,
	}));
}

function portsOf(peer: ServerPeer, own: ServerPeer): { name: string; host: string; port: number; what: string }[] {
	const { name, host, depotPort, agentPort, roles } = peer;
	const depot = roles.includes('depot') && depotPort !== null ? [{ name, host, port: depotPort, what: 'depot' }] : [];
	const agent =
		own.roles.includes('edge') && roles.includes('agent') && agentPort !== null ? [{ name, host, port: agentPort, what: 'agent' }] : [];
	return [...depot, ...agent];
}

/** A word for why nothing listens there, or null. */
export function problemOf(host: string, port: number): Promise<string | null> {
	return new Promise((resolve) => {
		const socket = connect({ host, port });
		socket.setTimeout(REACH_WITHIN_MS, () => {
			resolve('no answer');
			socket.destroy();
		});
		socket.once('connect', () => {
			resolve(null);
			socket.destroy();
		});
		socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
	});
}

/** The certificate in a joined server's directory. */
export function certificateFinding(directory: string): ReachFinding {
	try {
		const ends = new X509Certificate(readFileSync(join(directory, 'cert.pem'))).validToDate.getTime();
		const hours = Math.floor((ends - systemClock.now()) / HOUR_MS);
		if (hours >= SHORT_HOURS) return { check: 'certificate', state: 'ok', detail: `valid for ${hours} more hours`, hint: null };
		const hint = 'it is renewed by itself once control is reached: look at "control" here; after 30 days the server joins again';
		const detail = hours < 0 ? `expired ${-hours} h ago: no other server speaks to this one` : `expires in ${hours} h, and was not renewed`;
		return { check: 'certificate', state: hours < 0 ? 'bad' : 'warn', detail, hint };
	} catch (error) {
		const hint = 'join again: jibe server add on control makes a join string';
		return { check: 'certificate', state: 'bad', detail: `can't be read: ${(error as Error).message}`, hint };
	}
}

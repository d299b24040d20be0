import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { createServer } from 'node:net';
import { EXIT, Failure } from '../failure.ts';

/** Free ports of the loopback address, and who has those that are not. */

const HOST = '127.0.0.1';
const LAST_PORT = 65_535;
/** How many starting points are tried before giving up. */
const MAX_TRIES = 200;

/**
 * The first of `count` ports in a row: `asked`, or one at or after `preferred`. Ports in `ours` belong to programs of
 * this installation that will be adopted.
 * @throws Failure (port_taken) when the asked one is not free
 */
export async function choosePorts(of: {
	option: string;
	asked: number | null;
	preferred: number;
	count: number;
	ours: ReadonlySet<number>;
	/** Not to be handed out although they are free: what another option has. */
	avoid: ReadonlySet<number>;
}): Promise<number> {
	let base = of.asked ?? of.preferred;
	for (let tries = 0; tries < MAX_TRIES; tries++) {
		if (base + of.count - 1 > LAST_PORT) break;
		const taken = await firstTaken(base, of.count, of.ours, of.avoid);
		if (taken === null) return base;
		if (of.asked !== null) throw portTaken(taken, of.option);
		base = taken + 1;
	}
	throw new Failure('port_taken', EXIT.usage, `no ${of.count} free ports in a row from ${of.preferred} on`, {
		hint: `name where to look with ${of.option}`,
	});
}

async function firstTaken(base: number, count: number, ours: ReadonlySet<number>, avoid: ReadonlySet<number>): Promise<number | null> {
	for (let port = base + count - 1; port >= base; port--) {
		if (avoid.has(port)) return port;
		if (!ours.has(port) && !(await isFree(port))) return port;
	}
	return null;
}

export function isFree(port: number, host = HOST): Promise<boolean> {
	return new Promise((resolve, reject) => {
		const server = createServer();
		server.once('error', (error: NodeJS.ErrnoException) => {
			if (error.code === 'EADDRINUSE') resolve(false);
			else if (error.code === 'EADDRNOTAVAIL')
				reject(new Failure('no_such_address', EXIT.usage, `${host} is not an address of this machine`, { cause: error }));
			else if (error.code === 'EACCES')
				reject(new Failure('port_taken', EXIT.usage, `this user may not listen on port ${port}`, { cause: error }));
			else reject(error);
		});
		server.listen({ port, host, exclusive: true }, () => server.close(() => resolve(true)));
	});
}

export function portTaken(port: number, option: string): Failure {
	const owner = portOwner(port);
	const who = owner === null ? 'another program' : `${owner.command} (pid ${owner.pid})`;
	return new Failure('port_taken', EXIT.usage, `port ${port} is taken by ${who}`, { hint: `stop it, or choose another with ${option}` });
}

/** Who listens on a port of this machine; null when that can't be found out (another user's process, no /proc). */
export function portOwner(port: number): { pid: number; command: string } | null {
	const inode = listeningInode(port);
	if (inode === null) return null;
	for (const pid of numbers('/proc')) {
		if (numbers(`/proc/${pid}/fd`).some((fd) => linkOf(`/proc/${pid}/fd/${fd}`) === `socket:[${inode}]`)) {
			return { pid, command: commandOf(pid) };
		}
	}
	return null;
}

const LISTENING = '0A';

function listeningInode(port: number): string | null {
	const hex = port.toString(16).toUpperCase().padStart(4, '0');
	for (const table of ['/proc/net/tcp', '/proc/net/tcp6']) {
		for (const line of readText(table).split('\n').slice(1)) {
			const [, local, , state, , , , , , inode] = line.trim().split(/\s+/);
			if (state === LISTENING && local?.endsWith(`:${hex}`) && inode !== undefined) return inode;
		}
	}
	return null;
}

function commandOf(pid: number): string {
	const words = readText(`/proc/${pid}/cmdline`).split('\0').filter(Boolean);
	const command = words.join(' ');
	return command === '' ? 'a program' : command.length <= 120 ? command : `${command.slice(0, 119)}…`;
}

function numbers(directory: string): number[] {
	try {
		return readdirSync(directory).map(Number).filter(Number.isInteger);
	} catch {
		return []; // ended meanwhile, another user's, or not Linux
	}
}

function linkOf(path: string): string | null {
	try {
		return readlinkSync(path);
	} catch {
		return null; // closed meanwhile
	}
}

function readText(path: string): string {
	try {
		return readFileSync(path, 'utf8');
	} catch {
		return ''; // ended meanwhile, or not Linux
	}
}

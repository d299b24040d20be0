import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { pause, type Clock } from '#clock/clock.ts';

/**
 * Two edges of one server share each port through SO_REUSEPORT. The kernel would let any program of the same user join
 * in, another installation of Jibe for one: so a port that is held is only shared when it is our sibling that holds it.
 */
export async function listenTogether(server: Server, port: number, of: Sibling, clock: Clock): Promise<number> {
	const began = clock.monotonic();
	for (;;) {
		const holder = port === 0 || (await isFree(port, of.host)) ? 'nobody' : await holderOf(port, of);
		const late = clock.monotonic() > began + (holder === 'silent' ? SILENT_AFTER_MS : STRANGER_AFTER_MS);
		if (holder === 'nobody' || holder === 'sibling') {
			try {
				return await listen(server, of.host, port, true);
			} catch (error) {
				// A sibling that looks whether the port is free holds it for a moment.
				if (!inUse(error) || late) throw taken(port, of.host, error);
			}
		} else if (late) throw taken(port, of.host, null);
		await pause(RETRY_MS, clock);
	}
}

export interface Sibling {
	/** Where edges note the ports they hold. */
	directory: string;
	/** This edge's name. */
	name: string;
	/** The other edges' names. */
	others: readonly string[];
	/** The address that all of them answer on. */
	host: string;
}

const STRANGER_AFTER_MS = 2_000;
/** On a busy machine a sibling may be late to say that it is there. */
const SILENT_AFTER_MS = 15_000;
const RETRY_MS = 20;

/** So that the sibling knows whose ports these are. */
export function noteHeldPorts(of: Sibling, pid: number, ports: readonly number[]): void {
	mkdirSync(of.directory, { recursive: true, mode: 0o700 });
	const file = join(of.directory, `${of.name}.ports`);
	writeFileSync(`${file}.draft`, JSON.stringify({ pid, ports }), { mode: 0o600 });
	renameSync(`${file}.draft`, file);
}

export class PortTaken extends Error {
	readonly code = 'port_taken';
}

function taken(port: number, host: string, cause: unknown): PortTaken {
	return new PortTaken(`port ${port} on ${host} is in use by another program: end it, or choose another with --edge-port`, { cause });
}

/** Of a port that is held. `silent`: there is a sibling that does not answer, or has only begun to hold its ports. */
async function holderOf(port: number, of: Sibling): Promise<'sibling' | 'silent' | 'stranger'> {
	let silent = false;
	for (const other of of.others) {
		const said = await greeting(join(of.directory, `${other}.alive.sock`));
		const held = readHeld(join(of.directory, `${other}.ports`));
		// The note may be that of a dead edge: the one alive must be the one who wrote it.
		if (held?.ports.includes(port) && said === `alive ${held.pid}`) return 'sibling';
		silent ||= said === null || said.startsWith('starting');
	}
	return silent ? 'silent' : 'stranger';
}

function readHeld(file: string): { pid: number; ports: number[] } | null {
	try {
		return JSON.parse(readFileSync(file, 'utf8')) as { pid: number; ports: number[] };
	} catch {
		return null; // there is no such sibling, or it holds nothing yet
	}
}

/** What an edge says of itself; empty: there is none; null: no answer in time. */
function greeting(socketPath: string): Promise<string | null> {
	const { promise, resolve } = Promise.withResolvers<string | null>();
	const socket = connect({ path: socketPath });
	let said = '';
	socket.setTimeout(ALIVE_TIMEOUT_MS, () => {
		resolve(null);
		socket.destroy();
	});
	socket.on('data', (chunk: Buffer) => {
		said += chunk.toString();
		if (said.endsWith('\n')) socket.destroy();
	});
	socket.on('error', () => resolve(''));
	socket.on('close', () => resolve(said.trim()));
	return promise;
}

const ALIVE_TIMEOUT_MS = 500;
/** Whoever is to be answered more than once says something by then. */
const ASKED_AGAIN_WITHIN_MS = 100;

/** `alive`: it holds its ports. `starting` and `closing` have not yet, or no more. */
export type Life = 'starting' | 'alive' | 'closing';

/** Answers every connection with `alive <pid>`, and whatever is said on it then: an edge that is frozen does not. */
export async function answerAlive(socketPath: string, life: () => Life): Promise<Server> {
	const server = createServer((socket) => {
		const answer = () => void socket.write(`${life()} ${process.pid}\n`);
		socket.on('error', () => socket.destroy());
		// Who only wants to know once waits for the end.
		socket.setTimeout(ASKED_AGAIN_WITHIN_MS, () => socket.end());
		socket.on('data', () => {
			socket.setTimeout(0);
			answer();
		});
		answer();
	});
	const { promise, resolve, reject } = Promise.withResolvers<void>();
	server.once('error', reject).listen({ path: socketPath }, resolve);
	await promise;
	return server;
}

async function isFree(port: number, host: string): Promise<boolean> {
	const server = createServer();
	try {
		await listen(server, host, port, false);
		return true;
	} catch (error) {
		if (inUse(error)) return false;
		throw error;
	} finally {
		await new Promise((resolve) => server.close(resolve));
	}
}

function listen(server: Server, host: string, port: number, reusePort: boolean): Promise<number> {
	const { promise, resolve, reject } = Promise.withResolvers<number>();
	const failed = (error: Error): void => reject(error);
	server.once('error', failed).listen({ port, host, reusePort, backlog: BACKLOG }, () => {
		server.off('error', failed);
		const address = server.address();
		resolve(typeof address === 'object' && address !== null ? address.port : port);
	});
	return promise;
}

const BACKLOG = 2_048;

function inUse(error: unknown): boolean {
	return (error as NodeJS.ErrnoException).code === 'EADDRINUSE';
}

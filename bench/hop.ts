import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { listOf, openAuthority } from '../test/fixtures/certificates.ts';
import type { Row } from './row.ts';

/**
 * What it costs a request that its instance is on another server: the same canned answer over the same edge, once from an
 * instance beside it, once through the other server's agent by mutual TLS, by turns. All of it on this machine, so that it
 * is the work and not the way that is measured; each a process of its own.
 */
export async function bench(): Promise<Row[]> {
	const authority = openAuthority();
	const directory = mkdtempSync(join(tmpdir(), 'jibe-bench-hop-'));
	const children: ChildProcess[] = [];
	const start = async (file: string, ...args: string[]): Promise<number> => {
		const child = spawn(process.execPath, [join(import.meta.dirname, file), ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
		children.push(child);
		const [line] = (await once(child.stdout, 'data')) as [Buffer];
		return (JSON.parse(line.toString()) as { port: number }).port;
	};
	try {
		const sockets = { near: join(directory, 'near.sock'), far: join(directory, 'far.sock') };
		const servers = { one: authority.server('one').directory, two: authority.server('two').directory };
		for (const socket of Object.values(sockets)) await start('edge-parts.ts', 'instance', socket);
		const known = (agentPort: number | null) => listOf(1, authority.peer('one'), authority.peer('two', { agentPort }));
		writeFileSync(join(servers.two, 'servers.json'), JSON.stringify(known(null)));
		const agentPort = await start('hop-parts.ts', 'agent', servers.two, sockets.far);
		writeFileSync(join(servers.one, 'servers.json'), JSON.stringify(known(agentPort)));
		const port = await start('hop-parts.ts', 'edge', servers.one, sockets.near, join(directory, 'memory'));
		const { nearMs, farMs } = await compare({ host: '127.0.0.1', port, near: 'near.localhost', far: 'far.localhost' });
		process.stderr.write(`near ${nearMs} ms, far ${farMs} ms\n`);
		return [{ row: 'fleet-hop-p50', value: Math.round((farMs - nearMs) * 1_000) / 1_000, unit: 'ms', bar: 1, goal: 0.3 }];
	} finally {
		for (const child of children) child.kill('SIGTERM');
		for (const child of children) if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
		rmSync(directory, { recursive: true, force: true });
		authority.close();
	}
}

const WARM_REQUESTS = 1_000;
const REQUESTS = 5_000;

/** An edge, and two apps' host names: the instance of one is on the edge's own server, that of the other is not. */
export interface Compared {
	host: string;
	port: number;
	near: string;
	far: string;
}

/** Medians of requests by turns over one keep-alive connection each. @throws when an answer is none of 200 */
export async function compare({ host, port, near, far }: Compared): Promise<{ nearMs: number; farMs: number }> {
	const clients = [await open(host, port, near), await open(host, port, far)];
	const taken: number[][] = [[], []];
	for (let i = 0; i < WARM_REQUESTS + REQUESTS; i++) {
		for (const [which, client] of clients.entries()) {
			const ms = await client.ask();
			if (i >= WARM_REQUESTS) taken[which]?.push(ms);
		}
	}
	for (const client of clients) client.socket.destroy();
	const [nearMs = 0, farMs = 0] = taken.map(median);
	return { nearMs, farMs };
}

interface Client {
	socket: Socket;
	ask(): Promise<number>;
}

/** Answers have a content-length, as those of instances do. */
async function open(host: string, port: number, name: string): Promise<Client> {
	const socket = connect({ host, port, noDelay: true });
	await once(socket, 'connect');
	const request = Buffer.from(`GET / HTTP/1.1\r\nhost: ${name}\r\naccept: */*\r\n\r\n`);
	return {
		socket,
		ask() {
			const from = performance.now();
			let said = '';
			return new Promise((resolve, reject) => {
				const fail = (error?: Error) => reject(error ?? new Error(`${name}: the connection was closed after ${said.slice(0, 200)}`));
				const read = (bytes: Buffer) => {
					said += bytes.toString('latin1');
					const head = said.indexOf('\r\n\r\n');
					const length = Number(/content-length: (\d+)/i.exec(said)?.[1]);
					if (head === -1 || said.length < head + 4 + length) return;
					for (const event of ['data', 'error', 'close']) socket.removeAllListeners(event);
					if (said.startsWith('HTTP/1.1 200')) resolve(performance.now() - from);
					else reject(new Error(`${name}: ${said.slice(0, 300)}`));
				};
				socket.on('data', read).once('error', fail).once('close', fail);
				socket.write(request);
			});
		},
	};
}

function median(values: readonly number[]): number {
	const sorted = values.toSorted((a, b) => a - b);
	return Math.round((sorted[Math.floor(sorted.length / 2)] ?? 0) * 1_000) / 1_000;
}

import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, createServer } from 'node:net';
import { pause } from '../src/clock/clock.ts';
import type { Row } from './row.ts';

/**
 * What one core carries: requests for each second of processor time that the edge used, with 1 KB bodies, 64 keep-alive
 * connections, and user hashing, histograms and request ids on. By processor time, because the load and the instance
 * need more of the other core than the edge of its own, and so they, or whatever else runs on the machine, decide how
 * many requests there are in a second of the wall clock (`edge-rps-wall`). HAProxy and nginx are measured in the same
 * way where they are installed.
 */
export async function bench(): Promise<Row[]> {
	const directory = mkdtempSync(join(tmpdir(), 'jibe-bench-edge-'));
	const children: ChildProcess[] = [];
	try {
		const socket = join(directory, 'i.sock');
		const instance = part('instance', [socket], LOAD_CORE);
		children.push(instance);
		await line(instance);
		const edge = part('edge', [socket, join(directory, 'memory')], EDGE_CORE);
		children.push(edge);
		const { port } = (await line(edge)) as { port: number };
		const own = await measure(port, edge);
		const peers: Record<string, number> = {};
		const peersWall: Record<string, number> = {};
		for (const peer of PEERS) {
			if (!installed(peer.command)) continue;
			const peerPort = await freePort();
			const file = join(directory, `${peer.command}.conf`);
			writeFileSync(file, peer.config(peerPort, socket, directory));
			const child = pinned([peer.command, ...peer.args(file)], EDGE_CORE);
			children.push(child);
			await listens(peerPort);
			const theirs = await measure(peerPort, child);
			peers[peer.command] = theirs.perCore;
			peersWall[peer.command] = theirs.wall;
		}
		return [
			{ row: 'edge-rps', value: own.perCore, unit: '1/s', bar: 15_000, goal: 25_000, peers },
			{ row: 'edge-rps-wall', value: own.wall, unit: '1/s', bar: null, goal: null, peers: peersWall },
		];
	} finally {
		for (const child of children) await end(child);
		rmSync(directory, { recursive: true, force: true });
	}
}

const EDGE_CORE = 0;
const LOAD_CORE = 1;
const CONNECTIONS = 64;
const PEER_START_LIMIT_MS = 10_000;

/** Both log nothing and look at the Host header, as the edge does. */
const PEERS = [
	{
		command: 'haproxy',
		args: (file: string) => ['-db', '-f', file],
		config: (port: number, socket: string) => `global
  nbthread 1
  maxconn 1000
defaults
  mode http
  timeout client 30s
  timeout server 30s
  timeout connect 5s
  option forwardfor
frontend f
  bind 127.0.0.1:${port}
  unique-id-format %{+X}o%ci:%cp_%fi:%fp_%Ts_%rt:%pid
  unique-id-header x-request-id
  use_backend app if { hdr(host),field(1,.) bench }
backend app
  http-reuse always
  server i1 unix@${socket}
`,
	},
	{
		command: 'nginx',
		args: (file: string) => ['-c', file, '-g', 'daemon off;'],
		config: (port: number, socket: string, directory: string) => `${process.getuid?.() === 0 ? 'user root;' : ''}
worker_processes 1;
pid ${directory}/nginx.pid;
error_log /dev/null;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path ${directory};
  proxy_temp_path ${directory};
  fastcgi_temp_path ${directory};
  uwsgi_temp_path ${directory};
  scgi_temp_path ${directory};
  keepalive_requests 1000000000;
  upstream app { server unix:${socket}; keepalive 64; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:${port};
    server_name bench.localhost;
    location / {
      proxy_pass http://app;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Request-Id $request_id;
      proxy_set_header X-Forwarded-For $remote_addr;
    }
  }
}
`,
	},
];

async function measure(port: number, server: ChildProcess): Promise<{ perCore: number; wall: number }> {
	const load = part('load', [String(port), String(CONNECTIONS)], LOAD_CORE);
	await line(load);
	const before = processorSeconds(server.pid ?? 0);
	const { requests, ms, wrong } = (await line(load)) as { requests: number; ms: number; wrong: number };
	const used = processorSeconds(server.pid ?? 0) - before;
	await end(load);
	if (wrong > 0) throw new Error(`${wrong} answers were wrong or missing`);
	return { perCore: Math.round(requests / used), wall: Math.round((requests * 1000) / ms) };
}

const TICKS_PER_S = 100;

/** Of a process and its children: nginx works in one. */
function processorSeconds(pid: number): number {
	let ticks = 0;
	for (const name of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
		const fields = statOf(Number(name));
		if (fields === null || (Number(name) !== pid && Number(fields[1]) !== pid)) continue;
		ticks += Number(fields[11]) + Number(fields[12]);
	}
	return ticks / TICKS_PER_S;
}

/** The fields after the command's name. */
function statOf(pid: number): string[] | null {
	try {
		const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
		return text.slice(text.lastIndexOf(')') + 2).split(' ');
	} catch {
		return null; // it has ended
	}
}

function part(role: string, args: readonly string[], core: number): ChildProcess {
	return pinned([process.execPath, join(import.meta.dirname, 'edge-parts.ts'), role, ...args], core);
}

/** On a core of its own where there are two and `taskset` is there. */
function pinned(command: readonly string[], core: number): ChildProcess {
	const words = cpus().length > 1 && installed('taskset') ? ['taskset', '-c', String(core), ...command] : [...command];
	return spawn(words[0] ?? '', words.slice(1), { stdio: ['ignore', 'pipe', 'inherit'] });
}

async function line(child: ChildProcess): Promise<unknown> {
	if (!child.stdout) throw new Error('the child has no output');
	const ended = new Promise<never>((_resolve, reject) => {
		const fail = (): void => reject(new Error(`${child.spawnargs.join(' ')} ended before it had said anything`));
		if (child.exitCode !== null) fail();
		else child.once('close', fail);
	});
	const [chunk] = (await Promise.race([once(child.stdout, 'data'), ended])) as [unknown];
	return JSON.parse(String(chunk));
}

async function end(child: ChildProcess): Promise<void> {
	if (child.exitCode !== null || child.signalCode !== null) return;
	const exited = once(child, 'exit');
	child.kill('SIGTERM');
	await exited;
}

function installed(command: string): boolean {
	return spawnSync(command, ['--version'], { stdio: 'ignore' }).error === undefined;
}

async function listens(port: number): Promise<void> {
	const until = performance.now() + PEER_START_LIMIT_MS;
	for (;;) {
		const socket = connect({ port, host: '127.0.0.1' });
		try {
			return void (await once(socket, 'connect'));
		} catch (error) {
			if (performance.now() > until) throw error;
		} finally {
			socket.destroy();
		}
		await pause(20);
	}
}

async function freePort(): Promise<number> {
	const server = createServer();
	server.listen({ port: 0, host: '127.0.0.1' });
	await once(server, 'listening');
	const address = server.address();
	await new Promise((resolve) => server.close(resolve));
	return typeof address === 'object' && address !== null ? address.port : 0;
}

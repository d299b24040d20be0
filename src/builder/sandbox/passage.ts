import { spawn, type ChildProcess } from 'node:child_process';
import { createSocket, Socket as UdpSocket, type RemoteInfo } from 'node:dgram';
import { existsSync, mkdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { connect, isIPv6, Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import { SYSTEM_ENV, type Holder } from './holder.ts';
import { SandboxError, type Reach } from './sandbox.ts';
import type { Place } from './view.ts';

/**
 * The way out of one command: a network of its own in which every address is its loopback's, and where this builder listens
 * at a few ports of all of them. What the command connects to is judged by the address and port that it meant, and what is
 * allowed is connected to from here. So there is nothing to route, to translate or to install, and no way round it.
 */
export class Passage {
	/** Shown to the command: how names are found. */
	readonly files: readonly Place[];
	private readonly door: ChildProcess;
	private readonly reach: Reach;
	private readonly say: (line: string) => void;
	private readonly nameserver: string | null;
	private readonly servers: Server[] = [];
	private names: UdpSocket | null = null;
	private readonly open = new Set<Socket>();
	/** Ends a question for a name. */
	private readonly asking = new Set<() => void>();
	private readonly refused = new Set<string>();

	private constructor(door: ChildProcess, of: { reach: Reach; say: (line: string) => void; files: readonly Place[] }) {
		this.door = door;
		this.reach = of.reach;
		this.say = of.say;
		this.files = of.files;
		this.nameserver = machineNames().nameserver;
	}

	/** `directory`: of this command alone. `say`: a line for whoever reads its output. @throws SandboxError no_network */
	static async open(holder: Holder, directory: string, reach: Reach, say: (line: string) => void): Promise<Passage> {
		const files = nameFiles(directory);
		const places = [
			...USUAL_PORTS.map((port) => ({ port, address: ANYWHERE })),
			{ port: NAMES_PORT, address: OWN_NAMESERVER },
			...different(reach.places).filter(({ address, port }) => !isIPv6(address) && !USUAL_PORTS.includes(port)),
		];
		const [first = '', ...words] = holder.enter();
		const inside = ['unshare', '--net', '/bin/sh', '-ec', MAKE, 'sh', process.execPath, '-e', DOOR, JSON.stringify(places)];
		const door = spawn(first, [...words, ...inside], {
			cwd: '/',
			env: SYSTEM_ENV,
			stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
			detached: true,
		});
		const passage = new Passage(door, { reach, say, files });
		try {
			await passage.take(places.length + 1);
		} catch (error) {
			await passage.close();
			throw error;
		}
		return passage;
	}

	/** What starts a program in this network, from among the sandbox's mounts. */
	enter(): string[] {
		return ['nsenter', `--net=/proc/${this.door.pid}/ns/net`, '--'];
	}

	async close(): Promise<void> {
		for (const server of this.servers) server.close();
		this.names?.close();
		for (const socket of this.open) socket.destroy();
		for (const stop of this.asking) stop();
		if (this.door.exitCode !== null || this.door.signalCode !== null || this.door.pid === undefined) return;
		const ended = new Promise((resolve) => this.door.once('exit', resolve));
		this.door.kill('SIGKILL');
		await ended;
	}

	/** The door's sockets, as they come. */
	private take(count: number): Promise<void> {
		let complaint = '';
		this.door.stderr?.setEncoding('utf8').on('data', (text: string) => (complaint += text));
		return new Promise((resolve, reject) => {
			const failed = (cause?: Error) => reject(new SandboxError('no_network', `${NOT_MADE}: ${complaint.trim()}`, { cause }));
			const limit = systemClock.after(OPEN_LIMIT_MS, () => failed(new Error(`not within ${OPEN_LIMIT_MS} ms`)));
			this.door.once('error', failed).once('close', () => failed());
			this.door.on('message', (_, handle) => {
				if (handle instanceof UdpSocket) this.answerNames(handle);
				else if (handle instanceof Server) this.serve(handle);
				if (--count > 0) return;
				limit.cancel();
				resolve();
			});
		});
	}

	private serve(server: Server): void {
		this.servers.push(server);
		server.maxConnections = MAX_CONNECTIONS;
		Object.assign(server, { allowHalfOpen: true });
		server.on('connection', (socket) => this.relay(socket));
	}

	private relay(socket: Socket): void {
		socket.on('error', () => socket.destroy());
		const { localAddress: address = '', localPort: port = 0 } = socket;
		const toNames = address === OWN_NAMESERVER && port === NAMES_PORT;
		if (toNames ? this.nameserver === null : !this.reach.allows(address, port)) return this.refuse(socket, address, port);
		const out = connect({ host: toNames ? this.nameserver! : address, port, allowHalfOpen: true, timeout: SILENT_LIMIT_MS });
		for (const [one, other] of [
			[socket, out],
			[out, socket],
		] as const) {
			this.open.add(one);
			one.once('close', () => this.open.delete(one));
			one.once('error', () => other.resetAndDestroy());
			one.pipe(other);
		}
		out.once('timeout', () => out.destroy(new Error('silent')));
	}

	private refuse(socket: Socket, address: string, port: number): void {
		socket.resetAndDestroy();
		const place = `${address}:${port}`;
		if (this.refused.has(place) || this.refused.size >= MAX_REFUSED_TOLD) return;
		this.refused.add(place);
		this.say(`${place} is not an address of the public internet, or Jibe's own: an admin can list it, "jibe outbound allow ${place}"`);
	}

	/** Asked and answered word for word. */
	private answerNames(names: UdpSocket): void {
		this.names = names;
		names.on('message', (question: Buffer, from: RemoteInfo) => {
			if (this.nameserver === null || this.asking.size >= MAX_CONNECTIONS) return;
			const asked = createSocket(isIPv6(this.nameserver) ? 'udp6' : 'udp4');
			const stop = () => {
				if (this.asking.delete(stop)) asked.close();
			};
			this.asking.add(stop);
			const limit = systemClock.after(NAMES_LIMIT_MS, stop);
			asked.once('close', () => limit.cancel());
			// Whoever hears nothing asks again.
			asked.on('error', stop);
			asked.on('message', (answer) => {
				if (this.asking.has(stop)) names.send(answer, from.port, from.address);
				stop();
			});
			asked.connect(NAMES_PORT, this.nameserver, () => asked.send(question));
		});
	}
}

/** ssh and the web, to any address. None that a command could want to listen on itself: it may not, below 1024. */
const USUAL_PORTS: readonly number[] = [22, 80, 443];
const NAMES_PORT = 53;
const ANYWHERE = '0.0.0.0';
const OWN_NAMESERVER = '127.0.0.1';
const MAX_CONNECTIONS = 1_024;
const MAX_REFUSED_TOLD = 20;
const OPEN_LIMIT_MS = 10_000;
const NAMES_LIMIT_MS = 10_000;
/** Of a connection on which nothing is said. */
const SILENT_LIMIT_MS = 10 * 60_000;
const NOT_MADE =
	"A command that may use the network could not be given a way out of its own (it needs `ip`, Debian's iproute2, and a kernel with network namespaces)";

/** All addresses are at home here. */
const MAKE = 'ip link set lo up; ip route add local default dev lo; exec "$@"';

/** Listens where it was started, and gives the sockets away; the network lasts as long as it does. */
const DOOR = `
const { createServer } = require('node:net');
process.on('disconnect', () => process.exit());
for (const { port, address: host } of JSON.parse(process.argv[1])) {
	const server = createServer().listen({ port, host }, () => process.send('door', server, () => server.close()));
}
const names = require('node:dgram').createSocket('udp4').bind(${NAMES_PORT}, '${OWN_NAMESERVER}', () => process.send('names', names, () => names.close()));
`;

function different(places: Reach['places']): Reach['places'] {
	return [...new Map(places.map((place) => [`${place.address} ${place.port}`, place])).values()];
}

/** The machine's own files, but for who is asked for names. */
function nameFiles(directory: string): Place[] {
	mkdirSync(directory, { recursive: true, mode: 0o755 });
	const resolve = join(directory, 'resolv.conf');
	writeFileSync(resolve, `nameserver ${OWN_NAMESERVER}\n${machineNames().rest}`, { mode: 0o644 });
	const hosts = existsSync('/etc/hosts') ? [{ from: realpathSync('/etc/hosts'), to: '/etc/hosts', readonly: true }] : [];
	return [{ from: resolve, to: '/etc/resolv.conf', readonly: true }, ...hosts];
}

function machineNames(): { nameserver: string | null; rest: string } {
	const lines = existsSync('/etc/resolv.conf') ? readFileSync('/etc/resolv.conf', 'utf8').split('\n') : [];
	const [nameserver = null] = lines.flatMap((line) => /^\s*nameserver\s+(\S+)/.exec(line)?.[1] ?? []);
	return { nameserver, rest: lines.filter((line) => /^\s*(search|domain|options)\s/.test(line)).join('\n') };
}

import { connect as connectTcp, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { connect as connectTls } from 'node:tls';

/**
 * Some thousand servers' ends of control's links, for the bench `fanout`: they say hello, answer pings, and tell when
 * a pointer came. Frames are written and searched by hand, because clients of a library's would be the larger part of
 * what is measured. Servers come on stdin, one JSON object a line; when each heard goes to stdout, once it is asked.
 */
export interface FanoutServer {
	server: string;
	region: string;
	credential: string;
	/** Of this machine's own: each has room for as many connections as there are ports. */
	from: string;
	/** Where control speaks TLS: what this server shows. */
	tls: { key: string; cert: string; ca: string; name: string } | null;
}

const [, , host = '', portText = ''] = process.argv;
const port = Number(portText);
/** Handshakes under way at a time. */
const PARALLEL = 64;
const PONG = Buffer.from([0x8a, 0x80, 0, 0, 0, 0]);
const PING = 0x89;
const HEARD = '"type":"wants"';

/** When each heard of a pointer last. */
const heardAt = new Map<string, number>();
const servers: FanoutServer[] = [];

function open(to: FanoutServer): Promise<void> {
	return new Promise((resolve, reject) => {
		const tcp = connectTcp({ host, port, localAddress: to.from, noDelay: true });
		const socket = to.tls ? connectTls({ socket: tcp, ...to.tls, servername: to.tls.name, checkServerIdentity: () => undefined }) : tcp;
		const lost = (error?: Error) => reject(new Error(`the link of ${to.server} broke: ${error?.message ?? 'closed'}`));
		socket.on('error', lost).on('close', () => {
			lost();
			// Once it was open, nobody waits for the promise any more.
			process.stdout.write(`${JSON.stringify({ lost: to.server })}\n`);
		});
		socket.once(to.tls ? 'secureConnect' : 'connect', () => socket.write(handshake(to)));
		socket.once('data', (bytes: Buffer) => {
			if (!bytes.toString('latin1').startsWith('HTTP/1.1 101')) return reject(new Error(bytes.toString().slice(0, 500)));
			socket.write(hello(to));
			socket.on('data', (more: Buffer) => hear(to, socket, more));
			resolve();
		});
	});
}

function handshake({ credential }: FanoutServer): string {
	const key = Buffer.from('a bench of fans.').toString('base64');
	return [
		'GET /link HTTP/1.1',
		`host: ${host}:${port}`,
		'connection: Upgrade',
		'upgrade: websocket',
		'sec-websocket-version: 13',
		`sec-websocket-key: ${key}`,
		`authorization: Bearer ${credential}`,
		'\r\n',
	].join('\r\n');
}

/** A masked frame, whose mask of zeros leaves it as it is. */
function hello({ server, region }: FanoutServer): Buffer {
	const text = JSON.stringify({ type: 'hello', wire: 1, role: 'depot', server, name: 'depot', regions: [region], known: [] });
	const size = Buffer.alloc(8);
	size[0] = 0x81;
	size[1] = 0x80 | 126;
	size.writeUInt16BE(text.length, 2);
	return Buffer.concat([size, Buffer.from(text)]);
}

function hear({ server }: FanoutServer, socket: Socket, bytes: Buffer): void {
	const at = performance.timeOrigin + performance.now();
	if (bytes[0] === PING) socket.write(PONG);
	else if (bytes.includes(HEARD)) heardAt.set(server, at);
}

async function connectAll(): Promise<void> {
	const left = servers.values();
	await Promise.all(
		Array.from({ length: PARALLEL }, async () => {
			for (const server of left) await open(server);
		}),
	);
}

for await (const line of createInterface({ input: process.stdin })) {
	if (line === 'connect') {
		await connectAll();
		process.stdout.write(`${JSON.stringify({ connected: servers.length })}\n`);
	} else if (line === 'forget') {
		heardAt.clear();
		process.stdout.write(`${JSON.stringify({ forgotten: true })}\n`);
	} else if (line === 'heard') process.stdout.write(`${JSON.stringify({ heard: [...heardAt.values()] })}\n`);
	else servers.push(JSON.parse(line) as FanoutServer);
}
process.exit(0);

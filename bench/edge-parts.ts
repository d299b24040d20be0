import { connect, createServer, type Socket } from 'node:net';
import { systemClock } from '#clock/clock.ts';
import { Edge } from '#edge/edge.ts';
import { createLog } from '#log/log.ts';
import { newSigningKey } from '#wire/credential.ts';
import { releaseSpec } from '#wire/fixture.ts';

/** The three processes of the edge's bench: `node edge-parts.ts instance|edge|load …`. Each prints one line of JSON when it has something to say. */

const BODY = 'x'.repeat(1024);
const APP = 'bench';

function say(value: unknown): void {
	process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** As little work as an instance can do, because it shares a core with the load: one canned answer a request. */
function instance(where: string): void {
	const answer = Buffer.from(
		`HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: ${BODY.length}\r\ndate: Fri, 20 Nov 2026 22:00:00 GMT\r\n\r\n${BODY}`,
	);
	const server = createServer((socket) => {
		socket.setNoDelay(true);
		socket.on('error', () => socket.destroy());
		socket.on('data', (chunk: Buffer) => {
			let at = -1;
			while ((at = chunk.indexOf('\r\n\r\n', at + 1)) !== -1) socket.write(answer);
		});
	});
	const target = /^\d+$/.test(where) ? { port: Number(where), host: '127.0.0.1' } : { path: where };
	server.listen(target, () => {
		const address = server.address();
		say({ port: typeof address === 'object' ? address?.port : null });
	});
}

/** The edge as it is, with statistics, hashing and ids on, without a depot. */
function edge(socketPath: string, directory: string): void {
	const router = new Edge({
		name: 'edge-0',
		server: 'local',
		regions: ['fra'],
		directory,
		publicKey: newSigningKey().publicPem,
		clock: systemClock,
		log: createLog({}, { level: 'error' }),
		send: () => true,
	});
	const key = { region: 'fra', app: APP, environment: 'production' };
	const timings = { healthy: true, pid: 1, reason: null, detail: null, restarts: 0, cold: false, timings: null };
	router.receive({
		type: 'instances',
		server: 'local',
		groups: [{ ...key, instances: [{ id: 'i1', release: 1, state: 'serving', address: `unix:${socketPath}`, ...timings }] }],
	});
	const pointer = { primary: 1, candidate: null, hold: null };
	const want = { ...key, epoch: 1, version: 1, deployment: null, pointer, run: [{ release: 1, instances: 1, as: 'serving' as const }] };
	router.receive({ type: 'wants', wants: [want], releases: [releaseSpec(1, { app: APP })], gift: null });
	// Ends by itself, so that a profiler can write what it saw.
	process.once('SIGTERM', () => process.exit(0));
	const front = router.front('fra');
	front.listen({ port: 0, host: '127.0.0.1' }, () => {
		const address = front.address();
		say({ port: typeof address === 'object' ? address?.port : null });
	});
}

const CONNECTIONS = 64;
const WARM_MS = 2_000;
const MEASURED_MS = 5_000;

/** Closed loop over keep-alive connections; answers are checked by their first bytes and their length. */
async function load(port: number, connections: number): Promise<void> {
	const request = Buffer.from(`GET /notes/1 HTTP/1.1\r\nhost: ${APP}.localhost:${port}\r\nuser-agent: bench\r\naccept: */*\r\n\r\n`);
	const length = await answerLength(port, request);
	let done = 0;
	let wrong = 0;
	for (let i = 0; i < (connections || CONNECTIONS); i++) {
		const socket = await open(port);
		let got = 0;
		socket.on('data', (chunk: Buffer) => {
			if (got === 0 && chunk.toString('latin1', 9, 12) !== '200') wrong++;
			got += chunk.length;
			if (got < length) return;
			if (got > length) wrong++;
			got = 0;
			done++;
			socket.write(request);
		});
		socket.on('close', () => wrong++);
		socket.write(request);
	}
	await new Promise((resolve) => systemClock.after(WARM_MS, () => resolve(null)));
	say({ begins: true });
	const from = systemClock.monotonic();
	const before = done;
	await new Promise((resolve) => systemClock.after(MEASURED_MS, () => resolve(null)));
	say({ requests: done - before, ms: systemClock.monotonic() - from, wrong });
	process.exit(0);
}

function open(port: number): Promise<Socket> {
	return new Promise((resolve, reject) => {
		const socket = connect({ port, host: '127.0.0.1', noDelay: true });
		socket.once('error', reject).once('connect', () => resolve(socket));
	});
}

async function answerLength(port: number, request: Buffer): Promise<number> {
	const socket = await open(port);
	socket.write(request);
	const text = await new Promise<string>((resolve, reject) => {
		let said = '';
		socket.once('close', () => reject(new Error(`closed after: ${said.slice(0, 200)}`)));
		socket.on('data', (chunk: Buffer) => {
			said += chunk.toString('latin1');
			if (said.endsWith(BODY)) resolve(said);
			else if (!said.startsWith('HTTP/1.1 200')) reject(new Error(`a wrong answer: ${said.slice(0, 200)}`));
		});
	});
	socket.destroy();
	return text.length;
}

const [role, ...args] = process.argv.slice(2);
if (role === 'instance') instance(args[0] ?? '');
else if (role === 'edge') edge(args[0] ?? '', args[1] ?? '');
else if (role === 'load') await load(Number(args[0]), Number(args[1]));

import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BenchJibe } from './jibe.ts';
import type { Row } from './row.ts';
import type { Summary } from './swing-load.ts';

/**
 * Swings a region's pointer from release to release, by the whole system, while all kinds of traffic go on: keep-alive
 * requests in an open loop, server-sent events, WebSockets, and uploads that take 10 s. `"warm": "off"` has each old
 * instance drained and killed. A stream that is ended properly and can be opened again is no failure; anything cut is.
 */
export async function bench(): Promise<Row[]> {
	const jibe = new BenchJibe();
	let load: ChildProcess | null = null;
	try {
		const directory = join(jibe.place, APP);
		writeApp(directory);
		await jibe.up(1);
		await release(jibe, directory, 0);
		const url = new URL(jibe.regions[0]?.url ?? '');
		load = spawn(process.execPath, [join(import.meta.dirname, 'swing-load.ts'), url.port, `${APP}.localhost`], {
			stdio: ['ignore', 'pipe', 'inherit'],
		});
		await once(load.stdout ?? load, 'data');
		for (let n = 1; n <= SWINGS; n++) await release(jibe, directory, n);
		const ended = new Promise<string>((resolve) => {
			let said = '';
			load?.stdout?.on('data', (chunk: Buffer) => (said += chunk.toString()));
			load?.once('close', () => resolve(said));
		});
		load.kill('SIGTERM');
		const summary = JSON.parse(await ended) as Summary;
		for (const failure of summary.failures) process.stderr.write(`failed: ${failure}\n`);
		process.stderr.write(`${JSON.stringify({ ...summary.counts, swungBack })}\n`);
		return [
			{ row: 'swing-failed', value: summary.failed, unit: 'count', bar: 0, goal: 0 },
			{ row: 'swing-p999', value: summary.p999Ms, unit: 'ms', bar: 250, goal: 100 },
		];
	} finally {
		load?.kill('SIGKILL');
		await jibe.end();
	}
}

const APP = 'swing';
const SWINGS = Number(process.env['JIBE_BENCH_SWINGS'] ?? 300);

async function release(jibe: BenchJibe, directory: string, n: number): Promise<void> {
	writeFileSync(join(directory, 'src', 'version.ts'), `export const version = 'r${n}';\n`);
	const ran = await jibe.attempt(['deploy'], directory);
	// Where others use the machine too, the probes find a release slow now and then: that is a swing there and back.
	if (ran.exit === SWUNG_BACK) swungBack++;
	else if (ran.exit !== 0) throw new Error(`jibe deploy ended with ${ran.exit}:\n${ran.stderr}`);
}

const SWUNG_BACK = 3;
let swungBack = 0;

function writeApp(directory: string): void {
	mkdirSync(join(directory, 'src'), { recursive: true });
	const config = { app: APP, entry: 'src/server.ts', warm: 'off', drain: { requests: '30s', streams: '500ms' } };
	writeFileSync(join(directory, 'jibe.json'), JSON.stringify(config, null, '\t'));
	writeFileSync(join(directory, 'package.json'), JSON.stringify({ name: APP, type: 'module', private: true }));
	writeFileSync(join(directory, 'src', 'server.ts'), SERVER);
}

const SERVER = `import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { version } from './version.ts';

const page = 'x'.repeat(1000);

export default {
	async fetch(request: Request): Promise<Response> {
		switch (new URL(request.url).pathname) {
			case '/echo':
				return new Response(await request.text());
			case '/upload': {
				let bytes = 0;
				for await (const chunk of request.body ?? []) bytes += chunk.length;
				return new Response(String(bytes));
			}
			case '/events':
				return new Response(events(), { headers: { 'content-type': 'text/event-stream' } });
			default:
				return new Response(version + ' ' + page);
		}
	},

	/** Echoes short text frames. */
	upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
		const accept = createHash('sha1').update(request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64');
		socket.write('HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Accept: ' + accept + '\\r\\n\\r\\n');
		let kept = head;
		socket.on('data', (chunk: Buffer) => {
			kept = Buffer.concat([kept, chunk]);
			while (kept.length >= 6 && kept.length >= 6 + (kept[1]! & 127)) {
				const length = kept[1]! & 127;
				const mask = kept.subarray(2, 6);
				const text = kept.subarray(6, 6 + length).map((byte, i) => byte ^ mask[i & 3]!);
				if ((kept[0]! & 15) === 8) return void socket.end(Buffer.concat([Buffer.from([0x88, length]), text]));
				socket.write(Buffer.concat([Buffer.from([0x81, length]), text]));
				kept = kept.subarray(6 + length);
			}
		});
	},
};

function events(): ReadableStream {
	let timer: ReturnType<typeof setInterval>;
	return new ReadableStream({
		start(controller) {
			const send = () => controller.enqueue(new TextEncoder().encode('data: ' + version + '\\n\\n'));
			send();
			timer = setInterval(send, 100);
		},
		cancel() {
			clearInterval(timer);
		},
	});
}
`;

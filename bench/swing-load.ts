import { Agent, request, type ClientRequest, type IncomingMessage } from 'node:http';
import { WebSocket } from 'ws';
import { Sketch } from '../src/histogram/sketch.ts';
import { systemClock } from '../src/clock/clock.ts';

/** The traffic of the swing bench: `node swing-load.ts PORT HOST`. Says `ready`, and on SIGTERM what became of it all. */
export interface Summary {
	failed: number;
	/** The first ones, in words. */
	failures: string[];
	p999Ms: number;
	counts: Record<string, number>;
}

const [port = '', host = ''] = process.argv.slice(2);
const RATE_PER_S = 200;
const STREAMS = 8;
const SOCKETS = 8;
const UPLOADS = 4;
const UPLOAD_PIECES = 100;
const PIECE = Buffer.alloc(10_000, 'u');
const PIECE_EVERY_MS = 100;
const PING_EVERY_MS = 100;
const MAX_FAILURES_TOLD = 20;
const ANSWER_WITHIN_MS = 10_000;

const agent = new Agent({ keepAlive: true, maxSockets: 64 });
const patient = new Agent({ keepAlive: false });
const latencies = new Sketch();
const counts: Record<string, number> = { requests: 0, posts: 0, streams: 0, sockets: 0, messages: 0, uploads: 0 };
const failures: string[] = [];
let failed = 0;
let stopping = false;

function fail(what: string): void {
	if (stopping) return;
	failed++;
	if (failures.length < MAX_FAILURES_TOLD) failures.push(what);
}

function count(what: string): void {
	counts[what] = (counts[what] ?? 0) + 1;
}

function call(method: string, path: string, of: Agent, onAnswer: (res: IncomingMessage) => void): ClientRequest {
	const req = request({ host: '127.0.0.1', port, path, method, agent: of, headers: { host } }, onAnswer);
	req.on('error', (error) => fail(`${method} ${path}: ${error.message}`));
	return req;
}

function whole(res: IncomingMessage, what: string, done: (body: string) => void): void {
	let body = '';
	res.setEncoding('utf8');
	res.on('data', (text: string) => (body += text));
	res.on('error', (error) => fail(`${what}: cut off: ${error.message}`));
	res.on('end', () => {
		if (res.statusCode !== 200) fail(`${what}: ${res.statusCode} ${body.slice(0, 100)}`);
		else done(body);
	});
}

/** Sent when they are due, whatever became of those before. */
function openLoop(): void {
	const from = systemClock.monotonic();
	let sent = 0;
	systemClock.every(1, () => {
		const due = Math.floor(((systemClock.monotonic() - from) * RATE_PER_S) / 1000);
		for (; sent < due; sent++) {
			const dueAt = from + (sent * 1000) / RATE_PER_S;
			if (sent % 4 === 0) post(dueAt, `n${sent}`);
			else get(dueAt);
		}
	});
}

function get(dueAt: number): void {
	const req = call('GET', '/', agent, (res) =>
		whole(res, 'GET /', (body) => {
			count('requests');
			latencies.add(systemClock.monotonic() - dueAt);
			if (!/^r\d+ x{1000}$/.test(body)) fail(`GET /: a wrong body: ${body.slice(0, 40)}`);
		}),
	);
	req.setTimeout(ANSWER_WITHIN_MS, () => req.destroy(new Error('no answer in time')));
	req.end();
}

function post(dueAt: number, text: string): void {
	const req = call('POST', '/echo', agent, (res) =>
		whole(res, 'POST /echo', (body) => {
			count('posts');
			latencies.add(systemClock.monotonic() - dueAt);
			if (body !== text) fail(`POST /echo: a wrong body: ${body.slice(0, 40)}`);
		}),
	);
	req.setTimeout(ANSWER_WITHIN_MS, () => req.destroy(new Error('no answer in time')));
	req.end(text);
}

/** A stream may be ended by its release; then it is opened again at once. */
function stream(): void {
	if (stopping) return;
	const req = call('GET', '/events', patient, (res) => {
		count('streams');
		if (res.statusCode !== 200) fail(`GET /events: ${res.statusCode}`);
		res.resume();
		res.on('error', (error) => fail(`GET /events: cut off: ${error.message}`));
		res.on('close', stream);
	});
	req.on('error', () => systemClock.after(PING_EVERY_MS, stream));
	req.end();
}

/** 1012 says that the service restarts: any other end is a failure, and so is an answer that does not come. */
function socket(): void {
	if (stopping) return;
	const ws = new WebSocket(`ws://127.0.0.1:${port}/ws`, { headers: { host } });
	let asked = 0;
	const timer = systemClock.every(PING_EVERY_MS, () => {
		if (ws.readyState !== WebSocket.OPEN) return;
		ws.send(`m${++asked}`);
	});
	ws.on('open', () => count('sockets'));
	ws.on('message', (data: Buffer) => {
		count('messages');
		if (!/^m\d+$/.test(data.toString())) fail(`WebSocket: a wrong message: ${data.toString().slice(0, 40)}`);
	});
	ws.on('error', (error) => fail(`WebSocket: ${error.message}`));
	ws.on('close', (code) => {
		timer.cancel();
		if (code !== 1012) fail(`WebSocket: closed with ${code}`);
		socket();
	});
}

function upload(): void {
	if (stopping) return;
	let sent = 0;
	let over = false;
	const again = (): void => {
		if (over) return;
		over = true;
		timer.cancel();
		upload();
	};
	const req = call('POST', '/upload', patient, (res) => {
		whole(res, 'POST /upload', (body) => {
			count('uploads');
			if (body !== String(UPLOAD_PIECES * PIECE.length)) fail(`POST /upload: ${body} bytes arrived`);
		});
		res.on('close', again);
	});
	req.on('error', again);
	const timer = systemClock.every(PIECE_EVERY_MS, () => {
		if (over || sent >= UPLOAD_PIECES) return;
		req.write(PIECE);
		if (++sent === UPLOAD_PIECES) req.end();
	});
}

openLoop();
for (let i = 0; i < STREAMS; i++) stream();
for (let i = 0; i < SOCKETS; i++) socket();
for (let i = 0; i < UPLOADS; i++) systemClock.after(i * 2_500, upload);
systemClock.after(2 ** 30, () => {});
process.stdout.write('ready\n');
process.once('SIGTERM', () => {
	stopping = true;
	const p999Ms = Math.round((latencies.quantile(0.999) ?? 0) * 10) / 10;
	process.stdout.write(JSON.stringify({ failed, failures, p999Ms, counts } satisfies Summary), () => process.exit(0));
});

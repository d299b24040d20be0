import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import { connect } from 'node:tls';
import { once } from 'node:events';
import { after, before, test } from 'node:test';
import { openRaw, raw, readUntil } from '../src/edge/fixture.ts';
import { tinyApp, type App } from './fixtures/app.ts';
import { eventually, startJibe, type Jibe } from './fixtures/jibe.ts';
import { smuggling } from './fixtures/smuggling.ts';

/** Bytes that are no honest HTTP, sent to a whole installation: to its edge, on the way to an app, and to control. */

const HOST = 'app.localhost';
/** Remembers what reached it: whole requests only. */
const SOURCE = `
const seen: string[] = [];
async function take(request: Request): Promise<Response> {
	const { pathname } = new URL(request.url);
	if (pathname === '/healthz') return new Response('well');
	if (pathname === '/seen') return Response.json(seen);
	const body = await request.text();
	seen.push(request.method + ' ' + pathname + ' ' + body.length);
	return new Response('reached');
}
export default { fetch: take };
`;
/** Connections of each kind. */
const LORISES = 100;
const DRIP_MS = 500;

let jibe: Jibe;
let app: App;
let dripping: NodeJS.Timeout;
let lorises: { socket: Socket; said: Promise<string> }[] = [];
/** Connected for TLS, and silent from then on. */
let mutes: Socket[] = [];

before(async () => {
	jibe = await startJibe({ regions: 1, listen: true });
	app = tinyApp('app', SOURCE, { health: { path: '/healthz' } });
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	// Their time runs while the other stories are told.
	const kinds = [() => openRaw(edgePort()), () => openRaw(controlPort()), openTls];
	lorises = await Promise.all(kinds.flatMap((open) => Array.from({ length: LORISES }, () => slowLoris(open))));
	dripping = setInterval(() => lorises.forEach(({ socket }) => socket.writable && socket.write('a')), DRIP_MS);
	mutes = await Promise.all(Array.from({ length: LORISES }, () => openRaw(jibe.tlsPort)));
});
after(async () => {
	clearInterval(dripping);
	[...lorises.map(({ socket }) => socket), ...mutes].forEach((socket) => socket.destroy());
	app[Symbol.dispose]();
	await jibe.stop();
});

const edgePort = () => Number(new URL(jibe.edgeUrl(0)).port);
const controlPort = () => Number(new URL(jibe.url).port);

/** Says one more letter of its head from time to time, so as never to be idle. */
async function slowLoris(open: () => Promise<Socket>): Promise<{ socket: Socket; said: Promise<string> }> {
	const socket = await open();
	socket.write(`GET / HTTP/1.1\r\nHost: ${HOST}\r\nX-Slow: `);
	return { socket, said: readUntil(socket) };
}

async function openTls(): Promise<Socket> {
	const socket = connect({ port: jibe.tlsPort, host: '127.0.0.1', rejectUnauthorized: false });
	socket.on('error', () => socket.destroy());
	await once(socket, 'secureConnect');
	return socket;
}

const seen = async () => JSON.parse((await jibe.request(0, HOST, '/seen')).body) as string[];
const answersIn = (text: string) => text.match(/HTTP\/1\.1 \d{3}/g) ?? [];

test('requests on whose end two parsers might disagree: refused by the edge, none reaches the app', async () => {
	const before = await seen();
	for (const [name, bytes] of Object.entries(smuggling(HOST))) {
		const answers = answersIn(await raw(edgePort(), bytes));
		assert.equal(answers.length, 1, name);
		assert.match(answers[0], / (400|431|502)$/, name);
	}
	assert.deepEqual(await seen(), before);
	assert.equal((await jibe.request(0, HOST, '/after', { method: 'POST', body: '12345' })).body, 'reached');
	assert.deepEqual(await seen(), [...before, 'POST /after 5']);
});

test('the same, sent to control: nothing but refusals', async () => {
	for (const [name, bytes] of Object.entries(smuggling(new URL(jibe.url).host, '/healthz'))) {
		const socket = await openRaw(controlPort());
		socket.end(bytes, 'latin1');
		const answers = answersIn(await readUntil(socket));
		assert.ok(answers.length > 0, name);
		for (const answer of answers) assert.match(answer, / 4\d\d$/, name);
	}
	await jibe.expect(0, ['status', 'app', '--json']);
});

test('a head of more than 16 KiB is a 431, at the edge and at control', async () => {
	for (const port of [edgePort(), controlPort()]) {
		const head = `GET / HTTP/1.1\r\nHost: ${HOST}\r\n`;
		assert.deepEqual(answersIn(await raw(port, `${head}X-Large: ${'a'.repeat(17_000)}\r\n\r\n`)), ['HTTP/1.1 431']);
		assert.deepEqual(answersIn(await raw(port, `GET /${'a'.repeat(20_000)}`)), ['HTTP/1.1 431']);
	}
});

test('an upload that breaks off reaches neither the app as a whole nor control as a deployment', async () => {
	const before = [await seen(), await jibe.newest('app')];
	const upload = `POST /api/v1/apps/app/deployments HTTP/1.1\r\nHost: ${new URL(jibe.url).host}\r\nAuthorization: Bearer ${jibe.token}\r\n`;
	const cut = [
		[edgePort(), `POST /cut HTTP/1.1\r\nHost: ${HOST}\r\nContent-Length: 1000\r\n\r\nbegun`],
		[edgePort(), `POST /cut HTTP/1.1\r\nHost: ${HOST}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n`],
		[controlPort(), `${upload}Content-Type: application/vnd.jibe.upload\r\nContent-Length: 1000\r\n\r\nbegun`],
	] as const;
	for (const [port, bytes] of cut) {
		const socket = await openRaw(port);
		socket.end(bytes);
		await readUntil(socket);
	}
	assert.deepEqual([await seen(), await jibe.newest('app')], before);
});

test('slow-loris: heads that drip in and handshakes that never come are cut off, and users are answered meanwhile', async () => {
	let answered = 0;
	const cut = Promise.all(lorises.map(({ said }) => said));
	const gone = Promise.all(mutes.filter((socket) => !socket.destroyed).map((socket) => once(socket, 'close')));
	let over = false;
	void Promise.all([cut, gone]).then(() => (over = true));
	await eventually(async () => {
		assert.equal((await jibe.request(0, HOST, '/')).status, 200);
		await jibe.api('/api/v1/apps');
		answered++;
		return over ? true : null;
	}, 'an end of all connections that never say what they want');
	assert.ok(answered > 0);
	for (const said of await cut) assert.match(said, /^(HTTP\/1\.1 408 |$)/);
	await jibe.expect(0, ['status', 'app', '--json']);
});

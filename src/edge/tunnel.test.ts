import assert from 'node:assert/strict';
import { on, once } from 'node:events';
import { test } from 'node:test';
import { WebSocket, WebSocketServer } from 'ws';
import { openRaw, raw, readUntil, reportOf, serving, specOf, startInstance, wantOf, wantsOf } from './fixture.ts';
import type { RunningInstance } from './fixture.ts';

function echo(instance: RunningInstance, name: string): WebSocketServer {
	const sockets = new WebSocketServer({ server: instance.server });
	sockets.on('connection', (socket, req) => {
		socket.send(`${name} ${req.url} ${String(req.headers['x-forwarded-for'])} ${String(req.headers['x-jibe-x'])}`);
		socket.on('message', (data, binary) => socket.send(data, { binary }));
	});
	return sockets;
}

interface Client {
	socket: WebSocket;
	next(): Promise<string>;
}

function open(port: number, path = '/ws'): Client {
	const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`, { headers: { host: 'notes.localhost', 'x-jibe-x': 'forged' } });
	const messages = on(socket, 'message');
	return {
		socket,
		async next() {
			const { value } = (await messages.next()) as { value: [Buffer] };
			return value[0].toString();
		},
	};
}

test('a WebSocket passes both ways and stays with its release', async (t) => {
	const stage = await serving(t, (_req, res) => res.end());
	const sockets = echo(stage.instance, 'one');
	const client = open(stage.port);
	const [upgraded] = (await once(client.socket, 'upgrade')) as [{ headers: Record<string, string> }];
	assert.equal(upgraded.headers['x-jibe-release'], 'v1');
	assert.equal(await client.next(), 'one /ws 127.0.0.1 undefined');
	const large = 'x'.repeat(500_000);
	client.socket.send(large);
	assert.equal(await client.next(), large);

	const second = await startInstance(t, 2, (_req, res) => res.end());
	echo(second, 'two');
	stage.tell(reportOf(stage.instance.as('draining'), second.as('serving')));
	stage.tell(wantsOf(wantOf(2, 2), specOf(2)));
	client.socket.send('still here');
	assert.equal(await client.next(), 'still here');
	const later = open(stage.port);
	assert.match(await later.next(), /^two/);
	for (const socket of sockets.clients) socket.close(1012);
	const [code] = (await once(client.socket, 'close')) as [number];
	assert.equal(code, 1012);
	later.socket.terminate();
});

test('either side may go: the other is told', async (t) => {
	const stage = await serving(t, (_req, res) => res.end());
	const sockets = echo(stage.instance, 'one');
	const client = open(stage.port);
	await client.next();
	const [inside] = [...sockets.clients];
	assert.ok(inside);
	client.socket.terminate();
	await once(inside, 'close');

	const other = open(stage.port);
	await other.next();
	for (const socket of sockets.clients) socket.terminate();
	await once(other.socket, 'close');
});

test('bytes sent right behind the request are not lost', async (t) => {
	const stage = await serving(t, (_req, res) => res.end());
	stage.instance.server.on('upgrade', (_req, socket, head: Buffer) => {
		socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi:');
		socket.write(head);
		socket.pipe(socket);
	});
	const socket = await openRaw(stage.port);
	socket.write('GET /ws HTTP/1.1\r\nHost: notes.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly');
	assert.match(await readUntil(socket, 'hi:early'), /^HTTP\/1\.1 101 [\s\S]*hi:early$/);
	socket.destroy();
});

test('an app without WebSockets: 426; its refusals pass; an unknown host is 404', async (t) => {
	const stage = await serving(t, (req, res) => res.writeHead(req.url === '/no' ? 403 : 200).end('plain'));
	const ask = (path: string, host = 'notes.localhost'): Promise<string> =>
		raw(stage.port, `GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`);
	assert.match(await ask('/'), /^HTTP\/1\.1 426 [\s\S]*no_upgrade/);
	assert.match(await ask('/no'), /^HTTP\/1\.1 403 [\s\S]*plain/);
	assert.match(await ask('/', 'nope.localhost'), /^HTTP\/1\.1 404 [\s\S]*unknown_app/);
});

test('offers of other protocols are not taken up', async (t) => {
	const stage = await serving(t, (req, res) => res.end(JSON.stringify(req.headers)));
	const text = await raw(
		stage.port,
		'GET / HTTP/1.1\r\nHost: notes.localhost\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n',
	);
	assert.match(text, /^HTTP\/1\.1 200 /);
	assert.doesNotMatch(text, /h2c|http2-settings/i);
});

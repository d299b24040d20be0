import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request } from 'node:http';
import { test } from 'node:test';
import { systemClock } from '#clock/clock.ts';
import { ask, openRaw, raw, readUntil, serving } from './fixture.ts';

test('a request and its answer pass through, with what the edge adds', async (t) => {
	const stage = await serving(t, (req, res) => {
		res.setHeader('x-seen', JSON.stringify({ url: req.url, method: req.method, headers: req.headers }));
		res.setHeader('x-jibe-release', 'v999');
		res.end('hello');
	});
	const reply = await ask(stage.port, {
		host: 'notes.localhost:8080',
		path: '/a?b=c',
		headers: {
			'x-jibe-role': 'admin',
			'x-forwarded-for': '1.2.3.4',
			'x-forwarded-proto': 'https',
			'x-forwarded-port': '443',
			forwarded: 'for=1.2.3.4',
			'x-request-id': 'mine',
			'x-own': 'kept',
			te: 'trailers',
		},
	});
	assert.equal(reply.status, 200);
	assert.equal(reply.body, 'hello');
	assert.equal(reply.headers['x-jibe-release'], 'v1');
	assert.ok(reply.headers.date);
	const seen = JSON.parse(String(reply.headers['x-seen'])) as { url: string; headers: Record<string, string> };
	assert.equal(seen.url, '/a?b=c');
	assert.equal(seen.headers['host'], 'notes.localhost:8080');
	assert.equal(seen.headers['x-forwarded-for'], '127.0.0.1');
	assert.equal(seen.headers['x-forwarded-host'], 'notes.localhost:8080');
	assert.equal(seen.headers['x-forwarded-proto'], 'http');
	assert.equal(seen.headers['x-own'], 'kept');
	assert.equal(seen.headers['x-jibe-role'], undefined);
	assert.equal(seen.headers['te'], undefined);
	assert.equal(seen.headers['x-forwarded-port'], undefined);
	assert.equal(seen.headers['forwarded'], undefined);
	assert.notEqual(seen.headers['x-request-id'], 'mine');
	assert.equal(seen.headers['x-request-id'], reply.headers['x-request-id']);
});

test('a trusted proxy is believed', async (t) => {
	const stage = await serving(t, (req, res) => res.end(JSON.stringify(req.headers)), { trustedProxies: ['127.0.0.0/8'] });
	const headers = {
		'x-forwarded-for': '203.0.113.9',
		'x-forwarded-proto': 'https',
		'x-forwarded-host': 'notes.example.com',
		'x-request-id': 'abc-1',
	};
	const seen = JSON.parse((await ask(stage.port, { headers })).body) as Record<string, string>;
	assert.equal(seen['x-forwarded-for'], '203.0.113.9, 127.0.0.1');
	assert.equal(seen['x-forwarded-proto'], 'https');
	assert.equal(seen['x-forwarded-host'], 'notes.example.com');
	assert.equal(seen['x-request-id'], 'abc-1');
});

test('connections are kept alive on both sides', async (t) => {
	let connections = 0;
	const stage = await serving(t, (_req, res) => res.end('x'));
	stage.instance.server.on('connection', () => connections++);
	const socket = await openRaw(stage.port);
	for (let i = 0; i < 20; i++) {
		socket.write('GET / HTTP/1.1\r\nHost: notes.localhost\r\n\r\n');
		assert.match(await readUntil(socket, '\r\n\r\nx'), /^HTTP\/1\.1 200 OK/);
	}
	socket.destroy();
	assert.equal(connections, 1);
});

test('bodies pass both ways: with a length, chunked, empty, and large', async (t) => {
	const stage = await serving(t, (req, res) => {
		res.setHeader('x-framing', `${req.headers['content-length']} ${req.headers['transfer-encoding']}`);
		req.pipe(res);
	});
	const large = 'x'.repeat(3_000_000);
	for (const body of ['', 'a', large]) {
		const sized = await ask(stage.port, { method: 'POST', body, headers: { 'content-length': String(body.length) } });
		assert.equal(sized.body, body);
		const chunked = await ask(stage.port, { method: 'POST', body, headers: { 'transfer-encoding': 'chunked' } });
		assert.equal(chunked.body, body);
		if (body !== '') assert.equal(chunked.headers['x-framing'], 'undefined chunked');
	}
});

test('HEAD, 204 and 304 have no body and keep the connection in step', async (t) => {
	const stage = await serving(t, (req, res) => {
		if (req.url === '/204') res.writeHead(204).end();
		else if (req.url === '/304') res.writeHead(304, { etag: '"1"' }).end();
		else res.writeHead(200, { 'content-length': '5' }).end(req.method === 'HEAD' ? undefined : 'hello');
	});
	const text = await raw(
		stage.port,
		['HEAD / ', 'GET /204 ', 'GET /304 ', 'GET /last '].map((line) => `${line}HTTP/1.1\r\nHost: notes.localhost\r\n\r\n`).join(''),
		'hello',
	);
	assert.deepEqual(
		[...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map((match) => match[1]),
		['200', '204', '304', '200'],
	);
	assert.equal(text.match(/content-length: 5/gi)?.length, 2);
	assert.equal(text.split('hello').length, 2);
});

test('server-sent events come one by one, long before the answer ends', async (t) => {
	const { promise: goOn, resolve } = Promise.withResolvers<void>();
	const stage = await serving(t, (_req, res) => {
		res.writeHead(200, { 'content-type': 'text/event-stream' });
		res.write('data: 1\n\n');
		void goOn.then(() => res.end('data: 2\n\n'));
	});
	const socket = await openRaw(stage.port);
	socket.write('GET / HTTP/1.1\r\nHost: notes.localhost\r\n\r\n');
	const first = await readUntil(socket, 'data: 1\n\n');
	assert.ok(!first.includes('data: 2'));
	resolve();
	assert.match(await readUntil(socket, '0\r\n\r\n'), /data: 2/);
	socket.destroy();
});

test('headers alone are passed on before any of the body', async (t) => {
	const { promise: goOn, resolve } = Promise.withResolvers<void>();
	const stage = await serving(t, (_req, res) => {
		res.writeHead(200, { 'content-type': 'text/event-stream' });
		res.flushHeaders();
		void goOn.then(() => res.end('late'));
	});
	const socket = await openRaw(stage.port);
	socket.write('GET / HTTP/1.1\r\nHost: notes.localhost\r\n\r\n');
	assert.match(await readUntil(socket, '\r\n\r\n'), /text\/event-stream/);
	resolve();
	assert.match(await readUntil(socket, '0\r\n\r\n'), /late/);
	socket.destroy();
});

test('a client that does not read stops the instance from writing', async (t) => {
	const total = 64 * 1024 * 1024;
	let written = 0;
	const { promise: blocked, resolve: onBlocked } = Promise.withResolvers<void>();
	const stage = await serving(t, (_req, res) => {
		res.writeHead(200, { 'content-length': String(total) });
		const piece = Buffer.alloc(65_536);
		const more = (): void => {
			while (written < total) {
				written += piece.length;
				if (!res.write(piece)) {
					const stuck = systemClock.after(300, onBlocked);
					res.once('drain', () => {
						stuck.cancel();
						more();
					});
					return;
				}
			}
			res.end();
		};
		more();
	});
	const socket = await openRaw(stage.port);
	socket.pause();
	socket.write('GET / HTTP/1.1\r\nHost: notes.localhost\r\nConnection: close\r\n\r\n');
	await blocked;
	assert.ok(written < total, `${written} bytes were written for a client that read none`);
	let got = 0;
	socket.on('data', (chunk: Buffer) => (got += chunk.length)).resume();
	await once(socket, 'close');
	assert.ok(got > total);
});

test('100-continue: the instance decides whether the body is sent', async (t) => {
	const stage = await serving(t, (req, res) => req.pipe(res));
	stage.instance.server.on('checkContinue', (req, res) => {
		if (req.url === '/no') res.writeHead(413).end();
		else {
			res.writeContinue();
			req.pipe(res);
		}
	});
	const head = (path: string): string =>
		`POST ${path} HTTP/1.1\r\nHost: notes.localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n`;
	const socket = await openRaw(stage.port);
	socket.write(head('/yes'));
	assert.match(await readUntil(socket, '\r\n\r\n'), /^HTTP\/1\.1 100 Continue/);
	socket.write('body');
	assert.match(await readUntil(socket, 'body'), /^HTTP\/1\.1 200/);
	socket.destroy();
	const refused = await raw(stage.port, head('/no'));
	assert.match(refused, /^HTTP\/1\.1 413/);
	assert.match(refused, /connection: close/i);
});

test('an answer before the whole body was sent reaches the client', async (t) => {
	const stage = await serving(t, (_req, res) => res.writeHead(413, { connection: 'close' }).end('too much'));
	const socket = await openRaw(stage.port);
	socket.write('POST / HTTP/1.1\r\nHost: notes.localhost\r\nContent-Length: 1000000\r\n\r\nsome');
	assert.match(await readUntil(socket, 'too much'), /^HTTP\/1\.1 413/);
	socket.destroy();
	assert.equal((await ask(stage.port)).status, 413);
});

test('trailers are dropped, both ways', async (t) => {
	const stage = await serving(t, (req, res) => {
		req.resume().on('end', () => {
			res.writeHead(200, { trailer: 'x-sum' });
			res.write(JSON.stringify({ trailers: req.trailers, trailer: req.headers.trailer ?? null }));
			res.addTrailers({ 'x-sum': '1' });
			res.end();
		});
	});
	const text = await raw(
		stage.port,
		'POST / HTTP/1.1\r\nHost: notes.localhost\r\nTrailer: x-t\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-t: evil\r\n\r\n',
		'}',
	);
	assert.match(text, /\{"trailers":\{\},"trailer":null\}/);
	assert.doesNotMatch(text, /x-sum/i);
});

test('headers that the connection declares its own stay behind', async (t) => {
	const stage = await serving(t, (req, res) => res.end(JSON.stringify(req.headers)));
	const reply = await ask(stage.port, {
		headers: { connection: 'close, x-hop, content-length, host, x-forwarded-for', 'x-hop': '1', 'keep-alive': 'timeout=1' },
	});
	const seen = JSON.parse(reply.body) as Record<string, string>;
	assert.equal(seen['x-hop'], undefined);
	assert.equal(seen['keep-alive'], undefined);
	assert.equal(seen['host'], 'notes.localhost');
	assert.equal(seen['x-forwarded-for'], '127.0.0.1');
});

test('an instance that dies in the middle of its answer: the client sees that it was cut off', async (t) => {
	const stage = await serving(t, (_req, res) => {
		res.writeHead(200, { 'content-length': '100' });
		res.write('half', () => res.socket?.destroy());
	});
	await assert.rejects(ask(stage.port), { code: 'ECONNRESET' });
	const stats = await stage.saw('stats', (message) => message.rows.some((row) => row.errors === 1));
	assert.equal(stats.rows[0]?.requests, 1);
});

test('an instance that closes without answering: asked again if that is safe, else 502', async (t) => {
	let asked = 0;
	const stage = await serving(t, (req, res) => {
		asked++;
		if (asked < 3) req.socket.destroy();
		else res.end('third');
	});
	assert.equal((await ask(stage.port)).body, 'third');
	asked = 0;
	const post = await ask(stage.port, { method: 'POST', body: 'x' });
	assert.equal(post.status, 502);
	assert.equal(asked, 1);
});

test('answers that are no HTTP, and headers that no header may have, are a 502', async (t) => {
	const bad = [
		'nonsense\r\n\r\n',
		'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n',
		'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n',
		'HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n',
		'HTTP/1.1 200 OK\r\nx: a\x01b\r\ncontent-length: 1\r\n\r\na',
		'HTTP/1.1 200 OK\r\n folded: x\r\n\r\n',
		'HTTP/1.1 101 Switching Protocols\r\n\r\n',
		`HTTP/1.1 200 OK\r\nx: ${'a'.repeat(70_000)}\r\n\r\n`,
	];
	let next = '';
	const stage = await serving(t, (req) => req.socket.end(next, 'latin1'));
	for (next of bad) assert.equal((await ask(stage.port, { method: 'POST' })).status, 502, next.slice(0, 60));
});

test('more than was asked for is not taken for the next answer', async (t) => {
	const stage = await serving(t, (req) =>
		req.socket.write('HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil'),
	);
	for (let i = 0; i < 3; i++) assert.equal((await ask(stage.port)).body, 'a');
});

test('a client that leaves takes its request along', async (t) => {
	const { promise: aborted, resolve } = Promise.withResolvers<void>();
	const { promise: began, resolve: begin } = Promise.withResolvers<void>();
	const stage = await serving(t, (_req, res) => {
		res.on('close', resolve);
		begin();
	});
	const req = request({ host: '127.0.0.1', port: stage.port, headers: { host: 'notes.localhost' } });
	req.on('error', () => {});
	req.end();
	await began;
	req.destroy();
	await aborted;
});

test('the target of an absolute request names the host', async (t) => {
	const stage = await serving(t, (req, res) => res.end(`${req.headers.host} ${req.url}`));
	const text = await raw(stage.port, 'GET http://notes.localhost/x?y HTTP/1.1\r\nHost: other.localhost\r\nConnection: close\r\n\r\n');
	assert.match(text, /notes\.localhost \/x\?y/);
});

test('HTTP/1.0 clients are answered and closed', async (t) => {
	const stage = await serving(t, (_req, res) => {
		res.write('a');
		res.end('b');
	});
	const text = await raw(stage.port, 'GET / HTTP/1.0\r\nHost: notes.localhost\r\n\r\n');
	assert.match(text, /\r\n\r\nab$/);
});

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { WebSocket } from 'ws';
import { systemClock } from '#clock/clock.ts';
import { createLog } from '#log/log.ts';
import { acceptLinks } from './accept.ts';
import type { LinkHandlers, ServerLink } from './accept.ts';
import { issueCredential, newSigningKey, readCredential } from './credential.ts';
import type { Claims } from './credential.ts';
import { backoffMs, dial } from './link.ts';
import { WIRE_VERSION } from './region.ts';
import type { DownMessage, Hello, UpMessage } from './region.ts';

const key = newSigningKey();
const log = createLog({}, { write: () => {} });
const clock = systemClock;
const claims: Claims = { installation: 'i', role: 'edge', server: 'local', regions: ['fra', 'ams'], expires: 4_000_000_000 };
const hello: Hello = { type: 'hello', wire: WIRE_VERSION, role: 'edge', server: 'local', name: 'edge-0', regions: ['fra'], known: [] };
const applied: UpMessage = { type: 'applied', server: 'local', edge: 'edge-0', items: [] };
const settled: DownMessage = { type: 'settled', items: [{ region: 'fra', app: 'notes', environment: 'production', epoch: 1, version: 7 }] };

test('a link says hello, carries messages both ways, and passes the text of a frame on unchanged', async (t) => {
	const peer = await listen(t);
	const down = promised<[DownMessage, string]>();
	const link = dialTo(t, peer, { onMessage: (message, text) => down.resolve([message, text]) });
	const server = await peer.nextLink();
	assert.deepEqual(server.hello, hello);
	const frame = '{"type":"settled","items":[{"region":"fra","app":"notes","environment":"production","epoch":1,"version":7,"later":true}]}';
	assert.equal(server.sendFrame(frame), true);
	assert.deepEqual(await down.promise, [settled, frame]);
	assert.equal(link.send(applied), true);
	assert.deepEqual(await peer.nextMessage(), applied);
});

test('unknown types and malformed frames are dropped and the link lives on', async (t) => {
	const peer = await listen(t);
	const down = promised<DownMessage>();
	dialTo(t, peer, { onMessage: down.resolve });
	const server = await peer.nextLink();
	for (const frame of ['{"type":"from-the-future"}', 'not json', '{"type":"settled","items":3}', '[]', 'null']) server.sendFrame(frame);
	server.send(settled);
	assert.deepEqual(await down.promise, settled);
});

test('a link over a unix socket comes back after its peer went away', async (t) => {
	const dir = mkdtempSync(join(tmpdir(), 'jibe-link-'));
	t.after(() => rmSync(dir, { recursive: true }));
	const path = join(dir, 'd.sock');
	const first = await listen(t, path);
	let ups = 0;
	const downs: string[] = [];
	dialTo(t, first, { onUp: () => ups++, onDown: (reason) => downs.push(reason) });
	await first.nextLink();
	await first.stop();
	const second = await listen(t, path);
	await second.nextLink();
	assert.equal(ups, 2);
	assert.equal(downs.length, 1);
});

test('a bad credential is refused with 401 and a reason', async (t) => {
	const peer = await listen(t);
	const other = issueCredential(claims, newSigningKey().privatePem);
	const answer = await refusal(peer.url, { authorization: `Bearer ${other}` });
	assert.equal(answer.status, 401);
	assert.match(answer.body, /bad_credential/);
	assert.equal((await refusal(peer.url, {})).status, 401);
});

test('a page of another site, a rebound Host and another path are refused', async (t) => {
	const peer = await listen(t);
	const authorization = `Bearer ${issueCredential(claims, key.privatePem)}`;
	assert.equal((await refusal(peer.url, { authorization, origin: 'http://evil.example' })).status, 403);
	assert.equal((await refusal(peer.url, { authorization, host: 'evil.example' })).status, 421);
	assert.equal((await refusal(peer.url.replace('/link', '/other'), { authorization })).status, 404);
});

test('a hello beyond the credential ends the connection with what the credential is for', async (t) => {
	const peer = await listen(t);
	const down = promised<string>();
	dialTo(t, peer, { hello: () => ({ ...hello, regions: ['fra', 'lhr'] }), onDown: down.resolve });
	assert.match(await down.promise, /not for region lhr/);
});

test('a peer that stops reading is dropped instead of filling memory', async (t) => {
	const peer = await listen(t);
	const raw = new WebSocket(peer.url, { headers: { authorization: `Bearer ${issueCredential(claims, key.privatePem)}` } });
	t.after(() => raw.terminate());
	await once(raw, 'open');
	raw.send(JSON.stringify(hello));
	const server = await peer.nextLink();
	raw.pause();
	const frame = JSON.stringify({ type: 'settled', items: [], filler: 'x'.repeat(8 * 1024 * 1024) });
	let sent = 0;
	while (server.sendFrame(frame)) sent++;
	assert.ok(sent >= 7 && sent < 20, `${sent} frames of 8 MiB were taken`);
	await peer.closed();
});

test('frames of every length arrive whole and in order, between messages', async (t) => {
	const peer = await listen(t);
	const all = promised<string[]>();
	const came: string[] = [];
	const sizes = [0, 60, 90, 100, 60_000, 65_480, 65_536, 200_000];
	dialTo(t, peer, { onMessage: (_message, text) => came.push(text) === 2 * sizes.length && all.resolve(came) });
	const server = await peer.nextLink();
	const frames = sizes.map((size) => JSON.stringify({ type: 'settled', items: [], filler: 'é'.repeat(size / 2) }));
	for (const frame of frames) {
		server.sendFrame(frame);
		server.send(settled);
	}
	assert.deepEqual(
		await all.promise,
		frames.flatMap((frame) => [frame, JSON.stringify(settled)]),
	);
});

test('a frame beyond the limit is not sent', async (t) => {
	const peer = await listen(t);
	dialTo(t, peer, {});
	const server = await peer.nextLink();
	assert.equal(server.sendFrame('x'.repeat(33 * 1024 * 1024)), false);
});

test('back-off grows from 50 ms to 5 s, never beyond', () => {
	for (let attempt = 0; attempt < 100; attempt++) {
		const delayMs = backoffMs(attempt);
		assert.ok(delayMs >= 25 && delayMs <= 5_000, `${delayMs}`);
	}
	assert.ok(backoffMs(30) >= 2_500);
});

interface Peer {
	url: string;
	nextLink(): Promise<ServerLink>;
	nextMessage(): Promise<UpMessage>;
	closed(): Promise<string>;
	stop(): Promise<void>;
}

async function listen(t: TestContext, path?: string): Promise<Peer> {
	const server = createServer();
	const links = queue<ServerLink>();
	const messages = queue<UpMessage>();
	const ends = queue<string>();
	const handlers: LinkHandlers = { onMessage: messages.push, onClosed: ends.push };
	const acceptor = acceptLinks(server, {
		path: '/link',
		authenticate: (request) => readCredential(request.headers.authorization?.slice(7) ?? '', key.publicPem, clock.now()),
		hostAllowed: ({ headers }) => /^(127\.0\.0\.1(:\d+)?|localhost)$/.test(headers.host ?? ''),
		onLink: (link) => {
			links.push(link);
			return handlers;
		},
		log,
		clock,
	});
	if (path) server.listen(path);
	else server.listen(0, '127.0.0.1');
	await once(server, 'listening');
	const stop = async () => {
		acceptor.close();
		if (!server.listening) return;
		server.closeAllConnections();
		server.close();
		await once(server, 'close');
	};
	t.after(stop);
	const url = path ? `ws+unix:${path}:/link` : `ws://127.0.0.1:${(server.address() as AddressInfo).port}/link`;
	return { url, nextLink: links.next, nextMessage: messages.next, closed: ends.next, stop };
}

function dialTo(t: TestContext, peer: Peer, options: Partial<Parameters<typeof dial>[0]>) {
	const credential = () => issueCredential(claims, key.privatePem);
	const link = dial({ url: peer.url, credential, hello: () => hello, onMessage: () => {}, log, clock, ...options });
	t.after(() => link.close());
	return link;
}

function refusal(url: string, headers: Record<string, string>): Promise<{ status: number; body: string }> {
	const socket = new WebSocket(url, { headers });
	return new Promise((resolve, reject) => {
		socket.on('open', () => reject(new Error('was let in')));
		socket.on('error', reject);
		socket.on('unexpected-response', (_request, response) => {
			let body = '';
			response.on('data', (part: Buffer) => (body += part.toString()));
			response.on('end', () => resolve({ status: response.statusCode ?? 0, body }));
		});
	});
}

function promised<T>() {
	return Promise.withResolvers<T>();
}

function queue<T>() {
	const items: T[] = [];
	const waiting: ((item: T) => void)[] = [];
	return {
		push: (item: T) => {
			const first = waiting.shift();
			if (first) first(item);
			else items.push(item);
		},
		next: () => new Promise<T>((resolve) => (items.length > 0 ? resolve(items.shift() as T) : waiting.push(resolve))),
	};
}

import assert from 'node:assert/strict';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test, type TestContext } from 'node:test';
import { systemClock as clock } from '#clock/clock.ts';
import { Outbound } from './outbound.ts';

async function serve(t: TestContext, answer: (request: IncomingMessage, response: ServerResponse) => void): Promise<number> {
	const server = createServer(answer).listen(0, '127.0.0.1');
	await new Promise((resolve) => server.once('listening', resolve));
	t.after(() => {
		server.closeAllConnections();
		server.close();
	});
	return (server.address() as AddressInfo).port;
}

function outbound(allowed: string[], names: Record<string, string[]> = {}, own: string[] = []): Outbound {
	const resolve = async (host: string) => {
		if (!names[host]) throw new Error('ENOTFOUND');
		return names[host].map((address) => ({ address }));
	};
	return new Outbound({ allowed: async () => allowed, own: () => own, clock, resolve });
}

test('nothing private is connected to unless it is listed, under whatever name', async (t) => {
	let heard = 0;
	const port = await serve(t, (_request, response) => {
		heard++;
		response.end('hello');
	});
	const names = { 'forge.test': ['127.0.0.1'], 'both.test': ['140.82.121.3', '127.0.0.1'], 'meta.test': ['169.254.169.254'] };
	for (const host of ['127.0.0.1', 'forge.test', 'both.test', 'meta.test', '[::1]', '0x7f.1', '2130706433', '[::ffff:7f00:1]', '0'])
		await assert.rejects(outbound([], names).ask({ method: 'GET', url: `http://${host}:${port}/` }), { code: 'address_refused' }, host);
	await assert.rejects(outbound([], names, ['140.82.121.9']).target('140.82.121.9', 443), { code: 'address_refused' }, 'our own');
	await assert.rejects(outbound([]).target('nowhere.test', 443), { code: 'unresolved' });
	await assert.rejects(outbound([`127.0.0.1:${port + 1}`], names).ask({ method: 'GET', url: `http://127.0.0.1:${port}/` }), {
		code: 'address_refused',
		message: new RegExp(`jibe outbound allow 127\\.0\\.0\\.1:${port}`),
	});
	assert.equal(heard, 0);
	for (const allowed of ['forge.test', `forge.test:${port}`, '127.0.0.0/8', `127.0.0.1:${port}`])
		assert.equal((await outbound([allowed], names).ask({ method: 'GET', url: `http://forge.test:${port}/` })).text, 'hello', allowed);
});

test('a name is resolved once for one connection', async (t) => {
	const port = await serve(t, (_request, response) => response.end('public'));
	let asked = 0;
	// First what is allowed, then what is not: as somebody does who rebinds a name.
	const resolve = async () => [{ address: ++asked === 1 ? '127.0.0.1' : '127.0.0.2' }];
	const out = new Outbound({ allowed: async () => ['127.0.0.1'], own: () => [], clock, resolve });
	assert.equal((await out.ask({ method: 'GET', url: `http://rebound.test:${port}/` })).text, 'public');
	assert.equal(asked, 1);
	await assert.rejects(out.ask({ method: 'GET', url: `http://rebound.test:${port}/` }), { code: 'address_refused' });
});

test('redirects are judged anew, and credentials stay with whom they are for', async (t) => {
	const seen: (string | undefined)[] = [];
	const other = await serve(t, (request, response) => {
		seen.push(request.headers.authorization);
		response.end('there');
	});
	const port = await serve(t, (request, response) => {
		const to = { '/away': `http://127.0.0.1:${other}/`, '/meta': 'http://169.254.169.254/latest', '/file': 'file:///etc/passwd', '/same': '/end', '/loop': '/loop' }[request.url!]; // prettier-ignore
		if (to === undefined) return response.end(request.headers.authorization);
		return response.writeHead(302, { location: to }).end();
	});
	const out = outbound([`127.0.0.1:${port}`, `127.0.0.1:${other}`]);
	const ask = (path: string) =>
		out.ask({ method: 'GET', url: `http://127.0.0.1:${port}${path}`, headers: { authorization: 'Bearer s3cret' } });
	assert.equal((await ask('/same')).text, 'Bearer s3cret');
	assert.equal((await ask('/away')).text, 'there');
	assert.deepEqual(seen, [undefined]);
	await assert.rejects(ask('/meta'), { code: 'address_refused' });
	await assert.rejects(ask('/file'), { code: 'address_refused' });
	await assert.rejects(ask('/loop'), { code: 'too_many_redirects' });
});

test('an answer without an end, or none at all, is given up', async (t) => {
	const port = await serve(t, (request, response) => {
		if (request.url === '/silent') return;
		const more = () => response.write('x'.repeat(65_536), more);
		more();
	});
	const out = outbound(['127.0.0.1']);
	await assert.rejects(out.ask({ method: 'GET', url: `http://127.0.0.1:${port}/big`, maxBytes: 100_000 }), { code: 'too_large' });
	await assert.rejects(out.ask({ method: 'GET', url: `http://127.0.0.1:${port}/silent`, limitMs: 50 }), { code: 'too_slow' });
	await assert.rejects(out.ask({ method: 'GET', url: 'http://127.0.0.1:1/' }), { code: 'unreachable' });
});

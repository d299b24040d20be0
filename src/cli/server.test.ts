import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';
import { openStage, refuse } from './fixture.ts';
import { ask, askLines, findServer, Interrupted, type Server } from './server.ts';

const GOOD = { regions: [] };

test('a control that is restarting is waited for: not listening yet, then 503, then there', async (t) => {
	const stage = await openStage(t);
	const server = findServer(stage.data);
	assert.equal(server.token, 'secret');
	let answers = 0;
	stage.answers['GET /api/v1/regions'] = (_request, response) =>
		++answers < 3 ? refuse(response, 503, 'database_unavailable', 'soon') : response.end(JSON.stringify(GOOD));
	assert.deepEqual(await ask(server, { path: '/api/v1/regions' }), GOOD);
	assert.equal(answers, 3);
	assert.equal(stage.asked[0]?.token, 'Bearer secret');

	const port = await freePort();
	const late: Server = { url: new URL(`http://127.0.0.1:${port}`), token: '' };
	const waiting = ask(late, { method: 'POST', path: '/x', json: {} });
	const control = createServer((_request, response) => response.end('{}')).listen(port, '127.0.0.1');
	t.after(() => control.close());
	assert.deepEqual(await waiting, {});
});

test('a 503 that waiting does not cure is told at once, as are the exit codes of other refusals', async (t) => {
	const stage = await openStage(t);
	const server = findServer(stage.data);
	const refused = async (status: number, code: string) => {
		stage.answers['GET /x'] = (_request, response) => refuse(response, status, code, 'no');
		return await ask(server, { path: '/x' }).then(
			() => assert.fail('it was answered'),
			(error: unknown) => error as { exit: number; code: string; hint: string; data: unknown },
		);
	};
	assert.deepEqual(await refused(503, 'read_only').then(({ exit, code }) => [exit, code]), [4, 'read_only']);
	assert.equal((await refused(403, 'forbidden')).exit, 5);
	assert.equal((await refused(401, 'unauthorized')).exit, 5);
	assert.equal((await refused(409, 'held')).exit, 2);
	assert.equal((await refused(500, 'internal')).exit, 4);
});

test('a request that control may have heard is not repeated', async (t) => {
	const stage = await openStage(t);
	stage.answers['POST /x'] = (request) => request.socket.destroy();
	await assert.rejects(ask(findServer(stage.data), { method: 'POST', path: '/x', json: {} }), Interrupted);
	assert.equal(stage.asked.length, 1);
});

test('lines are handed over as they come, and a stream that breaks off is told from one that ended', async (t) => {
	const stage = await openStage(t);
	const seen: unknown[] = [];
	stage.answers['GET /whole'] = (_request, response) => {
		response.write('{"a":1}\n{"b"');
		response.end(':2}');
	};
	await askLines(findServer(stage.data), { path: '/whole' }, (line) => seen.push(line) === 2);
	assert.deepEqual(seen, [{ a: 1 }, { b: 2 }]);
	stage.answers['GET /broken'] = (request, response) => {
		response.write('{"a":1}\n');
		setImmediate(() => request.socket.destroy());
	};
	await assert.rejects(
		askLines(findServer(stage.data), { path: '/broken' }, () => false),
		Interrupted,
	);
});

test('of several addresses the next one is asked when one refuses, is frozen, or ends in the middle of an answer', async (t) => {
	const stage = await openStage(t, { 'GET /x': GOOD });
	const good = new URL(`http://127.0.0.1:${stage.port}`);
	const refusing = new URL(`http://127.0.0.1:${await freePort()}`);
	const server: Server = { url: refusing, others: [good], token: '' };
	assert.deepEqual(await ask(server, { path: '/x' }), GOOD);
	assert.deepEqual([server.url, server.others], [good, [refusing]]);

	const frozen = createServer(() => {}).listen(0, '127.0.0.1');
	t.after(() => frozen.closeAllConnections() ?? frozen.close());
	await once(frozen, 'listening');
	const silent = new URL(`http://127.0.0.1:${(frozen.address() as { port: number }).port}`);
	assert.deepEqual(await ask({ url: silent, others: [good], token: '' }, { path: '/x' }), GOOD);

	const away = await openStage(t);
	away.answers['GET /x'] = (_request, response) => refuse(response, 503, 'database_unavailable', 'cut off from it');
	away.answers['POST /lines'] = (request, response) => {
		response.write('{"a":1}\n');
		setImmediate(() => request.socket.destroy());
	};
	const broken = new URL(`http://127.0.0.1:${away.port}`);
	assert.deepEqual(await ask({ url: broken, others: [good], token: '' }, { path: '/x' }), GOOD);
	const streaming: Server = { url: broken, others: [good], token: '' };
	await assert.rejects(
		askLines(streaming, { method: 'POST', path: '/lines' }, () => false),
		Interrupted,
	);
	assert.equal(streaming.url, good, 'what the stream told of is asked for elsewhere');
});

test('JIBE_SERVER and a login may name several addresses', async (t) => {
	const { data } = await openStage(t);
	process.env['JIBE_SERVER'] = 'http://127.0.0.1:7070, http://127.0.0.1:7171';
	t.after(() => delete process.env['JIBE_SERVER']);
	const { url, others } = findServer(data);
	assert.deepEqual([url.port, others?.map(({ port }) => port)], ['7070', ['7171']]);
	for (const wrong of ['nowhere', 'ftp://127.0.0.1']) {
		process.env['JIBE_SERVER'] = `http://127.0.0.1:7070,${wrong}`;
		assert.throws(() => findServer(data), { code: 'usage', exit: 2, message: /is not the URL of a control/ });
	}
	delete process.env['JIBE_SERVER'];
	writeFileSync(join(data, 'endpoint.json'), JSON.stringify({ url: 'https://a:1', urls: ['https://a:1', 'https://b:1'] }));
	assert.deepEqual(
		findServer(data).others?.map(({ host }) => host),
		['b:1'],
	);
});

test('without an installation it is said what to do', async (t) => {
	const { data } = await openStage(t);
	assert.throws(() => findServer(`${data}/none`), { code: 'not_running', exit: 4, hint: /jibe up/ });
});

async function freePort(): Promise<number> {
	const server = createServer().listen(0, '127.0.0.1');
	await new Promise((resolve) => server.once('listening', resolve));
	const { port } = server.address() as { port: number };
	await new Promise((resolve) => server.close(resolve));
	return port;
}

test('a deploy loads no validator, also to a control on another machine', () => {
	const program = `import { registerHooks } from 'node:module';
		registerHooks({ resolve: (name, by, next) => (name === 'zod' && console.log(by.parentURL), next(name, by)) });
		await import('./deploy.ts');
		await import('./tls.ts');`;
	const options = { cwd: import.meta.dirname, encoding: 'utf8' } as const;
	assert.equal(execFileSync(process.execPath, ['--input-type=module', '-e', program], options), '');
});

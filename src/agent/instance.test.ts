import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { after, test } from 'node:test';
import type { Instance, ReleaseSpec } from '#wire/region.ts';
import { ask, openTestbed } from './testbed.ts';

/** What an app may be made of, and what it is given. */
const bed = await openTestbed();
after(() => bed.close());

async function serve(
	app: string,
	files: Record<string, string>,
	options: Parameters<typeof bed.put>[1] = {},
	more: Partial<ReleaseSpec> = {},
): Promise<Instance> {
	const spec = bed.release(bed.put(files, options), { app, health: { path: '/', timeoutMs: 2000, strict: false }, ...more });
	bed.want(spec, [{ release: spec.release, instances: 1, as: 'serving' }]);
	const own = (all: Instance[]) => all.find((i) => i.release === spec.release && ['serving', 'failed'].includes(i.state));
	const instance = own(await bed.until(spec, 'serving', (all) => own(all) !== undefined));
	assert.ok(instance);
	assert.equal(instance.detail, null);
	return instance;
}

test('modules of every kind, files by URL, top-level await, packages of both kinds', async () => {
	const vendor = bed.putVendor({
		'greet/package.json': '{"name":"greet","type":"module","exports":"./index.js"}',
		'greet/index.js': `import { tone } from 'tone'; export const greet = (name) => tone('hello ' + name);`,
		'tone/package.json': '{"name":"tone","main":"./index.js"}',
		'tone/index.js': `exports.tone = (text) => text + '!'; exports.dir = __dirname;`,
	});
	const instance = await serve(
		'kinds',
		{
			'src/server.ts': `
				import { readFile } from 'node:fs/promises';
				import { greet } from 'greet';
				import config from './config.data.json';
				import text from './words.txt';
				import old from './old.cjs';
				import { named } from './old.cjs';
				const page = await readFile(new URL('./page.html', import.meta.url), 'utf8');
				const name = ['./la', 'ter.ts'].join('');
				export default async () => {
					const later = await import(name);
					const byUrl = await import(new URL('./later.ts', import.meta.url).href);
					return Response.json({ page, greeting: greet('you'), config, text, old: old.value, named, later: later.default, same: later === byUrl,
						directory: import.meta.dirname, cwd: process.cwd() });
				};`,
			'src/config.data.json': '{"a":1,"__proto__":{"b":2}}',
			'src/words.txt': 'some "words"\n',
			'src/old.cjs': `const { part } = require('./part.cjs'); const { tone } = require('tone'); exports.value = tone(part) + require('./config.data.json').a; exports.named = __filename;`,
			'src/part.cjs': `exports.part = 'old';`,
			'src/later.ts': `export default 'later';`,
			'src/page.html': '<p>hi</p>',
			'package.json': '{"type":"module"}',
		},
		{ dynamic: true },
		{ vendor },
	);
	const { body } = await ask(instance, '/');
	const seen = JSON.parse(body);
	assert.deepEqual(
		{ ...seen, config: body.includes('{"a":1,"__proto__":{"b":2}}'), directory: 0, cwd: 0, named: 0 },
		{
			page: '<p>hi</p>',
			greeting: 'hello you!',
			config: true,
			text: 'some "words"\n',
			old: 'old!1',
			named: 0,
			later: 'later',
			same: true,
			directory: 0,
			cwd: 0,
		},
	);
	assert.equal(seen.directory, `${seen.cwd}/src`);
	assert.equal(seen.named, `${seen.cwd}/src/old.cjs`);
});

test('a worker thread and a forked child find their modules as real files', async () => {
	const instance = await serve(
		'children',
		{
			'src/server.ts': `
				import { Worker } from 'node:worker_threads';
				import { fork } from 'node:child_process';
				const once = (it) => new Promise((resolve, reject) => it.once('message', resolve).once('error', reject));
				export default { async fetch() {
					const worker = await once(new Worker(new URL('./worker.ts', import.meta.url)));
					const child = await once(fork(new URL('./child.ts', import.meta.url)));
					return Response.json([worker, child]);
				} };`,
			'src/worker.ts': `import { parentPort } from 'node:worker_threads'; import { word } from './word.ts'; parentPort.postMessage('worker ' + word);`,
			'src/child.ts': `import { word } from './word.ts'; process.send('child ' + word, () => process.exit());`,
			'src/word.ts': `export const word = 'hi';`,
			'package.json': '{"type":"module"}',
		},
		{ materialise: true },
	);
	assert.deepEqual(JSON.parse((await ask(instance, '/')).body), ['worker hi', 'child hi']);
});

test('stack traces name the places of the sources, at import and later', async () => {
	// Everything from the first column on is line 3, column 1 of the source.
	const map = JSON.stringify({ version: 3, sources: ['x.ts'], names: [], mappings: 'AAEA' });
	const instance = await serve('stacks', {
		'src/server.ts': `import { fail } from './fail.ts'; export default () => { try { fail(); } catch (error) { return new Response(error.stack); } };`,
		'src/fail.ts': `export function fail() { throw new TypeError('no'); }`,
		'src/fail.ts.map': map,
	});
	assert.match((await ask(instance, '/')).body, /^TypeError: no\n {4}at fail \(\/.*\/src\/fail\.ts:3:1\)\n.*\/src\/server\.ts:1:/);
});

test('life: activate and deactivate, events on process, and a drain that waits for what is in flight', async () => {
	const server = `
		const seen = [];
		process.on('jibe:state', (state) => seen.push(state));
		let release;
		const held = new Promise((resolve) => (release = resolve));
		export default {
			async fetch(request, env, ctx) {
				const { pathname } = new URL(request.url);
				if (pathname === '/slow') await held;
				if (pathname === '/work') ctx.waitUntil(held.then(() => seen.push('worked')));
				if (pathname === '/release') release();
				return Response.json(seen);
			},
			activate() { seen.push('activate'); },
			deactivate() { seen.push('deactivate'); },
		};`;
	const spec = bed.release(bed.put({ 'src/server.ts': server }), { app: 'life', health: { path: '/', timeoutMs: 2000, strict: false } });
	bed.want(spec, [{ release: spec.release, instances: 1, as: 'serving' }]);
	const [instance] = await bed.until(spec, 'serving', ([i]) => i?.state === 'serving');
	assert.deepEqual(JSON.parse((await ask(instance, '/')).body), ['serving', 'activate']);
	await ask(instance, '/work');
	const slow = ask(instance, '/slow');
	await ask(instance, '/');
	bed.want(spec, [{ release: spec.release, instances: 1, as: 'warm' }]);
	await bed.until(spec, 'draining', ([i]) => i?.state === 'draining');
	assert.deepEqual(JSON.parse((await ask(instance, '/')).body).slice(0, 4), ['serving', 'activate', 'draining', 'deactivate']);
	await ask(instance, '/release');
	assert.equal((await slow).status, 200);
	await bed.until(spec, 'warm', ([i]) => i?.state === 'warm');
	bed.want(spec, [{ release: spec.release, instances: 1, as: 'serving' }]);
	await bed.until(spec, 'serving', ([i]) => i?.state === 'serving');
	assert.deepEqual(JSON.parse((await ask(instance, '/')).body), [
		'serving', 'activate', 'draining', 'deactivate', 'worked', 'warm', 'serving', 'activate',
	]); // prettier-ignore
	bed.want(spec, []);
});

test('a drain that is called off by a rollback loses nothing', async () => {
	const server = `let release; const held = new Promise((resolve) => (release = resolve));
		export default { async fetch(request) {
			const { pathname } = new URL(request.url);
			if (pathname === '/slow') await held;
			if (pathname === '/release') release();
			return new Response(pathname);
		} };`;
	const spec = bed.release(bed.put({ 'src/server.ts': server }), { app: 'back', health: { path: '/', timeoutMs: 2000, strict: false } });
	const as = (state: 'serving' | 'warm') => bed.want(spec, [{ release: spec.release, instances: 1, as: state }]);
	as('serving');
	const [instance] = await bed.until(spec, 'serving', ([i]) => i?.state === 'serving');
	const slow = ask(instance, '/slow');
	await ask(instance, '/');
	as('warm');
	await bed.until(spec, 'draining', ([i]) => i?.state === 'draining');
	as('serving');
	await bed.until(spec, 'serving', ([i]) => i?.state === 'serving');
	await ask(instance, '/release');
	assert.equal((await slow).body, '/slow');
	bed.want(spec, []);
});

test('server-sent events and WebSockets live through the drain of requests, then are ended politely', async () => {
	const server = `
		import { createHash } from 'node:crypto';
		export default {
			fetch(request) {
				if (!request.url.endsWith('/events')) return new Response('ok');
				return new Response(new ReadableStream({ start(c) { c.enqueue(new TextEncoder().encode('data: 1\\n\\n')); } }), { headers: { 'content-type': 'text/event-stream' } });
			},
			upgrade(request, socket) {
				const accept = createHash('sha1').update(request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64');
				socket.write('HTTP/1.1 101 Switching Protocols\\r\\nupgrade: websocket\\r\\nconnection: Upgrade\\r\\nsec-websocket-accept: ' + accept + '\\r\\n\\r\\n');
			},
		};`;
	const health = { path: '/', timeoutMs: 2000, strict: false };
	const spec = bed.release(bed.put({ 'src/server.ts': server }), { app: 'streams', health, drain: { requestsMs: 60_000, streamsMs: 300 } });
	bed.want(spec, [{ release: spec.release, instances: 1, as: 'serving' }]);
	const [instance] = await bed.until(spec, 'serving', ([i]) => i?.state === 'serving');
	const events = ask(instance, '/events');
	const frames = websocket(instance!);
	await frames.open;
	bed.want(spec, [{ release: spec.release, instances: 1, as: 'warm' }]);
	await bed.until(spec, 'draining', ([i]) => i?.state === 'draining');
	assert.equal((await events).body, 'data: 1\n\n');
	assert.deepEqual([...(await frames.closed)], [0x88, 0x02, 0x03, 0xf4]);
	await bed.until(spec, 'warm', ([i]) => i?.state === 'warm');
	bed.want(spec, []);
});

test('an app of Express answers as it does under its own listen', async () => {
	const server = `
		import { App } from 'connectish';
		const app = App();
		app.use((request, response) => (response.setHeader('x-way', 'node'), response.end(request.method + ' ' + request.url)));
		export default app;`;
	const vendor = bed.putVendor({
		'connectish/package.json': '{"name":"connectish","type":"module","exports":"./index.js"}',
		// Like Express's, it has a method for each verb of HTTP: BIND is one of them.
		'connectish/index.js': `export function App() {
			let answer;
			const app = (request, response) => app.handle(request, response);
			return Object.assign(app, { use: (it) => (answer = it), handle: (...of) => answer(...of), bind() { throw new Error('a route'); } });
		}`,
	});
	const instance = await serve('express', { 'src/server.ts': server, 'package.json': '{"type":"module"}' }, {}, { vendor });
	assert.equal((await ask(instance, '/views?a=1')).body, 'GET /views?a=1');
});

test('an app without upgrade answers 426', async () => {
	const instance = await serve('plain', { 'src/server.ts': 'export default () => new Response("ok");' });
	const frames = websocket(instance);
	await assert.rejects(frames.open, /426/);
});

test('data under JIBE_DATA_DIR survives releases, per region', async () => {
	const server = (word: string) => `
		import { readFileSync, writeFileSync, existsSync } from 'node:fs';
		import { join } from 'node:path';
		const file = join(process.env.JIBE_DATA_DIR, 'notes.txt');
		const before = existsSync(file) ? readFileSync(file, 'utf8') : '';
		writeFileSync(file, before + '${word} ');
		export default () => new Response(readFileSync(file));`;
	await serve('keeps', { 'src/server.ts': server('one') });
	const second = await serve('keeps', { 'src/server.ts': server('two') });
	assert.equal((await ask(second, '/')).body, 'one two ');
});

function websocket(instance: Instance): { open: Promise<void>; closed: Promise<Buffer> } {
	const socket = connect({ path: instance.address!.replace('unix:', '') });
	socket.write(
		'GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
	);
	let bytes = Buffer.alloc(0);
	let opened: () => void;
	const open = new Promise<void>((resolve, reject) => {
		opened = resolve;
		socket.on('close', () => reject(new Error(bytes.toString())));
	});
	const closed = new Promise<Buffer>((resolve) => socket.on('close', () => resolve(bytes.subarray(bytes.indexOf('\r\n\r\n') + 4))));
	socket.on('data', (more: Buffer) => {
		bytes = Buffer.concat([bytes, more]);
		if (bytes.toString().startsWith('HTTP/1.1 101')) opened();
	});
	return { open, closed };
}

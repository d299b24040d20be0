import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import { tinyApp, type App } from './fixtures/app.ts';
import { startJibe, type Jibe } from './fixtures/jibe.ts';

/** Requests that lie about what they hold: refused with a reason, and what serves goes on serving. */

const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;
const UPLOAD_TYPE = 'application/vnd.jibe.upload';
const MIB = 1024 * 1024;

let jibe: Jibe;
let app: App;
before(async () => {
	jibe = await startJibe({ regions: 1 });
	app = tinyApp('app', text('one'));
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
});
after(async () => {
	app[Symbol.dispose]();
	await jibe.stop();
});

/** Announces so many bytes that say nothing and sends the first of them; the status of the answer. */
function flood(url: string, bytes: number, send: number, headers: Record<string, string>): Promise<number> {
	return new Promise((resolve, reject) => {
		const asking = request(url, { method: 'POST', headers: { ...headers, 'content-length': String(bytes) } });
		let answered = false;
		asking.once('response', (response) => {
			answered = true;
			response.resume();
			resolve(response.statusCode ?? 0);
			asking.destroy();
		});
		asking.on('error', (error) => answered || reject(error));
		asking.flushHeaders();
		const block = Buffer.alloc(MIB, 'x');
		let left = send;
		const more = () => {
			while (left > 0 && !asking.destroyed) {
				left -= block.length;
				if (!asking.write(block)) return void asking.once('drain', more);
			}
			if (send === bytes) asking.end();
		};
		more();
	});
}

test('a delta against a base that control never saw: the command sends the whole by itself', async () => {
	const builds = join(app.dir, '.cache/jibe/build/apps');
	const env = { HOME: app.dir, XDG_CACHE_HOME: join(app.dir, '.cache') };
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir, env });
	const [of] = readdirSync(builds);
	const accepted = readdirSync(join(builds, of!)).find((name) => name.startsWith('accepted-'));
	const file = join(builds, of!, accepted!);
	writeFileSync(file, readFileSync(file, 'utf8').replace(/^sha256:[0-9a-f]{64}/, `sha256:${'0'.repeat(64)}`));
	app.write('server.ts', text('two'));
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir, env });
	assert.equal((await jibe.request(0, 'app.localhost', '/')).body, 'two');
});

test('a pack bomb is stopped at its limit, and nothing of it is kept', async () => {
	const before = await jibe.newest('app');
	const bomb = zstdCompressSync(Buffer.alloc(512 * MIB));
	const response = await fetch(`${jibe.url}/api/v1/apps/app/deployments`, {
		method: 'POST',
		headers: { authorization: `Bearer ${jibe.token}`, 'content-type': UPLOAD_TYPE },
		body: new Uint8Array(bomb),
	});
	const { error } = (await response.json()) as { error: { code: string; message: string } };
	assert.ok(response.status >= 400 && response.status < 500, `${response.status} ${error.message}`);
	assert.match(error.code, /^[a-z_]+$/);
	assert.deepEqual(await jibe.newest('app'), before);
});

test('an oversized body is refused by control before its end, and passes an edge without being kept', async () => {
	const headers = { authorization: `Bearer ${jibe.token}`, 'content-type': UPLOAD_TYPE };
	assert.equal(await flood(`${jibe.url}/api/v1/apps/app/deployments`, 1024 * MIB, 0, headers), 413);
	assert.equal(await flood(`${jibe.edgeUrl(0)}/`, 256 * MIB, 256 * MIB, { host: 'app.localhost' }), 200);
	assert.equal((await jibe.request(0, 'app.localhost', '/')).body, 'two');
	await jibe.expect(0, ['status', 'app', '--json']);
});

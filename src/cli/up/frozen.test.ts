import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { test } from 'node:test';
import { identify } from '#process/identity.ts';
import { temporary } from '../fixture.ts';
import { watchFrozen, type Target } from './frozen.ts';

const GREETS = `require('node:net').createServer((socket) => socket.end('alive\\n')).listen(process.argv[1], () => process.stdout.write('on'))`;
const ANSWERS = `require('node:http').createServer((_, response) => response.end()).listen(process.argv[1], () => process.stdout.write('on'))`;

for (const [name, script, targetOf] of [
	['a socket that greets', GREETS, (path: string): Target => ({ greeting: path })],
	['an HTTP server', ANSWERS, (path: string): Target => ({ httpSocket: path })],
] as const) {
	test(`${name}: a stopped process is frozen, a living one is not`, { skip: process.platform !== 'linux' && 'needs /proc' }, async (t) => {
		const path = join(temporary(t, 'jibe-frozen-'), 'alive.sock');
		const child = spawn(process.execPath, ['-e', script, path], { stdio: ['ignore', 'pipe', 'inherit'] });
		t.after(() => child.kill('SIGKILL'));
		await once(child.stdout, 'data');
		const identity = identify(child.pid!)!;
		let stopped = false;
		const frozen = Promise.withResolvers<string>();
		let looks = 0;
		const looked = Promise.withResolvers<void>();
		const watch = watchFrozen([
			{
				identity: () => (++looks > 3 && looked.resolve(), identity),
				target: targetOf(path),
				limitMs: 400,
				frozen: (why) => (stopped ? frozen.resolve(why) : frozen.reject(new Error(`it was not stopped yet: ${why}`))),
			},
		]);
		const keep = setInterval(() => {}, 1000);
		t.after(() => {
			watch.cancel();
			clearInterval(keep);
		});
		await looked.promise;
		stopped = true;
		child.kill('SIGSTOP');
		assert.match(await frozen.promise, /^no answer for \d+ ms$/);
	});
}

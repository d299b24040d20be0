import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Clock } from '#clock/clock.ts';
import { systemClock } from '#clock/clock.ts';
import { smuggling } from '../../test/fixtures/smuggling.ts';
import { ask, openRaw, openStage, raw, readUntil, reportOf, serving, specOf, startInstance, wantOf, wantsOf } from './fixture.ts';

const HOST = 'Host: notes.localhost\r\n';

for (const [name, bytes] of Object.entries(smuggling('notes.localhost'))) {
	test(`refused: ${name}`, async (t) => {
		const seen: string[] = [];
		const stage = await serving(t, (req, res) => {
			req.on('error', () => {});
			req.resume().on('end', () => {
				seen.push(req.url ?? '');
				res.end('reached');
			});
		});
		const answer = await raw(stage.port, bytes, 'bad_request');
		assert.match(answer, /^HTTP\/1\.1 (400|431|502) /);
		assert.deepEqual(seen, []);
		assert.equal((await ask(stage.port)).body, 'reached');
	});
}

test('a head larger than 16 KiB is a 431, one below is not', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('ok'));
	assert.equal((await ask(stage.port, { headers: { 'x-large': 'a'.repeat(15_000) } })).status, 200);
	const refused = await raw(stage.port, `GET / HTTP/1.1\r\n${HOST}X-Large: ${'a'.repeat(17_000)}\r\n\r\n`, 'head_too_large');
	assert.match(refused, /^HTTP\/1\.1 431 /);
});

test('an endless request line is a 431', async (t) => {
	const stage = await serving(t, (_req, res) => res.end('ok'));
	assert.match(await raw(stage.port, `GET /${'a'.repeat(20_000)}`, 'head_too_large'), /^HTTP\/1\.1 431 /);
});

test('slow-loris: a head that does not end in time is a 408, and so is a connection that says nothing', async (t) => {
	const stage = await openStage(t, { headersTimeoutMs: 300 });
	const slow = await openRaw(stage.port);
	const silent = await openRaw(stage.port);
	slow.write('GET / HTTP/1.1\r\nHost: notes');
	const [first] = await Promise.all([readUntil(slow), readUntil(silent)]);
	assert.match(first, /^HTTP\/1\.1 408 /);
});

test('a body that stops coming is a 408; the instance is let go', async (t) => {
	const { clock, sweepAfter } = sweptClock();
	const stage = await openStage(t, { clock });
	const { promise: began, resolve: begin } = Promise.withResolvers<void>();
	const { promise: gone, resolve: leave } = Promise.withResolvers<void>();
	const instance = await startInstance(t, 1, (req) => {
		req.on('error', () => {});
		req.on('close', leave);
		req.once('data', () => begin());
	});
	stage.tell(reportOf(instance.as('serving')));
	stage.tell(wantsOf(wantOf(1, 1), specOf(1)));
	const socket = await openRaw(stage.port);
	socket.write(`POST / HTTP/1.1\r\n${HOST}Content-Length: 100\r\n\r\nsome`);
	await began;
	sweepAfter(29_000);
	sweepAfter(31_000);
	assert.match(await readUntil(socket, 'body_timeout'), /^HTTP\/1\.1 408 [\s\S]*connection: close/i);
	await gone;
	socket.destroy();
});

test('an instance that takes a request and never answers is a 504 in the end', async (t) => {
	const { clock, sweepAfter } = sweptClock();
	const stage = await openStage(t, { clock });
	const { promise: began, resolve: begin } = Promise.withResolvers<void>();
	const instance = await startInstance(t, 1, () => begin());
	stage.tell(reportOf(instance.as('serving')));
	stage.tell(wantsOf(wantOf(1, 1), specOf(1)));
	const reply = ask(stage.port);
	await began;
	sweepAfter(121_000);
	assert.equal((await reply).status, 504);
});

/** Time passes when the test says so; what the edge does each second is done then. */
function sweptClock(): { clock: Clock; sweepAfter: (ms: number) => void } {
	let leadMs = 0;
	let sweep = (): void => {};
	const clock: Clock = {
		...systemClock,
		monotonic: () => systemClock.monotonic() + leadMs,
		every(periodMs, task) {
			sweep = task;
			return systemClock.every(periodMs, task);
		},
	};
	return {
		clock,
		sweepAfter(ms) {
			leadMs = ms;
			sweep();
		},
	};
}

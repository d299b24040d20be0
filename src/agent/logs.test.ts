import assert from 'node:assert/strict';
import { test } from 'node:test';
import { pause } from '#clock/clock.ts';
import type { LogLines } from '#wire/region.ts';
import { ask, openTestbed, type Testbed } from './testbed.ts';

const health = { path: '/', timeoutMs: 2_000, strict: false };
const SERVER = `import { writeSync } from 'node:fs';
	console.log('born'); console.error('trouble'); writeSync(1, '{"past":"the stamps"}\\nwords\\n');
	export default { fetch(request) { console.log(new URL(request.url).pathname + '\\nsecond line'); return new Response('ok'); } };`;

test('output is read with time and stream, since a moment, at most so many lines, and followed', async (t) => {
	const bed = await openTestbed();
	t.after(() => bed.close());
	const spec = bed.release(bed.put({ 'src/server.ts': SERVER }), { health });
	bed.want(spec, [{ release: spec.release, instances: 1, as: 'serving' }]);
	const [instance] = await bed.until(spec, 'serving', ([i]) => i?.state === 'serving');
	const key = { region: 'fra', app: 'notes', environment: 'production' };
	bed.agent.receive({ type: 'logsWanted', id: 'a', ...key, since: 0, follow: false, maxLines: 100 });
	const first = await lines(bed, 'a', (all) => all.length >= 6, true);
	assert.deepEqual(
		first.map(({ stream, text, release, instance: id }) => [stream, text, release, id]),
		[
			['out', 'born', 1, instance?.id],
			['err', 'trouble', 1, instance?.id],
			['out', '{"past":"the stamps"}', 1, instance?.id],
			['err', 'words', 1, instance?.id],
			['out', '/', 1, instance?.id],
			['out', 'second line', 1, instance?.id],
		],
	);
	bed.agent.receive({ type: 'logsWanted', id: 'b', ...key, since: first.at(-1)!.at, follow: true, maxLines: 1 });
	await ask(instance, '/later');
	const followed = await lines(bed, 'b', (all) => all.some(({ text }) => text === '/later'), false);
	assert.deepEqual(followed.map(({ text }) => text).slice(0, 2), ['second line', '/later']);
	bed.agent.receive({ type: 'logsDone', id: 'b' });
});

test('an app that fills its data directory is stopped and told why', async (t) => {
	const bed = await openTestbed({ dataMiB: 2 });
	t.after(() => bed.close());
	const fills = `import { rmSync, writeFileSync } from 'node:fs'; import { join } from 'node:path';
		const file = join(process.env.JIBE_DATA_DIR, 'big');
		export default { fetch(request) { if (request.url.endsWith('/fill')) writeFileSync(file, Buffer.alloc(4 << 20, 1)); return new Response(file); } };`;
	const spec = bed.release(bed.put({ 'src/server.ts': fills }), { health });
	bed.want(spec, [{ release: spec.release, instances: 1, as: 'serving' }]);
	const [instance] = await bed.until(spec, 'serving', ([i]) => i?.state === 'serving');
	await ask(instance, '/fill');
	const [stopped] = await bed.until(spec, 'its end', ([i]) => i?.reason === 'disk');
	assert.match(stopped?.detail ?? '', /4 MiB in its data directory in fra; the limit is 2 MiB/);
});

test('an app that fills its compile cache is stopped, and starts with an empty one', async (t) => {
	const bed = await openTestbed({ dataMiB: 2 });
	t.after(() => bed.close());
	const fills = `import { readdirSync, writeFileSync } from 'node:fs'; import { getCompileCacheDir } from 'node:module'; import { join } from 'node:path';
		const big = join(getCompileCacheDir(), '..', 'big');
		export default { fetch(request) { if (request.url.endsWith('/fill')) writeFileSync(big, Buffer.alloc(4 << 20, 1)); return Response.json(readdirSync(join(big, '..'))); } };`;
	const spec = bed.release(bed.put({ 'src/server.ts': fills }), { health });
	bed.want(spec, [{ release: spec.release, instances: 1, as: 'serving' }]);
	const [instance] = await bed.until(spec, 'serving', ([i]) => i?.state === 'serving');
	assert.match((await ask(instance, '/fill')).body, /big/);
	const [again] = await bed.until(spec, 'a new process', ([i]) => i?.state === 'serving' && i.pid !== instance?.pid);
	assert.doesNotMatch((await ask(again, '/')).body, /big/);
});

async function lines(bed: Testbed, id: string, enough: (all: LogLines['lines']) => boolean, ends: boolean): Promise<LogLines['lines']> {
	for (let i = 0; i < 1_000; i++) {
		const mine = bed.logs.filter((message) => message.id === id);
		const all = mine.flatMap((message) => message.lines);
		if (enough(all) && mine.some(({ end }) => end) === ends) return all;
		await pause(10);
	}
	return assert.fail(`no such lines: ${JSON.stringify(bed.logs)}`);
}

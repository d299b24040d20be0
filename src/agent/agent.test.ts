import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { ask, openTestbed } from './testbed.ts';

const bed = await openTestbed({ regions: ['fra', 'ams'] });
after(() => bed.close());

const SERVER = `
	import { word } from './word.ts';
	export default {
		async fetch(request) {
			const { pathname } = new URL(request.url);
			if (pathname === '/env') return Response.json({ ...process.env, cwd: process.cwd(), url: import.meta.url });
			return new Response(word, { status: pathname === '/healthz' ? 200 : 201 });
		},
	};`;

test('a release is started, checked, serves, is drained and frozen, and thawed again', async () => {
	const one = bed.release(bed.put({ 'src/server.ts': SERVER, 'src/word.ts': `export const word = 'one';` }));
	bed.want(one, [{ release: one.release, instances: 1, as: 'prepared' }]);
	const [prepared] = await bed.until(one, 'prepared', ([i]) => i?.state === 'prepared' && i.healthy);
	assert.deepEqual([prepared?.release, prepared?.cold, prepared?.reason, prepared?.restarts], [one.release, true, null, 0]);
	assert.equal((await ask(prepared, '/')).body, 'one');

	bed.want(one, [{ release: one.release, instances: 1, as: 'serving' }]);
	await bed.until(one, 'serving', ([i]) => i?.state === 'serving');
	const env = JSON.parse((await ask(prepared, '/env')).body);
	assert.deepEqual(
		[env.JIBE_APP, env.JIBE_ENVIRONMENT, env.JIBE_REGION, env.JIBE_RELEASE, env.NODE_ENV, env.PORT, env.JIBE_INSTANCE],
		['notes', 'production', 'fra', 'v1', 'production', '0', undefined],
	);
	assert.equal(env.url, `file://${env.cwd}/src/server.ts`);

	const two = bed.release(bed.put({ 'src/server.ts': SERVER, 'src/word.ts': `export const word = 'two';` }));
	const serving = (release: number) => ({ release, instances: 1, as: 'serving' as const });
	bed.want([one, two], [serving(one.release), { release: two.release, instances: 1, as: 'prepared' }]);
	await bed.until(one, 'both', (all) => all.length === 2 && all.every((i) => i.healthy));
	bed.want([one, two], [{ release: one.release, instances: 1, as: 'warm' }, serving(two.release)], { settle: false });
	const both = await bed.until(one, 'two serves', (all) => all.some((i) => i.release === two.release && i.state === 'serving'));
	assert.equal(both.find((i) => i.release === one.release)?.state, 'serving', 'nothing is drained before the edges obey');
	bed.settle();
	await bed.until(one, 'one is warm', (all) => all.some((i) => i.release === one.release && i.state === 'warm'));
	assert.equal(
		(
			await ask(
				bed.instances(one).find((i) => i.release === two.release),
				'/',
			)
		).body,
		'two',
	);

	bed.want([one, two], [serving(one.release), { release: two.release, instances: 1, as: 'warm' }]);
	const back = await bed.until(one, 'one serves again', (all) =>
		all.some((i) => i.release === one.release && i.state === 'serving' && i.healthy),
	);
	const again = back.find((i) => i.release === one.release);
	assert.equal(again?.pid, prepared?.pid);
	assert.equal((await ask(again, '/')).body, 'one');

	bed.want([one], [serving(one.release)]);
	await bed.until(one, 'two is gone', (all) => all.length === 1);
});

test('each want is answered with the version obeyed, even when nothing changes', async () => {
	const one = bed.release(bed.put({ 'src/server.ts': SERVER, 'src/word.ts': `export const word = 'same';` }), { app: 'same' });
	bed.want(one, [{ release: one.release, instances: 1, as: 'serving' }]);
	await bed.until(one, 'serving', ([i]) => i?.state === 'serving');
	const before = bed.obeys(one);
	assert.ok(before !== null);
	bed.want(one, [{ release: one.release, instances: 1, as: 'serving' }]);
	await bed.until(one, 'the newer version', () => bed.obeys(one) === before + 1);
});

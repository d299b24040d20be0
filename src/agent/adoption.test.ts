import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from '#clock/clock.ts';
import { ask, openTestbed } from './testbed.ts';

const SERVER = `export default { fetch: () => Response.json([process.pid, process.env.WORD ?? null, process.env.JIBE_REGION]) };`;
const health = { path: '/', timeoutMs: 2_000, strict: false };

test('instances and idle processes outlive their agent; what died meanwhile is started again; the rest is taken up', async (t) => {
	const bed = await openTestbed({ regions: ['fra', 'ams'] });
	t.after(() => bed.close());
	const one = bed.release(bed.put({ 'src/server.ts': SERVER }), { health });
	const two = bed.release(bed.put({ 'src/server.ts': `${SERVER} // two` }), { health });
	bed.want(one, [{ release: one.release, instances: 1, as: 'serving' }]);
	for (const region of ['fra', 'ams']) await bed.until({ app: 'notes', region }, 'one', ([i]) => i?.state === 'serving');
	bed.want(
		[one, two],
		[
			{ release: one.release, instances: 1, as: 'warm' },
			{ release: two.release, instances: 1, as: 'serving' },
		],
	);
	const settled = (region: string) =>
		bed.until({ app: 'notes', region }, 'two', (all) => all.map(({ state }) => state).sort().join() === 'serving,warm'); // prettier-ignore
	const before = { fra: await settled('fra'), ams: await settled('ams') };
	await untilIdle(bed, 2);

	bed.agent.close();
	const dead = before.ams.find(({ state }) => state === 'serving')?.pid ?? 0;
	process.kill(dead, 'SIGKILL');
	await bed.restart();
	const fra = await settled('fra');
	const who = (all: typeof fra) => all.map(({ pid, address }) => `${pid} ${address}`).toSorted();
	assert.deepEqual(who(fra), who(before.fra));
	const ams = await bed.until({ app: 'notes', region: 'ams' }, 'another', (all) =>
		all.some((i) => i.state === 'serving' && i.healthy && i.pid !== dead),
	);
	assert.equal(ams.filter(({ release }) => release === one.release)[0]?.pid, before.ams.find(({ state }) => state === 'warm')?.pid);
	assert.equal(ams.find(({ state }) => state === 'serving')?.cold, false, 'an idle process was adopted too, and taken');

	bed.want([one, two], [{ release: one.release, instances: 1, as: 'serving' }]);
	const [back] = await bed.until(one, 'thawed', (all) => all.length === 1 && all[0]?.state === 'serving' && all[0].healthy);
	assert.equal(JSON.parse((await ask(back, '/')).body)[0], back?.pid);
});

test('an idle process is taken when it was born as the release wants it, and thrown away when env changes', async (t) => {
	const bed = await openTestbed({ regions: ['fra', 'ams'] });
	t.after(() => bed.close());
	const vendor = bed.putVendor({
		'born/package.json': '{"name":"born","type":"module"}',
		'born/index.js': 'export const word = process.env.WORD; export const place = import.meta.url;',
	});
	const server = (n: number) =>
		`import { word } from 'born'; export default { fetch: () => Response.json([${n}, word, process.env.JIBE_REGION]) };`;
	const options = { vendor: ['born/index.js'] };
	const make = (n: number, word: string) =>
		bed.release(bed.put({ 'src/server.ts': server(n) }, options), { health, vendor, env: { WORD: word } });
	const serve = async (n: number, word: string) => {
		const spec = make(n, word);
		// Settled once it serves, as by a depot: idle processes are made from then on only.
		bed.want(spec, [{ release: spec.release, instances: 1, as: 'serving' }], { settle: false });
		const found = [];
		for (const region of ['fra', 'ams']) {
			const all = await bed.until({ app: 'notes', region }, `release ${n}`, (now) =>
				now.some((i) => i.release === spec.release && i.state === 'serving'),
			);
			const instance = all.find((i) => i.release === spec.release);
			assert.deepEqual(JSON.parse((await ask(instance, '/')).body), [n, word, region]);
			found.push(instance?.cold);
		}
		bed.settle();
		await untilIdle(bed, 2);
		return found;
	};
	assert.deepEqual(await serve(1, 'a'), [true, true]);
	assert.deepEqual(await serve(2, 'a'), [false, false]);
	assert.deepEqual(await serve(3, 'b'), [true, true]);
	assert.deepEqual(await serve(4, 'b'), [false, false]);
});

test('a server without room refuses, naming itself and what is missing', async (t) => {
	const bed = await openTestbed({ budgetMiB: 100 });
	t.after(() => bed.close());
	const one = bed.release(bed.put({ 'src/server.ts': SERVER }), { health, app: 'first' });
	const two = bed.release(one.artifact, { health, app: 'second' });
	bed.want(one, [{ release: one.release, instances: 1, as: 'serving' }]);
	await bed.until(one, 'serving', ([i]) => i?.state === 'serving');
	bed.want(two, [{ release: two.release, instances: 1, as: 'prepared' }]);
	const [refused] = await bed.until(two, 'refusal', ([i]) => i?.state === 'failed');
	assert.equal(refused?.reason, 'room');
	assert.match(refused?.detail ?? '', /^server local lacks \d+ MiB of memory/);
	assert.equal(bed.instances(one)[0]?.state, 'serving');
});

async function untilIdle(bed: { agent: { idle(): number } }, count: number): Promise<void> {
	for (let i = 0; i < 1_000 && bed.agent.idle() !== count; i++) await new Promise<void>((resolve) => systemClock.after(10, resolve));
	assert.equal(bed.agent.idle(), count);
}

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { pause } from '#clock/clock.ts';
import type { Instance, Run } from '#wire/region.ts';
import { differsMuch } from './server-state.ts';
import { ask, openTestbed } from './testbed.ts';

const bed = await openTestbed({ budgetMiB: 1000 });
after(() => bed.close());

const SERVER = `
	export default {
		async fetch(request) {
			const { pathname } = new URL(request.url);
			if (pathname === '/slow') await new Promise((resolve) => setTimeout(resolve, 2000));
			return new Response(String(process.pid));
		},
	};`;

const run = (release: number, instances: number, local: number, as: Run['as'] = 'serving'): Run => ({
	release,
	instances,
	as,
	placed: { local, elsewhere: instances - local },
});
const running = (all: Instance[]) => all.filter(({ state }) => state === 'serving');

test('a server runs what is placed on it, and nothing of what is not', async () => {
	const one = bed.release(bed.put({ 'src/server.ts': SERVER }), { app: 'placed' });
	bed.want(one, [run(one.release, 3, 2)]);
	await bed.until(one, 'two of three', (all) => running(all).length === 2);
	const two = bed.release(bed.put({ 'src/server.ts': `${SERVER}//2` }), { app: 'placed' });
	bed.want([one, two], [run(one.release, 3, 2), run(two.release, 3, 0, 'prepared')]);
	await bed.until(one, 'the newest version', () => bed.obeys(one) !== null && bed.instances(one).length === 2);
	assert.ok(bed.instances(one).every(({ release }) => release === one.release));
});

test('of more than are placed the first stays, and what goes first finishes what it was asked', async () => {
	const one = bed.release(bed.put({ 'src/server.ts': SERVER }), { app: 'fewer' });
	bed.want(one, [run(one.release, 2, 2)]);
	const [stays, goes] = await bed.until(one, 'both', (all) => running(all).length === 2);
	const slow = ask(goes, '/slow');
	await pause(50);
	bed.want(one, [run(one.release, 2, 1)], { settle: false });
	await bed.until(one, 'told', () => bed.obeys(one) !== null);
	assert.equal(running(bed.instances(one)).length, 2, 'edges may still send requests to it');
	bed.settle();
	assert.equal((await slow).status, 200);
	const left = await bed.until(one, 'one is left', (all) => all.length === 1);
	assert.equal(left[0]?.id, stays?.id);
	bed.want(one, [run(one.release, 2, 2)]);
	await bed.until(one, 'both again', (all) => running(all).length === 2);
});

test('one that leaves is called back when it is wanted again before it has gone', async () => {
	const one = bed.release(bed.put({ 'src/server.ts': SERVER }), { app: 'back' });
	bed.want(one, [run(one.release, 2, 1)]);
	const [only] = await bed.until(one, 'one', (all) => running(all).length === 1);
	const slow = ask(only, '/slow');
	await pause(50);
	bed.want(one, [run(one.release, 2, 0)]);
	await bed.until(one, 'it drains', (all) => all[0]?.state === 'draining');
	bed.want(one, [run(one.release, 2, 1)]);
	const [again] = await bed.until(one, 'it serves again', (all) => running(all).length === 1);
	assert.equal(again?.id, only?.id);
	assert.equal((await slow).status, 200);
	assert.equal((await ask(again, '/')).status, 200);
});

test('an agent says what its server has after each connection', async () => {
	const before = bed.states.length;
	bed.agent.connected();
	const said = bed.states.at(-1)!;
	assert.equal(bed.states.length, before + 1);
	assert.deepEqual([said.server, said.regions, said.budgetMiB], ['local', ['fra'], 1000]);
	assert.match(said.version, /^\d+\.\d+\.\d+/);
	assert.match(said.platform, /^[a-z]+-(x64|arm64)/);
	// 64 MiB each, or what was measured since.
	assert.ok(said.reservedMiB > 0, `${said.reservedMiB} MiB are reserved`);
	assert.ok(said.diskFreeMiB > 0 && said.diskFreeMiB <= said.diskMiB);
});

test('an app with files of its own is named, once they were seen', async () => {
	const writes = `import { writeFileSync } from 'node:fs';
		writeFileSync(process.env.JIBE_DATA_DIR + '/notes.db', 'x');
		export default { fetch: () => new Response('') };`;
	const one = bed.release(bed.put({ 'src/server.ts': writes }), { app: 'keeper' });
	bed.want(one, [run(one.release, 1, 1)]);
	await bed.until(one, 'it runs', (all) => running(all).length === 1);
	await bed.until(one, 'its files', () => bed.states.at(-1)?.keeps?.includes('keeper') === true);
	assert.deepEqual(bed.states.at(-1)?.keeps, ['keeper']);
});

test('what has hardly changed is not told again', () => {
	const state = {
		...bed.states.at(-1)!,
		budgetMiB: 1000,
		reservedMiB: 300,
		appsMiB: { notes: 100 },
		diskMiB: 100_000,
		diskFreeMiB: 50_000,
	};
	assert.equal(differsMuch(state, { ...state, reservedMiB: 340, diskFreeMiB: 49_000, at: 0 }), false);
	assert.equal(differsMuch(state, { ...state, reservedMiB: 364 }), true);
	assert.equal(differsMuch(state, { ...state, appsMiB: { notes: 110 } }), true);
	assert.equal(differsMuch(state, { ...state, appsMiB: {} }), true);
	assert.equal(differsMuch(state, { ...state, keeps: ['other'] }), true);
	assert.equal(differsMuch(state, { ...state, diskFreeMiB: 44_000 }), true);
	assert.equal(differsMuch({ ...state, diskFreeMiB: 400 }, { ...state, diskFreeMiB: 300 }), true);
});

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { tinyApp } from './fixtures/app.ts';
import { startJibe, type Jibe } from './fixtures/jibe.ts';
import { startTraffic } from './fixtures/traffic.ts';

/** Strategy rolling: in place, one instance after the other. */

const INSTANCES = 3;
const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;

let jibe: Jibe;
before(async () => {
	jibe = await startJibe({ regions: 1 });
});
after(() => jibe.stop());

interface Region {
	instances: { release: number; state: string }[];
}

async function regions(): Promise<Region[]> {
	const { json } = await jibe.api('/api/v1/apps/rolled/status?environment=production');
	return (json as { regions: Region[] }).regions;
}

test('no request fails, no region has ever more than one instance too many, and the way back is the same', async () => {
	using app = tinyApp('rolled', text('one'), { instances: INSTANCES, strategy: { type: 'rolling', watch: '1m' } });
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	await using traffic = startTraffic(jibe, 'rolled.localhost');
	const most = async (going: Promise<unknown>): Promise<number> => {
		let over = false;
		let most = 0;
		void going.finally(() => (over = true));
		while (!over) for (const { instances } of await regions()) most = Math.max(most, instances.filter(({ state }) => state !== 'draining').length); // prettier-ignore
		return most;
	};
	for (const [words, going] of [
		['two', () => jibe.cli(['deploy', '--json'], { cwd: app.write('server.ts', text('two')).dir })],
		['one', () => jibe.cli(['rollback', 'rolled', '--json'])],
	] as const) {
		const result = going();
		const seen = await most(result);
		const { code, json, stderr } = await result;
		assert.deepEqual([code, json?.['state']], [0, 'Deployed'], stderr);
		assert.ok(seen <= INSTANCES + 1, `${seen} instances at once`);
		assert.equal((await jibe.request(0, 'rolled.localhost', '/')).body, words);
	}
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
});

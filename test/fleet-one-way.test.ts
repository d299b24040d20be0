import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { startFleet, type Fleet } from './fixtures/fleet.ts';
import { noHosts } from './fixtures/hosts.ts';
import type { Visit } from './fixtures/visitors.ts';

/** Two machines are cut off from one another in one direction only: what serves goes on, and what is deployed goes live. */

const skip = noHosts();
const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;

let fleet: Fleet;
let app: App;
let edition = 0;

before(async () => {
	if (skip !== false) return;
	fleet = await startFleet({ fra: 3 });
	app = tinyApp('app', text('edition 0'), { instances: 3 });
	await fleet.expect(0, 'control', ['deploy', '--json'], { cwd: app.dir });
});
after(async () => {
	if (skip !== false) return;
	app[Symbol.dispose]();
	await fleet.stop();
});

async function deployNext(): Promise<string> {
	const words = `edition ${++edition}`;
	app.write('server.ts', text(words));
	await fleet.expect(0, 'control', ['deploy', '--json'], { cwd: app.dir });
	return words;
}

const said = ({ target, at, ms, status, error, body }: Visit) => `${target} at ${at % 100_000} +${ms}: ${status} ${error ?? body}`;

for (const [from, to] of [
	['control', 'fra-2'],
	['fra-2', 'control'],
] as const) {
	test(`nothing that ${from} says arrives at ${to}: no request fails, and a deploy goes live by way of the others`, { skip }, async () => {
		await using visitors = fleet.visit('app');
		await visitors.allAnswer(`edition ${edition}`, fleet.servers);
		fleet.hosts.cut(from, to);
		const words = await deployNext();
		await visitors.allAnswer(words, fleet.servers);
		fleet.hosts.heal(from, to);
		await fleet.connected(fleet.servers);
		await visitors.stop();
		assert.deepEqual(visitors.failures().map(said), []);
	});
}

for (const [from, to] of [
	['fra-1', 'fra-2'],
	['fra-2', 'fra-1'],
] as const) {
	test(`nothing that ${from} says arrives at its neighbour ${to}: no request fails, and a deploy goes live`, { skip }, async () => {
		await using visitors = fleet.visit('app');
		await visitors.allAnswer(`edition ${edition}`, fleet.servers);
		fleet.hosts.cut(from, to);
		const words = await deployNext();
		await visitors.allAnswer(words, fleet.servers);
		fleet.hosts.heal(from, to);
		await visitors.stop();
		assert.deepEqual(visitors.failures().map(said), []);
	});
}

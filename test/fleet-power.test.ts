import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { startFleet, type Fleet } from './fixtures/fleet.ts';
import { noHosts } from './fixtures/hosts.ts';
import type { Visit } from './fixtures/visitors.ts';

/** A server loses its power without a word to anybody while a deploy begins, and comes back. */

const skip = noHosts();
const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;
const SERVER = 'fra-1';

let fleet: Fleet;
let app: App;
let edition = 0;

before(async () => {
	if (skip !== false) return;
	fleet = await startFleet({ fra: 3, iad: 2 });
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

test('power of a server lost: others miss at most what was under way there; it comes back with what is live now', { skip }, async () => {
	const others = fleet.servers.filter((name) => name !== SERVER);
	await using visitors = fleet.visit('app');
	await visitors.allAnswer(`edition ${edition}`, fleet.servers);
	const off = Date.now();
	fleet.powerOff(SERVER);
	await visitors.allAnswer(`edition ${edition}`, others);
	// Begun before anybody knows: what was to be prepared there begins elsewhere once control does.
	const words = await deployNext();
	await visitors.allAnswer(words, others);
	await fleet.boot(SERVER);
	const on = Date.now();
	await visitors.allAnswer(words, [SERVER]);
	await visitors.stop();
	// Users who ask the dead machine itself get nothing, and nothing can be done about it from elsewhere.
	const there = visitors.failures(others);
	assert.ok(there.length > 0 && there.every(({ at }) => at >= off - 1_000 && at <= on + 1_000), there.map(said).join('\n'));
	// An edge elsewhere had a request under way to an instance there.
	const elsewhere = visitors.failures([SERVER]);
	assert.ok(elsewhere.length <= others.length && elsewhere.every(({ at }) => at < off + 1_000), elsewhere.map(said).join('\n'));
});

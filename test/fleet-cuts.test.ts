import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { startFleet, type Fleet } from './fixtures/fleet.ts';
import { noHosts } from './fixtures/hosts.ts';
import { eventually } from './fixtures/jibe.ts';
import type { Visit } from './fixtures/visitors.ts';

/** Control is cut off from everybody: what serves goes on. */

const skip = noHosts();
const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;
const SECONDS = 1_000;

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

async function lost(...names: string[]): Promise<void> {
	await eventually(
		async () => {
			const { json } = await fleet.cli('control', ['server', 'list', '--json']);
			const servers = json?.['servers'] as { name: string; state: string }[];
			return names.every((name) => servers.some((server) => server.name === name && server.state === 'lost')) ? true : null;
		},
		`loss of ${names.join(', ')}`,
		30 * SECONDS,
	);
}

const said = ({ target, at, ms, status, error, body }: Visit) => `${target} at ${at % 100_000} +${ms}: ${status} ${error ?? body}`;

test(
	'control cut off from everybody: all serve on, also a server that reboots meanwhile; healed, all take the next deploy',
	{ skip },
	async () => {
		await using visitors = fleet.visit('app');
		await visitors.allAnswer('edition 0', fleet.servers);
		for (const server of fleet.servers) fleet.hosts.part('control', server);
		await lost(...fleet.servers);
		const off = Date.now();
		fleet.powerOff('fra-3');
		await fleet.boot('fra-3');
		const on = Date.now();
		await visitors.allAnswer('edition 0', fleet.servers);
		for (const server of fleet.servers) fleet.hosts.join('control', server);
		await fleet.connected(fleet.servers);
		await visitors.allAnswer(await deployNext(), fleet.servers);
		await visitors.stop();
		// But for the one that had no power, and what its neighbours had under way there.
		const rebooted = visitors.failures(fleet.servers.filter((name) => name !== 'fra-3'));
		assert.ok(
			rebooted.every(({ at }) => at >= off - SECONDS && at <= on + SECONDS),
			rebooted.map(said).join('\n'),
		);
		const others = visitors.failures(['fra-3']);
		assert.ok(others.length <= 2 && others.every(({ at, target }) => target.startsWith('fra') && Math.abs(at - off) < SECONDS), others.map(said).join('\n')); // prettier-ignore
	},
);

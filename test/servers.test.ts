import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { COMMAND_POLL_MS, eventually, joinJibe, startJibe, type Jibe } from './fixtures/jibe.ts';
import { startTraffic } from './fixtures/traffic.ts';

/** A control without regions and a server that joined it, from two directories of this machine. */

const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;
const HOST = 'app.localhost';

let control: Jibe;
let server: Jibe;
let app: App;
before(async () => {
	control = await startJibe({ regions: [], listen: true });
	server = await joinJibe(control, { region: 'fra', name: 'web-1' });
	app = tinyApp('app', text('one'));
});
after(async () => {
	app[Symbol.dispose]();
	await server.stop();
	await control.stop();
});

async function stateOf(name: string): Promise<string | undefined> {
	const { json } = await control.expect(0, ['server', 'list', '--json']);
	return (json?.['servers'] as { name: string; state: string }[] | undefined)?.find((one) => one.name === name)?.state;
}

function connected(): Promise<true> {
	return eventually(async () => ((await stateOf('web-1')) === 'connected' ? true : null), 'connection of web-1', {
		eachMs: COMMAND_POLL_MS,
	});
}

function key(): string {
	return readFileSync(join(server.data, 'server', 'key.pem'), 'utf8');
}

test('an app goes live on a server that joined by one line', async () => {
	await connected();
	const result = await control.expect(0, ['deploy', '--json'], { cwd: app.dir });
	const { url, host } = result.json as { url: string; host: string };
	assert.match(url, /^http:\/\/127\.0\.0\.1:\d+$/);
	assert.equal(host, HOST);
	const regions = result.json?.['regions'] as { name: string; state: string }[] | undefined;
	assert.deepEqual(regions?.map(({ name, state }) => [name, state]), [['fra', 'live']]); // prettier-ignore
	const shown = await control.expect(0, ['status'], { cwd: app.dir });
	const line = /^→ (curl .*)$/m.exec(shown.stdout)?.[1] ?? '';
	assert.equal(execFileSync('sh', ['-c', `${line} -sS`], { encoding: 'utf8' }), 'one', 'what status says reaches it');
	assert.deepEqual(server.programs('control'), []);
});

test('a server that joins again while it runs gets a new key, and no request notices', async () => {
	const before = { key: key(), instances: server.programs('instance').map(({ pid }) => pid), up: server.programs('up')[0]?.pid };
	await using traffic = startTraffic(server, HOST);
	await server.join(control, { region: 'fra', name: 'web-1', words: ['--name', 'web-1'] });
	await connected();
	assert.equal((await server.request(0, HOST, '/')).status, 200);
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
	assert.notEqual(key(), before.key);
	assert.notEqual(server.programs('up')[0]?.pid, before.up);
	const still = server.programs('instance').map(({ pid }) => pid);
	assert.ok(before.instances.every((pid) => still.includes(pid)));
});

test('a server starts again from its own disk while control is away, and is there when control is back', async () => {
	await control.expect(0, ['down']);
	await server.expect(0, ['down']);
	const result = await server.expect(0, ['up', '--detach', '--json']);
	assert.deepEqual([result.json?.['server'], result.json?.['region']], ['web-1', 'fra']);
	await eventually(async () => ((await server.request(0, HOST, '/')).body === 'one' ? true : null), 'answer without control');
	await control.up();
	await connected();
	app
		.write('server.ts', text('two'))
		.write('jibe.json', JSON.stringify({ ...(JSON.parse(app.read('jibe.json')) as object), domains: ['two.example.com'] }));
	const before = String((await control.expect(0, ['status', '--json'], { cwd: app.dir })).json?.['url']);
	const { json } = await control.expect(0, ['deploy', '--json'], { cwd: app.dir });
	assert.deepEqual([json?.['url'], json?.['host']], [before.replace('127.0.0.1', 'two.example.com'), undefined]);
	assert.equal((await server.request(0, 'two.example.com', '/')).body, 'two');
});

test('what runs on the only server of a region has nowhere to go; with another there it moves, and no request notices', async () => {
	const alone = await control.cli(['server', 'drain', 'web-1', '--json']);
	assert.deepEqual([alone.code, (alone.json?.['error'] as { code: string } | undefined)?.code], [2, 'no_other_server']);
	await using second = await joinJibe(control, { region: 'fra', name: 'web-2' });
	await eventually(async () => ((await stateOf('web-2')) === 'connected' ? true : null), 'connection of web-2', {
		eachMs: COMMAND_POLL_MS,
	});
	await using traffic = startTraffic(server, HOST);
	await control.expect(0, ['server', 'drain', 'web-1']);
	assert.equal(await stateOf('web-1'), 'draining');
	assert.ok(second.programs('instance').length > 0);
	await control.expect(0, ['server', 'drain', 'web-1', '--cancel']);
	await control.expect(0, ['server', 'drain', 'web-2']);
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
	await control.expect(0, ['server', 'remove', 'web-2']);
});

test('a server that is removed is no longer one: what it says is heard by nobody', async () => {
	await control.expect(0, ['server', 'remove', 'web-1']);
	assert.equal(await stateOf('web-1'), undefined);
	await eventually(
		async () => {
			const { json } = await control.expect(0, ['region', 'list', '--json']);
			const fra = (json?.['regions'] as { name: string; state: string }[] | undefined)?.find(({ name }) => name === 'fra');
			return fra === undefined || fra.state === 'lost' ? true : null;
		},
		'loss of the region',
		{ eachMs: COMMAND_POLL_MS },
	);
	assert.equal((await control.cli(['server', 'remove', 'web-1', '--json'])).code, 2);
	assert.equal((await server.request(0, HOST, '/')).status, 200, 'its apps run until somebody stops them');
});

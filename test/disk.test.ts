import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { isolation } from '#process/isolation.ts';
import { tinyApp, type App } from './fixtures/app.ts';
import { fill, makeRoom } from './fixtures/ballast.ts';
import { COMMAND_POLL_MS, eventually, startJibe, type Jibe } from './fixtures/jibe.ts';
import { startTraffic } from './fixtures/traffic.ts';

/** A disk that is full: a clear error, nothing half-visible, and all is well once there is room again. */

const skip = isolation().mounts ? false : 'mounting a small disk needs root on Linux';
const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;
const HOST = 'app.localhost';
const MIB = 1024 * 1024;

let jibe: Jibe;
let app: App;
before(async () => {
	if (skip) return;
	jibe = await startJibe({ regions: 2, diskMiB: 700 });
	app = tinyApp('app', text('one'));
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	await eventually(() => (existsSync(join(jibe.data, 'reserve')) ? true : null), 'the reserve');
});
afterEach(() => skip || makeRoom(jibe.data));
after(async () => {
	if (skip) return;
	app[Symbol.dispose]();
	await jibe.stop();
});

/** With room again; that a server has it is heard a few seconds later. */
async function deployOnceThereIsRoom(): Promise<void> {
	makeRoom(jibe.data);
	await eventually(
		async () => {
			const { code, stderr } = await jibe.cli(['deploy', '--json'], { cwd: app.dir });
			assert.ok(code === 0 || /has a full disk/.test(stderr), stderr);
			return code === 0 ? true : null;
		},
		'a deploy with room',
		{ eachMs: COMMAND_POLL_MS },
	);
}

async function everywhere(words: string): Promise<void> {
	await eventually(async () => {
		const bodies = await Promise.all([0, 1].map(async (region) => (await jibe.request(region, HOST, '/')).body));
		return bodies.every((body) => body === words) ? true : null;
	}, `${words} everywhere`);
}

test('no room for a blob: the deploy says so, nothing of it is kept, and with room again it goes live', { skip }, async () => {
	const before = await jibe.newest('app');
	await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
	fill(jibe.data, 4 * MIB);
	app.write('server.ts', text('two'));
	for (let i = 0; i < 3; i++) app.write(`files/${i}.bin`, randomBytes(3 * MIB).toString('latin1'));
	const refused = await jibe.expect(4, ['deploy', '--json'], { cwd: app.dir });
	assert.equal((refused.json?.['error'] as { code: string } | undefined)?.code, 'store_full');
	assert.match(refused.stderr, /disk .*is full/);
	assert.deepEqual(await jibe.newest('app'), before);
	const drafts = readdirSync(join(jibe.data, 'blobs'), { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.tmp'));
	assert.deepEqual(drafts, []);
	await deployOnceThereIsRoom();
	await everywhere('two');
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
});

test('no room at all: traffic goes on, a deploy fails with a reason, and with room again it goes live', { skip }, async () => {
	await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
	fill(jibe.data, 0);
	app.write('server.ts', text('three'));
	const refused = await jibe.expect(4, ['deploy', '--json'], { cwd: app.dir });
	assert.match(refused.stderr, /disk .*is full/);
	// Room was laid by for the way back, and is given to nothing else.
	await eventually(() => (existsSync(join(jibe.data, 'reserve')) ? null : true), 'an end of the reserve');
	assert.match((await jibe.expect(4, ['deploy', '--json'], { cwd: app.dir })).stderr, /disk .*is full/);
	await jibe.expect(0, ['rollback', '--json'], { cwd: app.dir });
	await everywhere('one');
	await deployOnceThereIsRoom();
	await everywhere('three');
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
});

test('room for the upload, but not for the release on the server: nothing moves, and the reason is told', { skip }, async () => {
	await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
	app.write('server.ts', text('four'));
	// More than the reserve: what is given up in the middle is no room for it.
	app.write('files/3.bin', randomBytes(48 * MIB));
	fill(jibe.data, 54 * MIB);
	const { code, json, stderr } = await jibe.cli(['deploy', '--json'], { cwd: app.dir });
	// By then control may have heard of it: then it is refused before anything is begun.
	if (!/no server of region fra takes new instances of app now: local has a full disk/.test(stderr)) {
		assert.deepEqual([code, json?.['state']], [4, 'DeployFailed'], stderr);
		assert.match(stderr, /disk of this server is full/);
		assert.match(stderr, /Nothing moved/);
	}
	await deployOnceThereIsRoom();
	await everywhere('four');
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
});

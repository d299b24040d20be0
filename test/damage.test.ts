import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { eventually, kill, startJibe, type Jibe } from './fixtures/jibe.ts';

/** Blobs that were truncated or changed on a disk: noticed, and healed from upstream, or refused with what to do. */

const HOST = 'app.localhost';
const source = (words: string) => `import { readFileSync } from 'node:fs';
import { tail } from './lib.ts';
export default {
	fetch: () => new Response(${JSON.stringify(words)} + tail + ['small', 'large'].map((name) => readFileSync('files/' + name + '.bin').length).join()),
};
`;
const expected = (words: string) => `${words}!${SMALL_BYTES},${LARGE_BYTES}`;
/** In a pack with others, and in a file of its own. */
const [SMALL_BYTES, LARGE_BYTES] = [300_000, 3_000_000];

let jibe: Jibe;
let app: App;
before(async () => {
	jibe = await startJibe({ regions: 2 });
	app = tinyApp('app', source('one'));
	app.write('lib.ts', `export const tail: string = '!';\n`);
	app
		.write('files/small.bin', randomBytes(SMALL_BYTES / 2).toString('hex'))
		.write('files/large.bin', randomBytes(LARGE_BYTES / 2).toString('hex'));
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	await everywhere('one');
});
after(async () => {
	app[Symbol.dispose]();
	await jibe.stop();
});

async function everywhere(words: string): Promise<void> {
	await eventually(async () => {
		const bodies = await Promise.all([0, 1].map(async (region) => (await jibe.request(region, HOST, '/')).body));
		return bodies.every((body) => body === expected(words)) ? true : null;
	}, `${words} everywhere`);
}

/** Files that hold blobs, of one program. */
function blobFiles(owner: 'blobs' | 'depot' | 'agent'): string[] {
	const files = readdirSync(join(jibe.data, owner), { recursive: true, encoding: 'utf8' }).map((name) => join(jibe.data, owner, name));
	const found = files.filter((file) => /\/(packs\/[^/]*\.pack|big\/[0-9a-f]{64}(\.zst)?)$/.test(file));
	assert.ok(found.length > 0, `${owner} has blobs on its disk`);
	return found;
}

/** Every byte of the second half is another one: what a pack's index says stays true. */
function tamper(file: string): void {
	const bytes = readFileSync(file);
	for (let at = bytes.length >> 1; at < bytes.length; at++) bytes[at]! ^= 0x5a;
	writeFileSync(file, bytes);
}

function cut(file: string): void {
	truncateSync(file, readFileSync(file).length >> 1);
}

/** The agent and its instances die, and all that it had unpacked is gone: the new one fetches everything anew. */
async function startFromNothing(before: () => void): Promise<void> {
	const old = jibe.programs('agent')[0]!.pid;
	kill(old, 'SIGSTOP');
	for (const { pid } of jibe.programs('instance')) kill(pid, 'SIGKILL');
	for (const name of ['apps', 'trees', 'vendor']) rmSync(join(jibe.data, 'agent', name), { recursive: true, force: true });
	before();
	kill(old, 'SIGKILL');
	await eventually(() => (jibe.programs('agent').some(({ pid }) => pid !== old) ? true : null), 'new agent');
}

async function restart(role: string): Promise<void> {
	const old = jibe.programs(role)[0]!.pid;
	kill(old, 'SIGKILL');
	await eventually(() => (jibe.programs(role).some(({ pid }) => pid !== old) ? true : null), `new ${role}`);
}

for (const [how, damage] of [
	['changed', tamper],
	['cut short', cut],
] as const) {
	test(`blobs ${how} on the agent's disk come from the depot`, async () => {
		await startFromNothing(() => blobFiles('agent').forEach(damage));
		await everywhere('one');
	});

	test(`blobs ${how} on the disks of agent and depot come from control`, async () => {
		blobFiles('depot').forEach(damage);
		await restart('depot');
		await startFromNothing(() => blobFiles('agent').forEach(damage));
		await everywhere('one');
	});
}

test('blobs damaged everywhere: noticed by whoever reads one, and the next deploy sends all of them anew', async () => {
	app.write('server.ts', source('two'));
	blobFiles('blobs').forEach(tamper);
	blobFiles('depot').forEach(tamper);
	await restart('depot');
	await startFromNothing(() => blobFiles('agent').forEach(tamper));
	const first = await jibe.cli(['deploy', '--json'], { cwd: app.dir });
	if (first.code !== 0) {
		// Nobody had read a damaged one before this deploy needed them.
		assert.equal(first.code, 4, first.stderr);
		assert.deepEqual([first.json?.['state'], first.json?.['reason']], ['DeployFailed', 'fetch']);
		assert.match(first.stderr, /undamaged copy/);
		assert.match(first.stderr, /Deploy again/);
		await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	}
	await everywhere('two');
});

test('blobs cut short on the disk of a control that starts: noticed there, and sent anew', async () => {
	app.write('server.ts', source('three'));
	blobFiles('blobs').forEach(cut);
	await restart('control');
	const result = await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	assert.ok(Number(result.json?.['uploadedBytes']) > LARGE_BYTES / 4, 'all of it was sent');
	await everywhere('three');
});

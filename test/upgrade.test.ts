import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { tinyApp, type App } from './fixtures/app.ts';
import { kill, startJibe, type Jibe } from './fixtures/jibe.ts';
import { copyOfPackage, packageBefore, packHere } from './fixtures/packages.ts';
import { startTraffic } from './fixtures/traffic.ts';

/** An installation goes over to another version while users ask: nobody notices, however often it is interrupted. */

const HERE = fileURLToPath(new URL('../bin/jibe', import.meta.url));
const place = realpathSync(mkdtempSync(join(tmpdir(), 'jibe-upgrade-')));
const old = packageBefore(join(place, 'old'));
const skip = old === null ? 'needs the history of git' : false;
const tarball = packHere(join(place, 'packed'));
/** Between two requests, where there must be many. */
const LOAD_PAUSE_MS = 10;
let jibe: Jibe;
let app: App;

before(async () => {
	if (old === null) return;
	jibe = await startJibe({ regions: 2, bin: join(old, 'bin/jibe') });
	app = tinyApp('steady', `export default { fetch: () => new Response('one') };\n`);
	await jibe.expect(0, ['deploy'], { cwd: app.dir });
});
after(async () => {
	app?.[Symbol.dispose]();
	await jibe?.stop();
	rmSync(place, { recursive: true, force: true });
});

test('from the version before to this one, under load: no request fails, and what serves runs on', { skip }, async () => {
	const instances = serving();
	const programs = jibe.pids().filter(({ role }) => !['instance', 'postgres'].includes(role));
	await using users = startTraffic(jibe, 'steady.localhost', '/', [0, 1], LOAD_PAUSE_MS);
	const result = await jibe.expect(0, ['upgrade', tarball, '--json'], { bin: HERE });
	await users.stop();
	assert.deepEqual(users.failures, []);
	assert.ok(users.answers.length > 100, `${users.answers.length} answers`);
	const home = String(result.json?.['package']);
	assert.ok(home.startsWith(join(jibe.data, 'programs')), home);
	for (const { line, pid, role } of jibe.pids().filter((one) => !['instance', 'postgres'].includes(one.role))) {
		assert.ok(line.includes(home), line);
		assert.ok(!programs.some((before) => before.pid === pid), `${role} is still the old one`);
	}
	for (const pid of instances) assert.ok(serving().includes(pid), `instance ${pid} was stopped`);
	// The command of the version before goes on working, and so does a deploy by the new one.
	app.edit('server.ts', 'one', 'two');
	await jibe.expect(0, ['deploy'], { cwd: app.dir });
	await jibe.expect(0, ['rollback', 'steady'], { cwd: app.dir, bin: HERE });
	assert.equal((await jibe.request(1, 'steady.localhost', '/')).body, 'one');
});

test('the same again replaces nothing but the supervisor; the older command starts what was chosen', { skip }, async () => {
	const pids = () => jibe.pids().filter(({ role }) => role !== 'up' && role !== 'instance').map(({ pid }) => pid).sort((a, b) => a - b); // prettier-ignore
	const before = pids();
	await jibe.expect(0, ['upgrade', tarball], { bin: HERE });
	assert.deepEqual(pids(), before);
	await jibe.expect(0, ['down']);
	const command = copyOfPackage(join(place, 'command'));
	await jibe.expect(0, ['up', '--detach'], { bin: join(command, 'bin/jibe') });
	for (const { line } of jibe.programs('control')) assert.match(line, /\/programs\/[0-9a-f]{12}\//);
});

for (const [step, at] of [
	['before the package is whole', /Unpacking/],
	['when the supervisor has gone', /Going over/],
	['when control is being replaced', /Replacing control/],
	['when the agent is being replaced', /Replacing agent/],
	['between the two edges', /Replacing edge-1/],
] as const) {
	test(`interrupted ${step}, it ends well the next time`, { skip }, async () => {
		const other = copyOfPackage(join(place, `other-${at.source.replaceAll(/\W/g, '-')}`));
		for (const name of ['control', 'depot', 'agent', 'edge'])
			writeFileSync(join(other, `dist/${name}.js`), `\n// ${step}\n`, { flag: 'a' });
		await using users = startTraffic(jibe, 'steady.localhost', '/', [0, 1]);
		await interrupt(/Unpacking/.test(at.source) ? tarball : other, at);
		await jibe.expect(0, ['upgrade', other], { bin: HERE });
		await users.stop();
		assert.deepEqual(users.failures, []);
		for (const role of ['control', 'depot', 'agent', 'edge']) {
			for (const { line } of jibe.programs(role)) assert.ok(line.includes(other), line);
		}
		assert.ok(readdirSync(join(jibe.data, 'programs')).every((name) => !name.startsWith('.draft')));
	});
}

test('a version that does not start is taken back, and nobody notices', { skip }, async () => {
	const broken = copyOfPackage(join(place, 'broken'));
	writeFileSync(join(broken, 'dist/edge.js'), `throw new Error('this edge is broken');\n`);
	const before = jibe.programs('control')[0]!.line;
	await using users = startTraffic(jibe, 'steady.localhost', '/', [0, 1]);
	const result = await jibe.expect(4, ['upgrade', broken, '--json'], { bin: HERE });
	await users.stop();
	assert.deepEqual(users.failures, []);
	assert.match(JSON.stringify(result.json?.['error']), /this edge is broken.*runs again/s);
	assert.equal(jibe.programs('control')[0]!.line, before);
	assert.equal(jibe.programs('edge').length, 2);
});

test('back to a version that knows less of the database is refused, with the way back', { skip }, async () => {
	const older = copyOfPackage(join(place, 'older'));
	const newest = readdirSync(join(older, 'sql')).filter((name) => /^\d{4}_/.test(name)).sort().at(-1)!; // prettier-ignore
	rmSync(join(older, 'sql', newest));
	const result = await jibe.expect(2, ['upgrade', older, '--json'], { bin: HERE });
	const { code, hint } = result.json!['error'] as { code: string; hint: string };
	assert.equal(code, 'downgrade');
	assert.match(hint, /jibe restore/);
	for (const bad of ['/nowhere.tgz', 'not a version', place]) await jibe.expect(2, ['upgrade', bad], { bin: HERE });
	writeFileSync(join(place, 'damaged.tgz'), readFileSync(tarball).subarray(0, 50_000));
	await jibe.expect(2, ['upgrade', join(place, 'damaged.tgz')], { bin: HERE });
	assert.equal((await jibe.request(0, 'steady.localhost', '/')).body, 'one');
});

/** Instances that carry traffic: the idle ones of the pool come and go. */
function serving(): number[] {
	const files = readdirSync(join(jibe.data, 'pids')).filter((name) => name.startsWith('i'));
	return files.map((name) => (JSON.parse(readFileSync(join(jibe.data, 'pids', name), 'utf8')) as { pid: number }).pid);
}

/** Kills the command, and the supervisor if it has begun, at the moment that the command says so. */
async function interrupt(target: string, at: RegExp): Promise<void> {
	const env = { ...process.env, JIBE_DATA: jibe.data, HOME: place };
	const child = spawn(HERE, ['upgrade', target], { env, stdio: ['ignore', 'ignore', 'pipe'], detached: true });
	let interrupted = false;
	const lines = createInterface({ input: child.stderr });
	lines.on('line', (line) => {
		if (!at.test(line)) return;
		interrupted = kill(-child.pid!, 'SIGKILL');
		for (const { pid } of jibe.programs('up')) kill(pid, 'SIGKILL');
	});
	await once(child, 'close');
	assert.ok(interrupted, `the command never said ${at.source}`);
}

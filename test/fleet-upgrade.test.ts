import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { startFleet, type Fleet } from './fixtures/fleet.ts';
import { told } from './fixtures/fleet-story.ts';
import { COMMAND_POLL_MS, eventually, kill } from './fixtures/jibe.ts';
import { noHosts } from './fixtures/hosts.ts';
import { copyOfPackage, packDirectory } from './fixtures/packages.ts';

/** Control, then the servers that joined, wave by wave: users of all of them notice nothing. */

const skip = noHosts();
const place = realpathSync(mkdtempSync(join(tmpdir(), 'jibe-fleet-upgrade-')));
let fleet: Fleet;
let app: App;

before(async () => {
	if (skip !== false) return;
	fleet = await startFleet({ fra: 2, iad: 1 });
	await fleet.signIn();
	app = tinyApp('steady', `export default { fetch: () => new Response('one') };\n`, { instances: 2 });
	await fleet.expect(0, 'client', ['deploy'], { cwd: app.dir });
});
after(async () => {
	app?.[Symbol.dispose]();
	await fleet?.stop();
	rmSync(place, { recursive: true, force: true });
});

/** This version with another last line: a newer one, as far as anybody can tell. */
function newer(name: string, change: (directory: string) => void = () => {}): string {
	const directory = copyOfPackage(join(place, name));
	for (const program of ['up', 'control', 'depot', 'agent', 'edge']) {
		writeFileSync(join(directory, `dist/${program}.js`), `\n// ${name}\n`, { flag: 'a' });
	}
	change(directory);
	return packDirectory(directory, join(place, `${name}-packed`));
}

/** What the program with this command line was started from. */
function bundleOf(line: string): string {
	return readFileSync(/\S+\/dist\/\w+\.js/.exec(line)?.[0] ?? '', 'utf8');
}

test('every server goes over after control, by itself, and no request fails', { skip }, async () => {
	const edges = fleet.servers.filter((name) => fleet.programs(name, 'edge').length > 0);
	await using users = fleet.visit('steady', edges);
	await users.allAnswer('one', edges);
	const result = await fleet.expect(0, 'control', ['upgrade', newer('first'), '--json']);
	await users.until(Date.now());
	assert.deepEqual(users.failures(), []);
	assert.deepEqual((result.json!['servers'] as string[]).toSorted(), [...fleet.servers].toSorted());
	allRun('first');
	// What was deployed before serves on, and a deploy and a way back work.
	app.edit('server.ts', 'one', 'two');
	await fleet.expect(0, 'client', ['deploy'], { cwd: app.dir });
	await users.allAnswer('two', edges);
	await fleet.expect(0, 'client', ['rollback', 'steady'], { cwd: app.dir });
	await users.allAnswer('one', edges);
	assert.deepEqual(users.failures(), []);
});

test('interrupted while a server goes over, on control and on that server, it goes on from there', { skip }, async () => {
	await using users = fleet.visit('steady', fleet.servers);
	await users.allAnswer('one', fleet.servers);
	const tarball = newer('second');
	await fleet.interrupt('control', ['upgrade', tarball], /Going over to [^ ]+: /);
	for (const host of ['control', 'fra-1']) for (const { pid } of fleet.programs(host, 'up')) kill(pid, 'SIGKILL');
	for (const host of ['control', 'fra-1']) {
		// What was going over there may have come to its end by itself.
		const { code, stderr } = await fleet.cli(host, ['up', '--detach']);
		assert.ok(code === 0 || /already running/.test(stderr), stderr);
	}
	await fleet.expect(0, 'control', ['upgrade', tarball, '--json']);
	await users.until(Date.now());
	await users.stop();
	assert.deepEqual(told(users.failures()), []);
	allRun('second');
});

/** Every program of every machine. */
function allRun(version: string): void {
	for (const host of ['control', ...fleet.servers]) {
		for (const { role, line } of fleet.programs(host)) {
			if (role !== 'instance' && role !== 'postgres') assert.ok(bundleOf(line).endsWith(`\n// ${version}\n`), `${host}: ${line}`);
		}
	}
}

test('a server where it does not start goes back, and those after it stay as they are', { skip }, async () => {
	const edges = fleet.servers.filter((name) => fleet.programs(name, 'edge').length > 0);
	// Control's own machine has no agent: only servers can find out.
	const broken = newer('broken', (directory) =>
		writeFileSync(join(directory, 'dist/agent.js'), `throw new Error('this agent is broken');\n`),
	);
	await using users = fleet.visit('steady', edges);
	await users.allAnswer('one', edges);
	const result = await fleet.expect(4, 'control', ['upgrade', broken, '--json']);
	await users.until(Date.now());
	assert.deepEqual(users.failures(), []);
	const error = result.json?.['error'] as { message: string; hint: string } | undefined;
	assert.match(error?.message ?? '', /did not go over: .*this agent is broken/s);
	assert.match(error?.hint ?? '', /^0 of 3 servers went over/);
	for (const host of fleet.servers) {
		for (const { line } of fleet.programs(host, 'agent')) assert.match(bundleOf(line), /\/\/ second\n/);
	}
	// Repaired, it goes on; one that was stopped goes over when it is back.
	await fleet.expect(0, 'iad-1', ['down']);
	const third = await fleet.expect(0, 'control', ['upgrade', newer('third'), '--json']);
	await users.until(Date.now());
	assert.deepEqual(users.failures(['iad-1']), []);
	assert.deepEqual(third.json?.['later'], ['iad-1']);
	await fleet.boot('iad-1');
	await eventually(
		() => (fleet.programs('iad-1', 'agent').every(({ line }) => bundleOf(line).includes('// third')) ? true : null),
		'the third on iad-1',
	);
	await fleet.connected(fleet.servers);
	const own = await fleet.expect(0, 'fra-2', ['doctor', '--json']);
	const checks = (own.json?.['findings'] as { check: string; state: string }[] | undefined) ?? [];
	for (const check of ['certificate', 'control', 'clock', 'reach']) {
		assert.ok(
			checks.some((one) => one.check === check && one.state === 'ok'),
			`${check}: ${JSON.stringify(checks)}`,
		);
	}
	// Whoever looked at a neighbour while that one went over looks again.
	const look = async () => {
		const { json } = await fleet.cli('control', ['doctor', '--json']);
		const all = json?.['servers'] as { name: string; findings: { state: string }[] }[];
		for (const { name, findings } of all) assert.ok(!findings.some(({ state }) => state === 'bad'), `${name}: ${JSON.stringify(findings)}`);
		return all;
	};
	const servers = await eventually(look, 'good health of all servers', { eachMs: COMMAND_POLL_MS });
	assert.deepEqual(servers.map(({ name }) => name), [...fleet.servers].toSorted()); // prettier-ignore
});

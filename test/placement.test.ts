import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { startFleet, type Fleet } from './fixtures/fleet.ts';
import { noHosts } from './fixtures/hosts.ts';
import { COMMAND_POLL_MS, eventually } from './fixtures/jibe.ts';
import type { Visit } from './fixtures/visitors.ts';

/** Instances go to servers by name, and leave them when a person says so: users see nothing of it. */

const skip = noHosts();
const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;
const INSTANCES = 3;
const ENOUGH_VISITS = 200;

let fleet: Fleet;
let app: App;

before(async () => {
	if (skip !== false) return;
	fleet = await startFleet({ fra: 3 });
	app = tinyApp('app', text('one'), { instances: INSTANCES });
	await fleet.expect(0, 'control', ['deploy', '--json'], { cwd: app.dir });
});
after(async () => {
	if (skip !== false) return;
	app[Symbol.dispose]();
	await fleet.stop();
});

interface Listed {
	name: string;
	instances: number;
	has: { budgetMiB: number; reservedMiB: number; version: string } | null;
	placed: { app: string; release: number; instances: number }[];
}

async function listed(): Promise<Listed[]> {
	const { json } = await fleet.expect(0, 'control', ['server', 'list', '--json']);
	return json!['servers'] as Listed[];
}

/** Of the release that serves, by server. */
async function placed(release: number): Promise<Record<string, number>> {
	const servers = await listed();
	const sum = (one: Listed) => one.placed.filter((run) => run.release === release).reduce((all, { instances }) => all + instances, 0);
	return Object.fromEntries(servers.map((one) => [one.name, sum(one)]));
}

const EVEN = { 'fra-1': 1, 'fra-2': 1, 'fra-3': 1 };
const said = ({ target, at, ms, status, error, body }: Visit) => `${target} at ${at % 100_000} +${ms}: ${status} ${error ?? body}`;

test('instances are spread over the servers, and each tells what it has', { skip }, async () => {
	assert.deepEqual(await placed(1), EVEN);
	for (const { name, has, instances } of await listed()) {
		assert.ok(has && has.budgetMiB > has.reservedMiB && has.version !== '', `${name} has ${JSON.stringify(has)}`);
		assert.equal(instances, 1, name);
	}
	const { stdout } = await fleet.expect(0, 'control', ['status', 'app']);
	assert.match(stdout, /3 v1 serving on fra-1, fra-2, fra-3/);
});

test('a server is drained and taken up again while everybody asks: no request fails', { skip }, async () => {
	await using visitors = fleet.visit('app', ['fra-1', 'fra-2'], 2);
	await visitors.allAnswer('one', ['fra-1', 'fra-2']);
	await fleet.expect(0, 'control', ['server', 'drain', 'fra-3']);
	const left = (await listed()).find(({ name }) => name === 'fra-3')!;
	assert.deepEqual([left.instances, left.placed], [0, []]);
	assert.equal(
		Object.values(await placed(1)).reduce((sum, count) => sum + count, 0),
		INSTANCES,
	);
	app.write('server.ts', text('two'));
	await fleet.expect(0, 'control', ['deploy', '--json'], { cwd: app.dir });
	assert.equal((await placed(2))['fra-3'], 0, 'nothing new goes to a server that drains');
	await fleet.expect(0, 'control', ['server', 'drain', 'fra-3', '--cancel']);
	await eventually(async () => (JSON.stringify(await placed(2)) === JSON.stringify(EVEN) ? true : null), 'one instance on each', {
		eachMs: COMMAND_POLL_MS,
	});
	await eventually(() => (visitors.visits.length > ENOUGH_VISITS ? true : null), 'visits');
	await visitors.stop();
	assert.deepEqual(visitors.failures().map(said), []);
});

test('an app that asks for servers which are not there is refused, and nothing moves', { skip }, async () => {
	app.write('jibe.json', JSON.stringify({ app: 'app', entry: 'server.ts', instances: INSTANCES, servers: ['gpu'] }));
	const { json } = await fleet.expect(2, 'control', ['deploy', '--json'], { cwd: app.dir });
	const error = json!['error'] as { code: string; message: string };
	assert.deepEqual(
		[error.code, error.message],
		['no_server', 'no server of region fra has the labels that app asks for with "servers": gpu'],
	);
	assert.deepEqual(await placed(2), EVEN);
});

test('a server that is removed is left at once', { skip }, async () => {
	await using visitors = fleet.visit('app', ['fra-1', 'fra-2'], 5);
	await visitors.allAnswer('two', ['fra-1', 'fra-2']);
	const at = Date.now();
	await fleet.expect(0, 'control', ['server', 'remove', 'fra-3']);
	await eventually(
		async () => {
			const now = await placed(2);
			return (now['fra-1'] ?? 0) + (now['fra-2'] ?? 0) === INSTANCES ? true : null;
		},
		'instances on the two that are left',
		{ eachMs: COMMAND_POLL_MS },
	);
	await visitors.until(Date.now());
	await visitors.stop();
	// Each user may have had one request under way there.
	const failures = visitors.failures();
	assert.ok(failures.length <= 2 && failures.every((visit) => visit.at + visit.ms >= at), failures.map(said).join('\n'));
});

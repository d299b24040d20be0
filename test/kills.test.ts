import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { tinyApp, type App } from './fixtures/app.ts';
import { eventually, kill, startJibe, type Jibe, type Program } from './fixtures/jibe.ts';
import { startTraffic } from './fixtures/traffic.ts';

/** Every program may be killed or frozen at any moment: traffic goes on, state is whole, the next deploy works. */

const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;
const HOST = 'app.localhost';

let jibe: Jibe;
let app: App;
let edition = 0;

before(async () => {
	jibe = await startJibe({ regions: 2 });
	app = tinyApp('app', text('edition 0'));
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
});
after(async () => {
	app[Symbol.dispose]();
	await jibe.stop();
});

async function deployNext(): Promise<void> {
	const words = `edition ${++edition}`;
	app.write('server.ts', text(words));
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	await eventually(async () => ((await everywhere()).every((body) => body === words) ? true : null), `${words} everywhere`);
}

async function everywhere(): Promise<string[]> {
	return Promise.all([0, 1].map(async (region) => (await jibe.request(region, HOST, '/')).body));
}

/** Another process of the role than these, however long the old one takes to be noticed. */
async function replaced(role: string, old: readonly Program[]): Promise<void> {
	const pids = new Set(old.map(({ pid }) => pid));
	await eventually(() => {
		const now = jibe.programs(role);
		return now.length >= old.length && now.every(({ pid }) => !pids.has(pid)) ? true : null;
	}, `new ${role} after its death`);
}

for (const role of ['control', 'depot', 'agent'] as const) {
	test(`${role} killed: no request fails, and the next deploy goes live`, async () => {
		const old = jibe.programs(role);
		assert.ok(old.length > 0);
		await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
		for (const { pid } of old) kill(pid, 'SIGKILL');
		await replaced(role, old);
		await deployNext();
		await traffic.stop();
		assert.deepEqual(traffic.failures, []);
	});
}

test('PostgreSQL killed: no request fails, nothing is forgotten, and the next deploy goes live', async () => {
	const history = async () =>
		(JSON.parse((await jibe.api('/api/v1/deployments?app=app')).body) as { deployments: { id: string }[] }).deployments.length;
	const before = await history();
	await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
	const main = jibe.programs('postgres');
	assert.ok(main.length > 0);
	for (const { pid } of main) kill(pid, 'SIGKILL');
	await eventually(async () => ((await history()) >= before ? true : null), 'answer from the database');
	assert.equal(await history(), before);
	await deployNext();
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
});

test('one edge of two killed: only what it had in flight breaks, and it is back', async () => {
	const old = jibe.programs('edge');
	assert.equal(old.length, 2);
	await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
	kill(old[0]!.pid, 'SIGKILL');
	await eventually(
		() => (jibe.programs('edge').length === 2 && !jibe.programs('edge').some(({ pid }) => pid === old[0]!.pid) ? true : null),
		'second edge',
	);
	await deployNext();
	await traffic.stop();
	assert.ok(traffic.failures.length <= 1, traffic.failures.join('\n'));
});

test('one edge of two frozen is replaced, and pointers still move', async () => {
	const old = jibe.programs('edge');
	kill(old[0]!.pid, 'SIGSTOP');
	await eventually(
		() => (jibe.programs('edge').length === 2 && !jibe.programs('edge').some(({ pid }) => pid === old[0]!.pid) ? true : null),
		'edge in the place of the frozen one',
	);
	await deployNext();
});

test('both edges frozen at once are replaced: requests wait or fail for a moment, then they and pointers go on', async () => {
	const old = jibe.programs('edge');
	assert.equal(old.length, 2);
	for (const { pid } of old) kill(pid, 'SIGSTOP');
	// What waits in a frozen edge ends with it; nobody waits longer than that.
	const caught = await Promise.allSettled(Array.from({ length: 10 }, () => jibe.request(0, HOST, '/')));
	const told = caught.filter((one) => one.status === 'rejected').map(({ reason }) => String(reason));
	assert.deepEqual(
		told.filter((reason) => !/ECONNRESET|ECONNREFUSED|socket hang up/.test(reason)),
		[],
	);
	await replaced('edge', old);
	await eventually(
		async () => ((await everywhere()).every((body) => body === `edition ${edition}`) ? true : null),
		'answer from the new edges',
	);
	await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
	await deployNext();
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
});

test('an instance killed is started again, and the app answers', async () => {
	const status = JSON.parse((await jibe.api('/api/v1/apps/app/status?environment=production')).body) as {
		regions: { instances: { state: string; pid: number }[] }[];
	};
	const victim = status.regions[0]!.instances.find(({ state }) => state === 'serving')!.pid;
	kill(victim, 'SIGKILL');
	await eventually(
		async () => ((await jibe.request(0, HOST, '/')).body === `edition ${edition}` ? true : null),
		'answer after the death of its instance',
	);
});

test('the supervisor killed leaves everything running, and a new one adopts it', async () => {
	const [up] = jibe.programs('up');
	const programs = (role: string) =>
		jibe
			.programs(role)
			.map(({ pid }) => pid)
			.sort((a, b) => a - b);
	const before = { control: programs('control'), agent: programs('agent'), edge: programs('edge') };
	await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
	kill(up!.pid, 'SIGKILL');
	await eventually(() => (jibe.programs('up').length === 0 ? true : null), 'end of the supervisor');
	await jibe.up();
	assert.deepEqual({ control: programs('control'), agent: programs('agent'), edge: programs('edge') }, before);
	await deployNext();
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
});

test('everything but the edges and instances killed at once: traffic goes on and all of it comes back', async () => {
	await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
	const old = ['control', 'depot', 'agent', 'postgres'].flatMap((role) => jibe.programs(role));
	for (const { pid } of old) kill(pid, 'SIGKILL');
	await replaced(
		'control',
		old.filter(({ role }) => role === 'control'),
	);
	await deployNext();
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
});

for (const role of ['control', 'depot', 'agent'] as const) {
	test(`${role} frozen in mid-deploy: traffic goes on, and the deployment ends once it runs again`, async () => {
		const words = `edition ${++edition}`;
		app.write('server.ts', `await new Promise((resolve) => setTimeout(resolve, 1000));\n${text(words)}`);
		await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
		const deploy = jibe.cli(['deploy', '--json'], { cwd: app.dir });
		await eventually(async () => ((await jibe.newest('app'))?.state === 'Deploying' ? true : null), 'deploy under way');
		const frozen = jibe.programs(role);
		for (const { pid } of frozen) kill(pid, 'SIGSTOP');
		const seen = traffic.answers.length;
		await eventually(() => (traffic.answers.length > seen + 20 ? true : null), 'traffic while it is frozen');
		for (const { pid } of frozen) kill(pid, 'SIGCONT');
		const result = await deploy;
		assert.equal(result.code, 0, result.stderr);
		await eventually(async () => ((await everywhere()).every((body) => body === words) ? true : null), `${words} everywhere`);
		await traffic.stop();
		assert.deepEqual(traffic.failures, []);
	});
}

test('control killed in mid-deploy: the deployment finishes by itself', async () => {
	const words = `edition ${++edition}`;
	app.write('server.ts', `await new Promise((resolve) => setTimeout(resolve, 1000));\n${text(words)}`);
	const deploy = jibe.cli(['deploy', '--json'], { cwd: app.dir });
	await eventually(async () => ((await jibe.newest('app'))?.state === 'Deploying' ? true : null), 'deploy under way');
	for (const { pid } of jibe.programs('control')) kill(pid, 'SIGKILL');
	const result = await deploy;
	assert.equal(result.code, 0, result.stderr);
	assert.deepEqual(await everywhere(), [words, words]);
});

test('Ctrl-C detaches: the deployment goes on, and how to cancel it is said', async () => {
	const words = `edition ${++edition}`;
	app.write('server.ts', `await new Promise((resolve) => setTimeout(resolve, 1500));\n${text(words)}`);
	const abort = new AbortController();
	const deploy = jibe.cli(['deploy'], { cwd: app.dir, signal: abort.signal });
	await eventually(async () => ((await jibe.newest('app'))?.state === 'Deploying' ? true : null), 'deploy under way');
	abort.abort();
	const result = await deploy;
	assert.match(result.stderr, /jibe cancel dpl_/);
	await eventually(async () => ((await everywhere()).every((body) => body === words) ? true : null), `${words} everywhere`);
});

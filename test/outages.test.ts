import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { tinyApp, type App } from './fixtures/app.ts';
import { eventually, kill, startJibe, type Jibe, type Program } from './fixtures/jibe.ts';
import { startTraffic } from './fixtures/traffic.ts';

/** Several programs killed and frozen together, in mid-deploy and at rest: traffic goes on, and what was begun ends by itself. */

const text = (words: string) => `export default { fetch: () => new Response(${JSON.stringify(words)}) };\n`;
/** Long enough in its start for something to happen meanwhile. */
const slow = (words: string) => `await new Promise((resolve) => setTimeout(resolve, 800));\n${text(words)}`;
const HOST = 'app.localhost';
const ENDED = new Set(['Deployed', 'RolledBack', 'DeployFailed', 'Cancelled', 'Superseded', 'TimedOut']);
const BIN = fileURLToPath(new URL('../bin/jibe', import.meta.url));

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

async function everywhere(words: string): Promise<void> {
	await eventually(async () => {
		const bodies = await Promise.all([0, 1].map(async (region) => (await jibe.request(region, HOST, '/')).body));
		return bodies.every((body) => body === words) ? true : null;
	}, `${words} everywhere`);
}

async function deployNext(): Promise<void> {
	const words = `edition ${++edition}`;
	app.write('server.ts', text(words));
	await jibe.expect(0, ['deploy', '--json'], { cwd: app.dir });
	await everywhere(words);
}

/** Does `harm` while a release starts; what came of the deployment must be one of its ends, and served. */
async function inMidDeploy(harm: () => Promise<void> | void): Promise<void> {
	const [before, words] = [`edition ${edition}`, `edition ${++edition}`];
	app.write('server.ts', slow(words));
	const deploy = jibe.cli(['deploy', '--json'], { cwd: app.dir });
	const early = deploy.then(({ code, stderr }) => Promise.reject(new Error(`ended before it was harmed: exit ${code}\n${stderr}`)));
	await Promise.race([
		early,
		eventually(async () => ((await jibe.newest('app'))?.state === 'Deploying' ? true : null), 'deploy under way'),
	]);
	early.catch(() => {});
	await harm();
	const { code, stderr } = await deploy;
	const end = await eventually(async () => {
		const newest = await jibe.newest('app');
		return newest !== null && ENDED.has(newest.state) ? newest : null;
	}, 'end of the deployment');
	if (end.state !== 'Deployed') assert.notEqual(code, 0, stderr);
	await everywhere(end.state === 'Deployed' ? words : before);
	if (end.state !== 'Deployed') edition--;
}

const all = (...roles: string[]): Program[] => roles.flatMap((role) => jibe.programs(role));
const signal = (programs: readonly Program[], name: NodeJS.Signals) => programs.forEach(({ pid }) => kill(pid, name));

test('a deploy while control restarts waits for it', async () => {
	signal(all('control'), 'SIGKILL');
	await deployNext();
});

test('PostgreSQL frozen at rest: traffic goes on, it is replaced, and the next deploy goes live', async () => {
	await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
	signal(all('postgres'), 'SIGSTOP');
	await eventually(async () => ((await jibe.api('/api/v1/apps')).status === 200 ? true : null), 'answer from the database');
	await deployNext();
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
});

test('PostgreSQL frozen in mid-deploy: the deployment ends by itself', async () => {
	await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
	await inMidDeploy(() => signal(all('postgres'), 'SIGSTOP'));
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
});

test('control, depot, agent, one edge and PostgreSQL killed together in mid-deploy: it ends by itself', async () => {
	await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
	await inMidDeploy(() => signal([...all('control', 'depot', 'agent', 'postgres'), jibe.programs('edge')[0]!], 'SIGKILL'));
	await traffic.stop();
	assert.ok(traffic.failures.length <= 1, `only what the edge had in flight: ${traffic.failures.join('\n')}`);
	await deployNext();
});

async function controlIsBack(old: readonly Program[]): Promise<void> {
	await eventually(() => (jibe.programs('control').some(({ pid }) => !old.some((one) => one.pid === pid)) ? true : null), 'new control');
}

for (const frozen of ['depot', 'agent'] as const) {
	test(`control killed while the ${frozen} is frozen, in mid-deploy: it goes live once the ${frozen} runs again`, async () => {
		await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
		await inMidDeploy(async () => {
			const [stopped, old] = [all(frozen), all('control')];
			signal(stopped, 'SIGSTOP');
			signal(old, 'SIGKILL');
			await controlIsBack(old);
			signal(stopped, 'SIGCONT');
		});
		await traffic.stop();
		assert.deepEqual(traffic.failures, []);
	});
}

test('depot killed while control is frozen, in mid-deploy, and nobody helps: it ends by itself', async () => {
	await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
	await inMidDeploy(() => {
		signal(all('control'), 'SIGSTOP');
		signal(all('depot'), 'SIGKILL');
	});
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
});

/** Ctrl-C after so many ms, once or twice: the exit code, null when the signal ended it. */
function interrupted(afterMs: number, times: number): Promise<{ code: number | null; stderr: string }> {
	return new Promise((resolve, reject) => {
		const env = { ...process.env, JIBE_DATA: jibe.data, HOME: app.dir, CI: '' };
		const child = spawn(BIN, ['deploy', '--json'], { cwd: app.dir, env, stdio: ['ignore', 'ignore', 'pipe'] });
		let stderr = '';
		child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk));
		child.once('error', reject).once('close', (code) => resolve({ code, stderr }));
		for (let i = 0; i < times; i++) setTimeout(() => child.kill('SIGINT'), afterMs + i * 5);
	});
}

test('Ctrl-C at any moment, once or twice: a deployment is whole or not there, and the next one goes live', async () => {
	await using traffic = startTraffic(jibe, HOST, '/', [0, 1]);
	for (const [i, afterMs] of [20, 60, 100, 150, 200, 300, 400, 600, 900].entries()) {
		app.write('server.ts', slow(`interrupted ${i}`));
		const { code, stderr } = await interrupted(afterMs, 1 + (i % 2));
		assert.ok(code === null || [0, 3, 130].includes(code), `exit ${code} after ${afterMs} ms\n${stderr}`);
		assert.doesNotMatch(stderr, /\n\s+at .*:\d+:\d+/, 'no stack trace');
	}
	await deployNext();
	const { body } = await jibe.api('/api/v1/deployments?app=app');
	const { deployments } = JSON.parse(body) as { deployments: { id: string; state: string }[] };
	assert.deepEqual(
		deployments.filter(({ state }) => !ENDED.has(state)),
		[],
	);
	await traffic.stop();
	assert.deepEqual(traffic.failures, []);
});

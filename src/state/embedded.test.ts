import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import pg from 'pg';
import { identify, isAlive } from '#process/identity.ts';
import { runDirectory } from '#process/directory.ts';
import { startCluster, testLog, type TestCluster } from '../../test/fixtures/database.ts';
import { BLOBS, newDeployment, prepared } from '../../test/fixtures/release.ts';
import { startPostgres, stopPostgres, type Postgres } from './embedded.ts';
import { findServer, serverProcesses } from './postgres-files.ts';
import type { Event } from '#wire/api.ts';

async function ask(postgres: Postgres, text: string): Promise<unknown> {
	const client = new pg.Client(postgres.connection);
	await client.connect();
	try {
		const { rows } = await client.query<{ answer: unknown }>(text);
		return rows[0]?.answer;
	} finally {
		await client.end();
	}
}

function restarted(postgres: Postgres): Promise<void> {
	return new Promise((resolve) => {
		const stop = postgres.onRestart(() => {
			stop();
			resolve();
		});
	});
}

describe('the embedded server of a new installation', () => {
	let outer: string;
	let data: string;
	let runDir: string;
	let options: { data: string; runDir: string; log: typeof testLog };
	before(() => {
		outer = mkdtempSync(join(tmpdir(), 'jibe-pg-'));
		// Below a directory that the server's own uid may not enter.
		data = join(outer, 'private', 'data');
		mkdirSync(data, { recursive: true, mode: 0o700 });
		chmodSync(join(outer, 'private'), 0o700);
		runDir = runDirectory(data);
		options = { data, runDir, log: testLog };
	});
	after(async () => {
		await stopPostgres(data);
		rmSync(outer, { recursive: true });
		rmSync(runDir, { recursive: true, force: true });
	});

	test('starts, is reached by its socket and password only, and stops clean', async () => {
		const postgres = await startPostgres(options);
		assert.equal(await ask(postgres, 'select 1 as answer'), 1);
		assert.equal(await ask(postgres, `select current_setting('listen_addresses') as answer`), '');
		const password = join(data, 'postgres', 'password');
		assert.equal(statSync(password).mode & 0o777, 0o600);
		assert.equal(readFileSync(password, 'utf8'), postgres.connection.password);
		assert.equal(statSync(postgres.connection.host).mode & 0o777, 0o700);
		const stranger = new pg.Client({ ...postgres.connection, password: 'wrong' });
		await assert.rejects(stranger.connect(), { code: '28P01' });
		await postgres.stop();
		assert.equal(findServer(join(data, 'postgres', 'cluster')), null);
		assert.deepEqual(serverProcesses(join(data, 'postgres', 'cluster')), []);
	});

	test('keeps what was written, is adopted by the next control, and stopped without one', async () => {
		const first = await startPostgres(options);
		await ask(first, 'create table kept as select 7 as answer');
		first.leave(); // as a control that is killed does
		const second = await startPostgres(options);
		assert.equal(second.pid(), first.pid());
		assert.equal(await ask(second, 'select answer from kept'), 7);
		second.leave();
		assert.equal(await stopPostgres(data), true);
		assert.equal(await stopPostgres(data), false);
		const third = await startPostgres(options);
		assert.equal(await ask(third, 'select answer from kept'), 7);
		await third.stop();
	});

	test('outlives the control that started it when that is killed', async () => {
		const script = `
			import { startPostgres } from ${JSON.stringify(new URL('./embedded.ts', import.meta.url).href)};
			const log = { debug() {}, info() {}, warn() {}, error() {}, with: () => log };
			const postgres = await startPostgres({ data: ${JSON.stringify(data)}, runDir: ${JSON.stringify(runDir)}, log });
			console.log(postgres.pid());
			setInterval(() => {}, 1000);`;
		const control = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
		const [line] = (await once(control.stdout, 'data')) as [Buffer];
		const pid = Number(line.toString());
		control.kill('SIGKILL');
		await once(control, 'exit');
		const adopted = await startPostgres(options);
		assert.equal(adopted.pid(), pid);
		assert.equal(await ask(adopted, 'select 2 as answer'), 2);
		await adopted.stop();
	});

	test('a server that was frozen when control came back is replaced', async () => {
		const first = await startPostgres(options);
		const frozen = identify(first.pid());
		first.leave();
		process.kill(first.pid(), 'SIGSTOP');
		const second = await startPostgres(options);
		assert.notEqual(second.pid(), first.pid());
		assert.ok(frozen && !isAlive(frozen));
		assert.equal(await ask(second, 'select 3 as answer'), 3);
		await second.stop();
	});

	test('a crash within the first initialisation leaves nothing that looks like a database', async () => {
		rmSync(join(data, 'postgres'), { recursive: true });
		mkdirSync(join(data, 'postgres', 'draft', 'base'), { recursive: true });
		const postgres = await startPostgres(options);
		assert.equal(await ask(postgres, 'select 4 as answer'), 4);
		assert.ok(!existsSync(join(data, 'postgres', 'draft')));
		await postgres.stop();
	});
});

describe('when the server goes away', () => {
	let cluster: TestCluster;
	beforeEach(async () => {
		cluster = await startCluster();
	});
	afterEach(() => cluster.stop());

	test('killed between and within steps, every step that was answered is there, once, and its events are heard in order', async () => {
		const state = await cluster.state();
		await state.blobs.own('notes', BLOBS);
		const heard: Event[] = [];
		state.events.subscribe((event) => heard.push(event));
		const { deployment } = await state.deployments.create(
			newDeployment('notes', { plan: () => ({ rollout: null, regions: [], writes: [] }) }),
		);
		let version = 1;
		for (let kill = 0; kill < 2; kill++) {
			const back = restarted(cluster.postgres);
			for (let i = 0; i < 10; i++) {
				if (i === 3 + kill) process.kill(cluster.postgres.pid(), 'SIGKILL');
				const events = [{ type: 'deployment.region', data: { n: version } }];
				const step = await state.deployments.advance({
					deployment: deployment.id,
					fence: 1,
					version,
					at: version,
					rollout: { version },
					events,
				});
				assert.equal(step.version, version + 1);
				version = step.version;
			}
			await back;
		}
		const [held] = await state.deployments.open();
		assert.deepEqual([held?.version, held?.rollout], [21, { version: 20 }]);
		await state.events.add([{ at: 1, type: 'end', app: null, environment: null, deployment: null, data: {} }]);
		while (heard.at(-1)?.type !== 'end') await new Promise((resolve) => state.events.subscribe(resolve));
		const steps = heard.filter((event) => event.type === 'deployment.region').map((event) => event.data['n']);
		assert.deepEqual(
			steps,
			Array.from({ length: 20 }, (_, i) => i + 1),
		);
	});

	test('creates and pointer writes that lost their answer happen once', async () => {
		const state = await cluster.state();
		await state.blobs.own('notes', BLOBS);
		const back = restarted(cluster.postgres);
		const work = Promise.all(
			Array.from({ length: 12 }, async (_, i) => {
				const app = `app-${i}`;
				await state.blobs.own(app, BLOBS);
				const made = await state.deployments.create(newDeployment(app));
				return state.deployments.write({
					app,
					environment: 'production',
					writes: prepared(made.deployment.release, { epoch: 1, version: 1 }),
				});
			}),
		);
		process.kill(cluster.postgres.pid(), 'SIGKILL');
		const wants = (await work).flat();
		await back;
		assert.deepEqual(new Set(wants.map((want) => want.version)), new Set([2]));
		assert.equal((await state.deployments.history({ limit: 100 })).length, 12);
	});

	test('frozen, it is replaced, and the step that waited goes through', async () => {
		const state = await cluster.state();
		await state.blobs.own('notes', BLOBS);
		const { deployment } = await state.deployments.create(newDeployment('notes'));
		for (const pid of serverProcesses(join(cluster.data, 'postgres', 'cluster'))) process.kill(pid, 'SIGSTOP');
		assert.equal(await state.reachable(), false);
		const step = await state.deployments.advance({ deployment: deployment.id, fence: 1, version: 1, at: 1, to: 'RollingOut' });
		assert.equal(step.deployment.state, 'RollingOut');
		assert.equal(await state.reachable(), true);
	});

	test('away for longer than anyone waits, the error says so; what was asked did not happen, and afterwards all is well', async () => {
		const state = await cluster.state({ retryForMs: 50 });
		await state.blobs.own('notes', BLOBS);
		const back = restarted(cluster.postgres);
		const held = await state.deployments.create(newDeployment('notes'));
		cluster.postgres.leave();
		await stopPostgres(cluster.data);
		const step = { deployment: held.deployment.id, fence: 1, version: 1, at: 1, to: 'RollingOut' as const };
		await assert.rejects(state.deployments.advance(step), { code: 'database_unavailable', message: /PostgreSQL does not answer/ });
		assert.equal(await state.reachable(), false);
		void back;
		const again = await startPostgres({ data: cluster.data, runDir: cluster.runDir, log: testLog });
		assert.equal((await state.deployments.advance(step)).deployment.state, 'RollingOut');
		await again.stop();
	});
});

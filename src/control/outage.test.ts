import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { serverProcesses } from '#state/postgres-files.ts';
import type { Deployment, ProgressLine } from '#wire/api.ts';
import { startCluster, type TestCluster } from '../../test/fixtures/database.ts';
import { FILES, startControl, type TestControl } from '../../test/fixtures/control.ts';

let cluster: TestCluster;
before(async () => {
	cluster = await startCluster();
});
after(() => cluster.stop());

const QUICK = { strategy: { type: 'walk' as const, watch: '0s' } };

test('a killed PostgreSQL is answered with 503, forgets nothing, and is used again once it is back', async (t) => {
	const house = await startControl(t, cluster);
	await house.obedientDepot().next('welcome');
	await house.deploy('notes', { config: QUICK });
	const restarted = Promise.withResolvers<void>();
	cluster.postgres.onRestart(() => restarted.resolve());
	process.kill(cluster.postgres.pid(), 'SIGKILL');
	await restarted.promise;
	await ready(house);
	const edited = { ...FILES, 'modules/src/server.ts': 'export default 2' };
	const last = (await house.deploy('notes', { files: edited, base: FILES, config: QUICK })).lines<ProgressLine>().at(-1)!;
	assert.equal('result' in last && last.result.state, 'Deployed');
});

test('a frozen PostgreSQL gets a clear answer within a time limit, and a depot still hears what is wanted', async (t) => {
	const house = await startControl(t, cluster);
	const depot = house.obedientDepot();
	await depot.next('welcome');
	await house.deploy('notes', { config: QUICK });
	depot.link.close();
	const processes = serverProcesses(join(cluster.data, 'postgres', 'cluster'));
	signal(processes, 'SIGSTOP');
	try {
		const answers = await Promise.all([house.ask('GET', '/readyz', { token: null }), house.ask('GET', '/healthz', { token: null })]);
		assert.deepEqual(answers.map(({ status }) => status), [503, 200]); // prettier-ignore
		assert.equal(answers[0].json().error.code, 'database_unavailable');
		const back = house.depot();
		const { wants } = await back.next('wants');
		assert.equal(wants.length, 2);
	} finally {
		signal(processes, 'SIGCONT');
	}
	await ready(house);
	const { deployments } = (await house.ask('GET', '/api/v1/deployments?app=notes')).json<{ deployments: Deployment[] }>();
	assert.deepEqual(deployments.map(({ state }) => state), ['Deployed']); // prettier-ignore
});

/** What watches the server may have ended some of them meanwhile. */
function signal(pids: readonly number[], name: 'SIGSTOP' | 'SIGCONT'): void {
	for (const pid of pids) {
		try {
			process.kill(pid, name);
		} catch (error) {
			if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
		}
	}
}

async function ready(house: TestControl): Promise<void> {
	while ((await house.ask('GET', '/readyz', { token: null })).status !== 200);
}

import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { runDirectory } from '#process/directory.ts';
import type { State } from '#state/state.ts';
import type { BuildAnswer, BuildLogLine } from '#wire/builds.ts';
import { issueCredential } from '#wire/credential.ts';
import { newBuild } from './fixtures/build.ts';
import type { ClaimerSettings } from './fixtures/claimer.ts';
import { askHttp, fakeDepot, obey, type FakeDepot } from './fixtures/control.ts';
import { startCluster, type TestCluster } from './fixtures/database.ts';
import { eventually, kill } from './fixtures/jibe.ts';

/**
 * Control, PostgreSQL and builders are killed, or frozen, while builds are in every state at once: each becomes one
 * deployment all the same, and whoever was fenced gets no word in any more.
 */

const STATES = ['claimed', 'building', 'testing', 'packaging', 'uploading', 'gating'];
const EXPIRES = 4_000_000_000;
const PATIENCE_MS = 60_000;

let cluster: TestCluster;
let house: House;
before(async () => {
	cluster = await startCluster();
	house = await House.open(cluster);
});
after(async () => {
	await house?.close();
	await cluster.stop();
});

test('control killed: builds go on where they were, in the same attempt', async () => {
	const apps = await house.oneInEach('control');
	await house.killControl();
	await house.goOn();
	await house.allDeployed(apps, 1);
});

test('PostgreSQL killed: builds go on where they were, in the same attempt', async () => {
	const apps = await house.oneInEach('postgres');
	house.killPostgres();
	await house.goOn();
	await house.allDeployed(apps, 1);
});

test('builders killed: others take their builds over, once', async () => {
	const apps = await house.oneInEach('builders');
	kill(house.claimer.child.pid!, 'SIGKILL');
	await house.startClaimer(true);
	await house.allDeployed(apps, 2);
});

test('builders frozen: others take their builds over, and what wakes up later is refused', async () => {
	const apps = await house.oneInEach('frozen');
	const frozen = house.claimer;
	kill(frozen.child.pid!, 'SIGSTOP');
	await house.expireLeases();
	await house.startClaimer(true);
	await house.allDeployed(apps, 2);
	kill(frozen.child.pid!, 'SIGCONT');
	frozen.go();
	for (const _ of STATES) assert.match(await frozen.next(/^(over|done) at-/), /^over at-\S+ fenced$/);
	await house.allDeployed(apps, 2);
	kill(frozen.child.pid!, 'SIGKILL');
});

class House {
	claimer!: Claimer;
	/** Also those that are frozen when a test fails. */
	readonly #claimers: Claimer[] = [];
	readonly #cluster: TestCluster;
	readonly #data = mkdtempSync(join(tmpdir(), 'jibe-queue-kills-'));
	readonly #state: State;
	readonly #port: number;
	#control!: ChildProcess;
	#admin = '';
	#credential = '';
	#depot: FakeDepot | null = null;
	#workers = 0;

	private constructor(of: TestCluster, state: State, port: number) {
		this.#cluster = of;
		this.#state = state;
		this.#port = port;
	}

	static async open(of: TestCluster): Promise<House> {
		const made = new House(of, await of.state({ database: of.postgres.connection }), await freePort());
		await made.startControl();
		const { id, privatePem } = await made.#state.installation();
		const claims = { installation: id, server: 'local', expires: EXPIRES };
		made.#credential = issueCredential({ ...claims, role: 'builder', regions: [] }, privatePem);
		made.#depot = fakeDepot(
			made.#url,
			issueCredential({ ...claims, role: 'depot', regions: ['fra', 'ams'] }, privatePem),
			['fra', 'ams'],
			[],
		);
		obey(made.#depot);
		return made;
	}

	get #url(): string {
		return `http://127.0.0.1:${this.#port}`;
	}

	async startControl(): Promise<void> {
		const { host, port, user, password, database } = this.#cluster.postgres.connection;
		const databaseUrl = `postgresql://${user}:${encodeURIComponent(password)}@/${database}?host=${encodeURIComponent(host)}&port=${port}`;
		const regions = ['fra', 'ams'].map((name, n) => ({ name, edgePort: 8080 + n }));
		const settings = { data: this.#data, port: this.#port, regions, databaseUrl, builderGraceMs: 1_000 };
		this.#control = program('../scripts/program.ts', ['control', this.#data], settings);
		await Promise.race([
			once(this.#control.stdout!, 'data'),
			once(this.#control, 'exit').then(([code]) => assert.fail(`control ended with ${String(code)}`)),
		]);
		this.#admin = readFileSync(join(this.#data, 'admin.token'), 'utf8').trim();
	}

	async killControl(): Promise<void> {
		const ended = once(this.#control, 'exit');
		kill(this.#control.pid!, 'SIGKILL');
		await ended;
		await this.startControl();
	}

	killPostgres(): void {
		kill(Number(readFileSync(join(this.#cluster.data, 'postgres/cluster/postmaster.pid'), 'utf8').split('\n')[0]), 'SIGKILL');
	}

	/** One build held in each state, and one that waits; their apps. */
	async oneInEach(why: string): Promise<string[]> {
		const apps = STATES.map((state) => `at-${state}-${why}`);
		this.claimer?.child.kill('SIGKILL');
		await this.startClaimer(false);
		for (const app of apps) await this.#queue(app);
		for (const _ of apps) await this.claimer.next(/^at /);
		const waiting = `waits-${why}`;
		await this.#queue(waiting);
		return [...apps, waiting];
	}

	async startClaimer(through: boolean): Promise<void> {
		const workers = STATES.map((state) => `${state}-${++this.#workers}`);
		this.claimer = new Claimer({ url: this.#url, credential: this.#credential, through, workers });
		this.#claimers.push(this.claimer);
		await this.claimer.next(/^ready/);
	}

	async goOn(): Promise<void> {
		this.claimer.go();
		for (const _ of STATES) await this.claimer.next(/^done at-/);
	}

	/** As when so much time has passed since their last beat. */
	async expireLeases(): Promise<void> {
		const client = new pg.Client(this.#cluster.postgres.connection);
		await client.connect();
		await client.query(`update jibe.build set leased_until = clock_timestamp() - interval '1 s' where phase in ('running', 'gating')`);
		await client.end();
	}

	/** `attempts`: of those that a builder had; the one that waited was had once. */
	async allDeployed(apps: readonly string[], attempts: number): Promise<void> {
		for (const app of apps) {
			const of = await eventually(() => this.#settled(app), `${app} deployed`, { withinMs: PATIENCE_MS });
			const { build, deployment } = of;
			assert.deepEqual([deployment?.state, deployment?.id], ['Deployed', build?.id], JSON.stringify(of));
			assert.equal(build?.attempt, app.startsWith('waits') ? 1 : attempts, app);
			const deployments = await this.#state.deployments.history({ app, limit: 10 });
			assert.equal(deployments.length, 1, `${app} was deployed once`);
			const path = `/api/v1/builds/${build?.id}/log`;
			const lines = (await askHttp(this.#url, this.#admin, 'GET', path, {})).lines<BuildLogLine>().map(({ text }) => text);
			assert.deepEqual(lines.slice(-4), ['Building', 'Testing', 'Packaging', 'Uploading']);
			const states = deployment!.stages.map(({ state }) => state);
			assert.equal(new Set(states).size, states.length, `no state twice: ${states.join(' ')}`);
		}
		await eventually(async () => ((await this.#state.builds.queue()).running === 0 ? true : null), 'no build that runs', {
			withinMs: PATIENCE_MS,
		});
	}

	async close(): Promise<void> {
		this.#depot?.link.close();
		for (const { child } of this.#claimers) child.kill('SIGKILL');
		const ended = once(this.#control, 'exit');
		this.#control.kill('SIGTERM');
		await ended;
		rmSync(runDirectory(this.#data), { recursive: true, force: true });
		rmSync(this.#data, { recursive: true, force: true });
	}

	async #settled(app: string): Promise<BuildAnswer | null> {
		const [build] = await this.#state.builds.list({ app, limit: 1 });
		const deployment = build?.deployed ? await this.#state.deployments.deployment(build.id) : null;
		return build?.phase === 'ended' && (deployment === null || deployment.endedAt !== null) ? { build, deployment } : null;
	}

	async #queue(app: string): Promise<void> {
		await this.#state.builds.enqueue(
			newBuild({ app, lane: app, commit: null, source: { kind: 'tar', digest: `sha256:${'0'.repeat(64)}` } }),
		);
	}
}

class Claimer {
	readonly child: ChildProcess;
	readonly #said: string[] = [];

	constructor(settings: ClaimerSettings) {
		this.child = program('fixtures/claimer.ts', [], settings);
		createInterface({ input: this.child.stdout! }).on('line', (line) => this.#said.push(line));
	}

	go(): void {
		this.child.stdin!.write('go\n');
	}

	next(pattern: RegExp): Promise<string> {
		const found = () => {
			const at = this.#said.findIndex((line) => pattern.test(line));
			return at >= 0 ? this.#said.splice(at, 1)[0]! : null;
		};
		return eventually(found, `a claimer that says ${pattern}`, { withinMs: PATIENCE_MS });
	}
}

function program(file: string, words: readonly string[], settings: object): ChildProcess {
	const env = { ...process.env, JIBE_PROGRAM: JSON.stringify(settings) };
	return spawn(process.execPath, [join(import.meta.dirname, file), ...words], {
		env,
		stdio: ['pipe', 'pipe', process.env['JIBE_TEST_LOG'] ? 'inherit' : 'ignore'],
	});
}

async function freePort(): Promise<number> {
	const server = createServer().listen(0, '127.0.0.1');
	await once(server, 'listening');
	const { port } = server.address() as AddressInfo;
	server.close();
	await once(server, 'close');
	return port;
}

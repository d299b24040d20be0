import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createLog } from '#log/log.ts';
import { runDirectory } from '#process/directory.ts';
import { startPostgres } from '#state/embedded.ts';
import { BenchJibe, type Ran } from './jibe.ts';
import { percentile, type Row } from './row.ts';

/**
 * Two controls on one database, a server that joined, and a developer whose `jibe` knows both addresses. The control that
 * drives a deploy is killed while the release starts: how much longer it takes than one that nothing happens to.
 */
const APP = 'notes';
const RUNS = 5;
/** Of the app's start: time enough to be killed in. */
const START_MS = 1_000;
const LOOK_MS = 10;

export async function bench(): Promise<Row[]> {
	const house = new House();
	try {
		await house.up();
		await house.deploy(0);
		const calm: number[] = [];
		const struck: number[] = [];
		for (let n = 1; n <= RUNS; n++) {
			calm.push((await house.deploy(n * 2)).ms);
			struck.push((await house.deployAndKill(n * 2 + 1)).ms);
		}
		process.stderr.write(`undisturbed ${calm.map(Math.round).join(' ')} ms, control killed ${struck.map(Math.round).join(' ')} ms\n`);
		const lost = struck.map((ms) => ms - percentile(calm, 0.5));
		return [{ row: 'replica-takeover', value: Math.round(Math.max(...lost)), unit: 'ms', bar: 5000, goal: 1000 }];
	} finally {
		await house.end();
	}
}

class House {
	readonly controls = [new BenchJibe(), new BenchJibe()];
	readonly #server = new BenchJibe();
	readonly #urls: string[] = [];
	#database: { stop(): Promise<void> } | null = null;
	#token = '';

	async up(): Promise<void> {
		const data = join(this.#server.place, 'database');
		mkdirSync(data);
		const postgres = await startPostgres({ data, runDir: runDirectory(data), log: createLog({}, { level: 'error' }) });
		this.#database = postgres;
		const { host, port, user, password, database } = postgres.connection;
		// Programs get it from their supervisor, which gets it from the command.
		process.env['DATABASE_URL'] =
			`postgresql://${user}:${encodeURIComponent(password)}@/${database}?host=${encodeURIComponent(host)}&port=${port}`;
		const store = `file://${join(this.#server.place, 'blobs')}`;
		for (const control of this.controls) {
			const [http, tls] = [await freePort(), await freePort()];
			await control.run(['up', '--regions', 'none', '--port', String(http), '--listen', `127.0.0.1:${tls}`, '--store', store, '--detach']);
			this.#urls.push(`http://127.0.0.1:${http}`);
		}
		delete process.env['DATABASE_URL'];
		this.#token = readFileSync(join(this.controls[0]!.data, 'admin.token'), 'utf8').trim();
		const { json } = await this.controls[0]!.run(['server', 'add', '--region', 'fra', '--roles', 'depot,agent,edge']);
		const edge = String(await freePort());
		await this.#server.run([
			'agent',
			'join',
			String(json['join']),
			'--name',
			'fra-1',
			'--host',
			'127.0.0.1',
			'--edge-port',
			edge,
			'--detach',
		]);
		for (const control of this.controls) await connected(control);
		// From now on everything is asked of whoever answers.
		process.env['JIBE_SERVER'] = this.#urls.join(',');
		process.env['JIBE_TOKEN'] = this.#token;
	}

	deploy(n: number): Promise<Ran> {
		const dir = join(this.#server.place, APP);
		mkdirSync(dir, { recursive: true });
		writeFileSync(join(dir, 'package.json'), '{"type":"module"}');
		writeFileSync(join(dir, 'jibe.json'), JSON.stringify({ app: APP, entry: 'server.ts', strategy: { type: 'walk', watch: '1s' } }));
		const slowly = `await new Promise((resolve) => setTimeout(resolve, ${START_MS}));`;
		writeFileSync(join(dir, 'server.ts'), `${slowly}\nexport default { fetch: () => new Response('edition ${n}') };\n`);
		return this.#server.run(['deploy'], dir);
	}

	/** The one that drives it is the one that was asked: the first. */
	async deployAndKill(n: number): Promise<Ran> {
		const before = await this.#newest(1);
		const deploying = this.deploy(n);
		for (;;) {
			const newest = await this.#newest(1);
			if (newest?.id !== before?.id && newest?.state === 'Deploying') break;
			await pause(LOOK_MS);
		}
		const [first] = this.controls;
		for (const pid of first!.pids('control')) process.kill(pid, 'SIGKILL');
		const ran = await deploying;
		await connected(first!);
		return ran;
	}

	async end(): Promise<void> {
		delete process.env['JIBE_SERVER'];
		delete process.env['JIBE_TOKEN'];
		for (const one of this.controls) await one.end();
		await this.#server.attempt(['down']);
		await this.#database?.stop();
		rmSync(runDirectory(join(this.#server.place, 'database')), { recursive: true, force: true });
		rmSync(this.#server.place, { recursive: true, force: true });
	}

	/** As the control at this address tells. */
	async #newest(index: number): Promise<{ id: string; state: string } | undefined> {
		const headers = { authorization: `Bearer ${this.#token}` };
		const answer = await fetch(`${this.#urls[index]}/api/v1/deployments?app=${APP}&limit=1`, { headers });
		return ((await answer.json()) as { deployments: { id: string; state: string }[] }).deployments[0];
	}
}

/** Its depot has a link to this control, too. */
async function connected(control: BenchJibe): Promise<void> {
	const { url } = JSON.parse(readFileSync(join(control.data, 'endpoint.json'), 'utf8')) as { url: string };
	const token = readFileSync(join(control.data, 'admin.token'), 'utf8').trim();
	for (;;) {
		try {
			const answer = await fetch(`${url}/api/v1/regions`, { headers: { authorization: `Bearer ${token}` } });
			const { regions } = (await answer.json()) as { regions?: { state: string; servers: number; edges: number }[] };
			if (regions?.some(({ state, servers, edges }) => state === 'connected' && servers > 0 && edges > 1)) return;
		} catch (error) {
			if (!(error instanceof TypeError)) throw error; // it is just starting again
		}
		await pause(LOOK_MS * 5);
	}
}

async function freePort(): Promise<number> {
	const server = createServer().listen(0, '127.0.0.1');
	await new Promise((resolve) => server.once('listening', resolve));
	const { port } = server.address() as { port: number };
	await new Promise((resolve) => server.close(resolve));
	return port;
}

function pause(ms: number): Promise<void> {
	return new Promise((resolve) => setTimeout(resolve, ms));
}

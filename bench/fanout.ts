import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { systemClock as clock } from '#clock/clock.ts';
import { nodeOptions, programEnvironment, scriptOf } from '#cli/up/programs.ts';
import type { Connection } from '#state/state.ts';
import { issueCredential } from '#wire/credential.ts';
import type { Link } from '#wire/link.ts';
import { LOCAL_REGIONS } from '#wire/local-regions.ts';
import { UPLOAD_TYPE } from '#wire/upload.ts';
import { uploadOf } from '../test/fixtures/control.ts';
import { startCluster, testLog as log, type TestCluster } from '../test/fixtures/database.ts';
import { openLeader } from './fanout-leader.ts';
import type { FanoutServer } from './fanout-servers.ts';
import { percentile, type Row } from './row.ts';

/**
 * 10,000 servers in 24 regions, each with a link of its own to one control: how long after the database has a pointer
 * the last of them hear of it, and what a link costs in memory. Control is the real program on a real database; of the
 * servers only the links are real, and in each region one more that does what it is told, so that rollouts end. The links
 * are those of the loopback listener: what TLS adds is OpenSSL's (some 50 KiB a connection of Node's), and not ours to change.
 */
const SERVERS = 10_000;
const REGIONS = [...LOCAL_REGIONS];
const PROCESSES = 4;
const RUNS = 10;
const SETTLE_MS = 1_500;
/** Garbage of the handshakes is collected, pings go. */
const REST_MS = 12_000;
const OPEN_FILES = SERVERS + 2_000;
const APP = 'api';

export async function bench(): Promise<Row[]> {
	allowOpenFiles();
	const cluster = await startCluster();
	const control = new FanoutControl(cluster);
	try {
		await control.start();
		const before = control.memoryBytes();
		await control.connect();
		await pause(REST_MS);
		const bytes = Math.round((control.memoryBytes() - before) / SERVERS);
		const heard = await control.pointers();
		return [
			{ row: 'fanout-10k-p99', value: percentile(heard, 0.99), unit: 'ms', bar: 250, goal: 120, peers: { p50: percentile(heard, 0.5) } },
			{ row: 'fanout-10k-bytes', value: bytes, unit: 'bytes', bar: 32_768, goal: 12_288 },
		];
	} finally {
		await control.end();
		await cluster.stop();
	}
}

/** Processes inherit this one's limit. */
function allowOpenFiles(): void {
	const { status, stderr } = spawnSync('prlimit', [`--pid=${process.pid}`, `--nofile=${OPEN_FILES}:${OPEN_FILES}`], { encoding: 'utf8' });
	const limit = Number(/open files\s+(\d+)/.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]);
	if (limit < OPEN_FILES)
		throw new Error(`${SERVERS} links need ${OPEN_FILES} open files, ${limit} are allowed (exit ${status}: ${stderr})`);
}

class FanoutControl {
	readonly #cluster: TestCluster;
	readonly #dir = mkdtempSync(join(tmpdir(), 'jibe-fanout-'));
	readonly #clients: Client[] = [];
	readonly #leaders: Link[] = [];
	#process: ChildProcess | null = null;
	#database: Connection = '';
	#port = 0;
	#token = '';

	constructor(cluster: TestCluster) {
		this.#cluster = cluster;
	}

	async start(): Promise<void> {
		this.#database = await this.#cluster.database();
		if (typeof this.#database === 'string') throw new Error('a cluster of its own has its database on a socket');
		const { host, port, user, password, database } = this.#database;
		const databaseUrl = `postgres://${user}:${password}@/${database}?host=${encodeURIComponent(host)}&port=${port}`;
		this.#port = await freePort();
		const regions = REGIONS.map((name, index) => ({ name, edgePort: 8080 + index }));
		const settings = { data: this.#dir, port: this.#port, regions, databaseUrl };
		// As the supervisor would start it.
		const child = spawn(process.execPath, [...nodeOptions('control'), ...scriptOf('control'), this.#dir], {
			env: programEnvironment(this.#dir, 'control', settings),
			stdio: ['ignore', 'pipe', openSync(join(this.#dir, 'control.log'), 'a')],
		});
		this.#process = child;
		for await (const line of createInterface({ input: child.stdout! })) if (line === 'ready') break;
		this.#token = readFileSync(join(this.#dir, 'admin.token'), 'utf8').trim();
	}

	/** Of the process alone, what it shares with others not counted whole. */
	memoryBytes(): number {
		const text = readFileSync(`/proc/${this.#process?.pid}/smaps_rollup`, 'utf8');
		return Number(/^Pss:\s+(\d+) kB/m.exec(text)?.[1]) * 1024;
	}

	async connect(): Promise<void> {
		const state = await this.#cluster.state({ database: this.#database });
		const { id, privatePem } = await state.installation();
		const credential = (server: string, region: string) =>
			issueCredential(
				{ installation: id, role: 'depot', server, regions: [region], expires: Math.floor(clock.now() / 1000) + 3600 },
				privatePem,
			);
		const servers = Array.from({ length: SERVERS }, (_, i): FanoutServer => {
			const region = REGIONS[i % REGIONS.length]!;
			return { server: `s${i}`, region, credential: credential(`s${i}`, region), from: `127.0.0.${2 + (i % PROCESSES)}`, tls: null };
		});
		this.#clients.push(
			...Array.from(
				{ length: PROCESSES },
				(_, i) =>
					new Client(
						this.#port,
						servers.filter((_server, n) => n % PROCESSES === i),
					),
			),
		);
		await Promise.all(this.#clients.map((client) => client.ask('connect')));
		for (const region of REGIONS) {
			const url = `ws://127.0.0.1:${this.#port}/link`;
			this.#leaders.push(openLeader({ url, region, server: `lead-${region}`, credential: credential(`lead-${region}`, region), log }));
		}
	}

	/** For each server and pointer: from the record of the pointers' transaction to its arrival. */
	async pointers(): Promise<number[]> {
		const first = await this.#deploy({ 'index.json': '{"format":1}', 'modules/src/server.ts': 'export default {}' });
		const second = await this.#deploy({ 'index.json': '{"format":1}', 'modules/src/server.ts': 'export default { }' });
		const heard: number[] = [];
		for (let n = 0; n < RUNS; n++) {
			await pause(SETTLE_MS);
			await Promise.all(this.#clients.map((client) => client.ask('forget')));
			const { id, stages } = await this.#rollback(n % 2 === 0 ? first : second);
			await pause(SETTLE_MS);
			const moved = stages.find(({ state }) => state === 'Deploying')?.at ?? 0;
			const at = (await Promise.all(this.#clients.map((client) => client.ask('heard')))).flatMap((said) => said['heard'] as number[]);
			if (at.length !== SERVERS) throw new Error(`${at.length} of ${SERVERS} servers heard of ${id}`);
			heard.push(...at.map((ms) => ms - moved));
		}
		return heard;
	}

	async #deploy(files: Record<string, string>): Promise<number> {
		const answer = await this.#ask('POST', `/api/v1/apps/${APP}/deployments`, uploadOf(APP, { files }), UPLOAD_TYPE);
		return ended(answer).release;
	}

	async #rollback(to: number): Promise<{ id: string; stages: { state: string; at: number }[] }> {
		const body = Buffer.from(JSON.stringify({ environment: 'production', to, undo: null, again: true, reason: null }));
		ended(await this.#ask('POST', `/api/v1/apps/${APP}/rollbacks`, body, 'application/json'));
		const list = JSON.parse(await this.#ask('GET', `/api/v1/deployments?app=${APP}&limit=1`)) as { deployments: never[] };
		return list.deployments[0]!;
	}

	async #ask(method: string, path: string, body?: Uint8Array<ArrayBuffer>, type?: string): Promise<string> {
		const headers = { authorization: `Bearer ${this.#token}`, ...(type === undefined ? {} : { 'content-type': type }) };
		const response = await fetch(`http://127.0.0.1:${this.#port}${path}`, { method, headers, ...(body === undefined ? {} : { body }) });
		const text = await response.text();
		if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
		return text;
	}

	async end(): Promise<void> {
		for (const link of this.#leaders) link.close();
		for (const client of this.#clients) client.end();
		const child = this.#process;
		if (child) {
			const ended = new Promise((resolve) => child.once('exit', resolve));
			child.kill('SIGKILL');
			await ended;
		}
		rmSync(this.#dir, { recursive: true, force: true });
	}
}

/** @throws unless it is live everywhere */
function ended(answer: string): { release: number } {
	const { result } = JSON.parse(answer.trim().split('\n').at(-1) ?? '') as { result?: { state: string; release: number } };
	if (result?.state !== 'Deployed') throw new Error(`it did not end Deployed: ${answer.slice(-1_000)}`);
	return result;
}

/** One process with its share of the servers. */
class Client {
	readonly #child: ChildProcess;
	readonly #lines: AsyncIterator<string>;

	constructor(port: number, servers: readonly FanoutServer[]) {
		const script = join(import.meta.dirname, 'fanout-servers.ts');
		this.#child = spawn(process.execPath, [script, '127.0.0.1', String(port)], { stdio: ['pipe', 'pipe', 'inherit'] });
		this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
		for (const server of servers) this.#child.stdin!.write(`${JSON.stringify(server)}\n`);
	}

	async ask(word: 'connect' | 'forget' | 'heard'): Promise<Record<string, unknown>> {
		this.#child.stdin!.write(`${word}\n`);
		const { value, done } = (await this.#lines.next()) as { value: string; done?: boolean };
		if (done) throw new Error('a process of servers ended');
		const said = JSON.parse(value) as Record<string, unknown>;
		if ('lost' in said) throw new Error(`the link of ${String(said['lost'])} was lost`);
		return said;
	}

	end(): void {
		this.#child.kill('SIGKILL');
	}
}

function freePort(): Promise<number> {
	return new Promise((resolve) => {
		const server = createServer();
		server.listen(0, '127.0.0.1', () => {
			const { port } = server.address() as { port: number };
			server.close(() => resolve(port));
		});
	});
}

function pause(ms: number): Promise<void> {
	return new Promise((resolve) => setTimeout(resolve, ms));
}

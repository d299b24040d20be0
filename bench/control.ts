import { spawn, type ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLog } from '#log/log.ts';
import { runDirectory } from '#process/directory.ts';
import { startPostgres, type Postgres } from '#state/embedded.ts';

/** A control of its own for a bench, without the programs of regions: asked over HTTP, as builders and commands do. */

const MAIN = join(import.meta.dirname, '..', 'src/control/main.ts');
const TICKS_PER_S = 100;

export interface Answered {
	status: number;
	text: string;
}

export class BenchControl {
	readonly data = mkdtempSync(join(tmpdir(), 'jibe-bench-'));
	readonly #agent = new Agent({ keepAlive: true, maxSockets: 256 });
	#postgres: Postgres | null = null;
	#child: ChildProcess | null = null;
	#port = 0;
	admin = '';
	/** Of a builder. */
	credential = '';

	async start(): Promise<void> {
		const directory = join(this.data, 'database');
		mkdirSync(directory);
		this.#postgres = await startPostgres({ data: directory, runDir: runDirectory(directory), log: createLog({}, { level: 'error' }) });
		this.#port = await freePort();
		const settings = {
			data: this.data,
			port: this.#port,
			regions: [{ name: 'fra', edgePort: await freePort() }],
			databaseUrl: this.databaseUrl,
		};
		const program = `import(${JSON.stringify(MAIN)}).then(({ main }) => main(JSON.parse(process.env.JIBE_PROGRAM)))`;
		const child = spawn(process.execPath, ['-e', program], {
			env: { ...process.env, JIBE_PROGRAM: JSON.stringify(settings) },
			stdio: ['ignore', 'pipe', process.env['JIBE_BENCH_LOG'] ? 'inherit' : 'ignore'],
		});
		this.#child = child;
		await new Promise<void>((resolve, reject) => {
			child.stdout.once('data', () => resolve());
			child.once('exit', (code) => reject(new Error(`control ended with ${code}`)));
		});
		this.admin = readFileSync(join(this.data, 'admin.token'), 'utf8').trim();
		const made = await this.ask('POST', '/api/v1/credentials', this.admin, { role: 'builder', server: 'bench', regions: [] });
		this.credential = (JSON.parse(made.text) as { credential: string }).credential;
	}

	get databaseUrl(): string {
		const { host, port, user, password, database } = this.#postgres!.connection;
		return `postgresql://${user}:${encodeURIComponent(password)}@/${database}?host=${encodeURIComponent(host)}&port=${port}`;
	}

	get url(): string {
		return `http://127.0.0.1:${this.#port}`;
	}

	ask(method: string, path: string, token: string, body?: object | Buffer, type = 'application/json'): Promise<Answered> {
		const bytes = body === undefined ? null : Buffer.isBuffer(body) ? body : Buffer.from(JSON.stringify(body));
		const headers = {
			authorization: `Bearer ${token}`,
			...(bytes ? { 'content-type': type, 'content-length': String(bytes.length) } : {}),
		};
		return new Promise((resolve, reject) => {
			const asked = request({ host: '127.0.0.1', port: this.#port, method, path, headers, agent: this.#agent }, (response) => {
				const parts: Buffer[] = [];
				response.on('data', (part: Buffer) => parts.push(part));
				response.on('end', () => resolve({ status: response.statusCode ?? 0, text: Buffer.concat(parts).toString() }));
				response.on('error', reject);
			});
			asked.on('error', reject);
			asked.end(bytes ?? undefined);
		});
	}

	/** CPU seconds that control and PostgreSQL have used so far. */
	cpuSeconds(): number {
		const postmaster = Number(readFileSync(join(this.data, 'database', 'postgres', 'cluster', 'postmaster.pid'), 'utf8').split('\n', 1)[0]);
		const parents = new Set([postmaster]);
		let ticks = ticksOf(this.#child?.pid ?? 0).ticks;
		for (const name of readdirSync('/proc')) {
			const pid = Number(name);
			if (!Number.isInteger(pid)) continue;
			const { parent, ticks: its, waited } = ticksOf(pid);
			if (pid === postmaster) ticks += its + waited;
			else if (parents.has(parent)) ticks += its;
		}
		return ticks / TICKS_PER_S;
	}

	async stop(): Promise<void> {
		this.#agent.destroy();
		const child = this.#child;
		if (child && child.exitCode === null) {
			child.kill('SIGTERM');
			await new Promise((resolve) => child.once('exit', resolve));
		}
		await this.#postgres?.stop();
		rmSync(runDirectory(join(this.data, 'database')), { recursive: true, force: true });
		rmSync(runDirectory(this.data), { recursive: true, force: true });
		rmSync(this.data, { recursive: true, force: true });
	}
}

/** `waited`: of children that have ended. A process that is gone has none. */
function ticksOf(pid: number): { parent: number; ticks: number; waited: number } {
	try {
		const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
		const fields = stat
			.slice(stat.lastIndexOf(')') + 2)
			.split(' ')
			.map(Number);
		return { parent: fields[1] ?? 0, ticks: (fields[11] ?? 0) + (fields[12] ?? 0), waited: (fields[13] ?? 0) + (fields[14] ?? 0) };
	} catch {
		return { parent: 0, ticks: 0, waited: 0 };
	}
}

function freePort(): Promise<number> {
	return new Promise((resolve) => {
		const server = createServer().listen(0, '127.0.0.1', () => {
			const address = server.address();
			server.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
		});
	});
}

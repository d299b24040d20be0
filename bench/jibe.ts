import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { request, type Agent } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A Jibe of its own for a bench, driven as a user drives it: by the command, from a cold shell. */
const BIN = join(import.meta.dirname, '..', 'bin', 'jibe');
const COMMAND_LIMIT_MS = 180_000;

export interface Ran {
	/** From before the process was started until it had ended. */
	ms: number;
	exit: number;
	json: Record<string, unknown>;
	stderr: string;
}

export interface Region {
	name: string;
	url: string;
}

export class BenchJibe {
	/** Of what the bench makes: data, app, caches. */
	readonly place = mkdtempSync(join(tmpdir(), 'jibe-bench-'));
	readonly data = join(this.place, 'data');
	regions: Region[] = [];

	async up(regions: number): Promise<Ran> {
		const [port, edgePort] = await freePorts(regions);
		const ran = await this.run(['up', '--regions', String(regions), '--port', String(port), '--edge-port', String(edgePort), '--detach']);
		this.regions = (JSON.parse(readFileSync(join(this.data, 'endpoint.json'), 'utf8')) as { regions: Region[] }).regions;
		return ran;
	}

	/** @throws when it does not end with exit code 0 */
	async run(words: readonly string[], cwd: string = this.place): Promise<Ran> {
		const ran = await this.attempt(words, cwd);
		if (ran.exit !== 0) throw new Error(`jibe ${words.join(' ')} ended with ${ran.exit}:\n${ran.stderr}`);
		return ran;
	}

	attempt(words: readonly string[], cwd: string = this.place): Promise<Ran> {
		const env = { ...process.env, JIBE_DATA: this.data, XDG_CACHE_HOME: join(this.place, 'cache') };
		const before = performance.now();
		const child = spawn(BIN, [...words, '--json'], { cwd, env, stdio: ['ignore', 'pipe', 'pipe'], timeout: COMMAND_LIMIT_MS });
		let [stdout, stderr] = ['', ''];
		child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
		child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
		return new Promise((resolve, reject) => {
			let ms = 0;
			child.once('error', reject);
			child.once('exit', () => (ms = performance.now() - before));
			child.once('close', (exit) => {
				const last = stdout.trimEnd().split('\n').at(-1) ?? '';
				resolve({ ms, exit: exit ?? -1, json: last.startsWith('{') ? (JSON.parse(last) as Record<string, unknown>) : {}, stderr });
			});
		});
	}

	/** What a region's edge answers for the app. */
	ask(
		region: Region,
		host: string,
		path: string,
		agent: Agent | false = false,
	): Promise<{ status: number; body: string; release: string }> {
		return new Promise((resolve, reject) => {
			const asked = request(new URL(path, region.url), { headers: { host }, agent }, (response) => {
				let body = '';
				response.setEncoding('utf8');
				response.on('data', (text: string) => (body += text));
				response.once('end', () =>
					resolve({ status: response.statusCode ?? 0, body, release: String(response.headers['x-jibe-release'] ?? '') }),
				);
			});
			asked.once('error', reject);
			asked.end();
		});
	}

	/** The pids of what `ps` shows as this installation's in a role. */
	pids(role?: string): number[] {
		return processIds().filter((pid) => {
			const words = cmdline(pid);
			const shown = /^jibe ([a-z]+)$/.exec(words[0] ?? '')?.[1];
			return shown !== undefined && words.at(-1) === this.data && (role === undefined || role === shown);
		});
	}

	/** PostgreSQL's processes: its server names its directory, and its children are its own. */
	postgresPids(): number[] {
		const file = join(this.data, 'pids', 'postgres.json');
		const { pid: server } = JSON.parse(readFileSync(file, 'utf8')) as { pid: number };
		return processIds().filter((pid) => pid === server || parentOf(pid) === server);
	}

	/** The pids of the instances that serve the app, one a region. @throws when two regions share one */
	async servingPids(app: string): Promise<number[]> {
		const { json } = await this.run(['status', app]);
		const regions = json['regions'] as { region: string; instances: { pid: number | null; state: string }[] }[];
		const pids = regions.flatMap(({ instances }) => instances.filter(({ state }) => state === 'serving').map(({ pid }) => pid ?? 0));
		if (new Set(pids).size !== this.regions.length || pids.includes(0)) {
			throw new Error(`${this.regions.length} regions must be served by as many processes, not by ${new Set(pids).size}`);
		}
		return pids;
	}

	/** @throws unless every region answers the path with 200 and a body that holds the text */
	async allAnswer(host: string, path: string, text: string): Promise<void> {
		const answers = await Promise.all(this.regions.map((region) => this.ask(region, host, path)));
		const wrong = answers.findIndex(({ status, body }) => status !== 200 || !body.includes(text));
		if (wrong >= 0)
			throw new Error(`${this.regions[wrong]?.name} answers ${path} with ${answers[wrong]?.status} ${answers[wrong]?.body.slice(0, 200)}`);
	}

	async end(): Promise<void> {
		await this.attempt(['down']);
		rmSync(this.place, { recursive: true, force: true });
	}
}

function processIds(): number[] {
	return readdirSync('/proc').map(Number).filter(Number.isInteger);
}

function parentOf(pid: number): number {
	try {
		const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
		return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
	} catch {
		return 0; // ended meanwhile
	}
}

function cmdline(pid: number): string[] {
	try {
		return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replace(/\0$/, '').split('\0');
	} catch {
		return []; // ended meanwhile
	}
}

/** One port for control, and as many in a row as there are regions. */
async function freePorts(regions: number): Promise<[number, number]> {
	const start = 20_000 + Math.floor(Math.random() * 20_000);
	for (let base = start; base < 60_000; base += regions + 1) {
		const ports = Array.from({ length: regions + 1 }, (_, index) => base + index);
		if ((await Promise.all(ports.map(isFree))).every(Boolean)) return [base, base + 1];
	}
	throw new Error(`no ${regions + 1} free ports in a row`);
}

function isFree(port: number): Promise<boolean> {
	return new Promise((resolve) => {
		const server = createServer();
		server.once('error', () => resolve(false));
		server.listen({ port, host: '127.0.0.1', exclusive: true }, () => server.close(() => resolve(true)));
	});
}

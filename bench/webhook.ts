import { spawn, spawnSync } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { Agent, createServer, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { BenchControl } from './control.ts';
import { percentile, type Row } from './row.ts';

/**
 * How soon a forge that tells of pushes is answered, at 50 a second, each signed and with a name of its own, of 20
 * branches in turns and as large as GitHub's are, while control fetches and queues what they tell of.
 */
const PER_SECOND = 50;
const SECONDS = 20;
const BRANCHES = 20;
const COMMITS_TOLD = 20;
const SECRET = 'what the bench signs with';

export async function bench(): Promise<Row[]> {
	const control = new BenchControl();
	const forge = await startForge(join(control.data, 'forge'));
	try {
		await control.start();
		const { port } = forge.address() as AddressInfo;
		const { url, admin } = control;
		const put = (path: string, json: object) => send(url, 'PUT', path, JSON.stringify(json), { authorization: `Bearer ${admin}` });
		await put('/api/v1/outbound', { address: `127.0.0.1:${port}` });
		await put('/api/v1/repositories/api', { forge: 'github', url: `http://127.0.0.1:${port}/team/api.git`, webhookSecret: SECRET });
		const times = await tell(url);
		return [{ row: 'webhook-p99', value: percentile(times, 0.99), unit: 'ms', bar: 50, goal: 10 }];
	} finally {
		forge.closeAllConnections();
		forge.close();
		await control.stop();
	}
}

async function tell(url: string): Promise<number[]> {
	const agent = new Agent({ keepAlive: true });
	const begun = performance.now();
	const times = Array.from({ length: PER_SECOND * SECONDS }, async (_, n) => {
		await pause(begun + (n * 1000) / PER_SECOND - performance.now());
		const body = payload(n % BRANCHES);
		const signature = `sha256=${createHmac('sha256', SECRET).update(body).digest('hex')}`;
		const headers = { 'x-github-event': 'push', 'x-github-delivery': `bench-${n}`, 'x-hub-signature-256': signature };
		const before = performance.now();
		await send(url, 'POST', '/hooks/github/api', body, headers, agent);
		return performance.now() - before;
	});
	const measured = await Promise.all(times);
	agent.destroy();
	return measured;
}

function payload(branch: number): string {
	const commits = Array.from({ length: COMMITS_TOLD }, (_, n) => ({
		id: n.toString(16).padStart(40, '0'),
		message: 'Change the way in which it does what it does',
		author: { name: 'Ann', email: 'ann@example.com' },
		modified: Array.from({ length: 10 }, (__, i) => `src/routes/route-${i}/handler.ts`),
	}));
	return JSON.stringify({ ref: `refs/heads/branch-${branch}`, repository: { full_name: 'team/api' }, commits });
}

/** @throws unless it is answered with 200 */
function send(url: string, method: string, path: string, body: string, headers: Record<string, string>, agent?: Agent): Promise<void> {
	return new Promise((resolve, reject) => {
		const more = { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(body)) };
		const asked = request(new URL(path, url), { method, headers: { ...headers, ...more }, ...(agent ? { agent } : {}) }, (response) => {
			response.resume();
			response.once('end', () => (response.statusCode === 200 ? resolve() : reject(new Error(`${path}: ${response.statusCode}`))));
		});
		asked.once('error', reject);
		asked.end(body);
	});
}

/** `git http-backend` behind a server, with a repository of 20 branches. */
async function startForge(root: string): Promise<Server> {
	const bare = join(root, 'team/api.git');
	const copy = join(root, 'copy');
	mkdirSync(copy, { recursive: true });
	const names = {
		GIT_AUTHOR_NAME: 'Ann',
		GIT_AUTHOR_EMAIL: 'a@example.com',
		GIT_COMMITTER_NAME: 'Ann',
		GIT_COMMITTER_EMAIL: 'a@example.com',
	};
	const git = (...args: string[]) => {
		const ran = spawnSync('git', args, { cwd: copy, env: { PATH: process.env['PATH'], HOME: root, ...names } });
		if (ran.status !== 0) throw new Error(`git ${args[0]}: ${ran.stderr.toString()}`);
	};
	git('init', '-q', '--bare', '--initial-branch=main', bare);
	git('-C', bare, 'config', 'uploadpack.allowFilter', 'true');
	git('init', '-q', '--initial-branch=main');
	writeFileSync(join(copy, 'jibe.json'), '{"app":"api","entry":"server.ts"}');
	writeFileSync(join(copy, 'server.ts'), 'export default { fetch: () => new Response() };\n');
	git('add', '-A');
	git('commit', '-q', '-m', 'First');
	for (let n = 0; n < BRANCHES; n++) git('push', '-q', bare, `HEAD:refs/heads/branch-${n}`);
	const server = createServer((asked, response) => {
		const { pathname, search } = new URL(asked.url ?? '/', 'http://localhost');
		const env = {
			PATH: process.env['PATH'],
			GIT_PROJECT_ROOT: root,
			GIT_HTTP_EXPORT_ALL: '1',
			PATH_INFO: pathname,
			QUERY_STRING: search.slice(1),
			REQUEST_METHOD: asked.method,
			CONTENT_TYPE: asked.headers['content-type'] ?? '',
			HTTP_CONTENT_ENCODING: asked.headers['content-encoding'] ?? '',
			GIT_PROTOCOL: String(asked.headers['git-protocol'] ?? ''),
		};
		// It would be on another machine.
		const child = spawn('nice', ['-n', '19', 'git', 'http-backend'], { env, stdio: ['pipe', 'pipe', 'ignore'] });
		asked.pipe(child.stdin).on('error', () => {}); // it has read what it wanted
		const parts: Buffer[] = [];
		child.stdout.on('data', (part: Buffer) => parts.push(part));
		child.stdout.on('end', () => {
			const whole = Buffer.concat(parts);
			const end = whole.indexOf('\r\n\r\n');
			const lines = whole.subarray(0, end).toString().split('\r\n').map((line) => line.split(': ', 2) as [string, string]); // prettier-ignore
			const status = lines.find(([name]) => name === 'Status')?.[1];
			response.writeHead(status ? Number.parseInt(status) : 200, Object.fromEntries(lines.filter(([name]) => name !== 'Status')));
			response.end(whole.subarray(end + 4));
		});
	});
	await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
	return server;
}

function pause(ms: number): Promise<void> {
	return new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));
}

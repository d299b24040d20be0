import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { request, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { editHandlers, generateApi } from './generate.ts';
import { BenchJibe, type Ran } from './jibe.ts';
import { percentile, type Row } from './row.ts';

/** Back to the release before in 24 regions: to warm instances, and from disk. */
const APP = 'api';
const HOST = `${APP}.localhost`;
const REGIONS = 24;
const RUNS = 20;
const COLD_RUNS = 5;
const SETTLE_MS = 3_000;
/** The idle processes of the next deploy are there again. */
const FILL_MS = 12_000;
const ASK_EACH_MS = 4;

export async function bench(): Promise<Row[]> {
	const { warm, cold, thawed } = await frozen();
	const pointers = await running();
	const ms = (runs: readonly Ran[]) => runs.map((run) => run.ms);
	return [
		{ row: 'rollback-24-p50', value: percentile(ms(warm), 0.5), unit: 'ms', bar: 150, goal: 90 },
		{ row: 'rollback-24-p95', value: percentile(ms(warm), 0.95), unit: 'ms', bar: 300, goal: 150 },
		{ row: 'rollback-cold-24-p95', value: percentile(ms(cold), 0.95), unit: 'ms', bar: 3000, goal: 1500 },
		{
			row: 'pointer-24-p99',
			value: percentile(pointers, 0.99),
			unit: 'ms',
			bar: 30,
			goal: 15,
			peers: { 'instances thawed first': percentile(thawed, 0.99) },
		},
	];
}

/** Warm releases rest frozen, which is the default: a rollback thaws them and checks each once. */
async function frozen(): Promise<{ warm: Ran[]; cold: Ran[]; thawed: number[] }> {
	return await twoReleases({}, async (jibe, releases, dir) => {
		const warm: Ran[] = [];
		for (let n = 0; n < RUNS; n++) {
			warm.push(await jibe.run(['rollback', APP, '--to', releases[n % 2] ?? '', '--again'], dir));
			await pause(SETTLE_MS);
		}
		await jibe.servingPids(APP);
		const thawed = await pointers(jibe, releases);
		return { warm, thawed, cold: await coldRollbacks(jibe, dir) };
	});
}

/** Warm releases keep running: what is measured is the pointer alone. */
async function running(): Promise<number[]> {
	return await twoReleases({ warm: 'running' }, pointers);
}

/** Two releases of the API in 24 regions; the second one serves. */
async function twoReleases<T>(config: object, work: (jibe: BenchJibe, releases: string[], dir: string) => Promise<T>): Promise<T> {
	const jibe = new BenchJibe();
	try {
		const dir = join(jibe.place, APP);
		generateApi(dir, { modules: 217, app: APP });
		const file = join(dir, 'jibe.json');
		writeFileSync(file, JSON.stringify({ ...(JSON.parse(readFileSync(file, 'utf8')) as object), ...config }));
		await jibe.up(REGIONS);
		const releases: string[] = [];
		for (let n = 0; n < 2; n++) {
			if (n > 0) editHandlers(dir, 3, n);
			releases.push(String((await jibe.run(['deploy'], dir)).json['release']));
			await pause(FILL_MS);
		}
		return await work(jibe, releases, dir);
	} finally {
		await jibe.end();
	}
}

/**
 * From control's commit of the pointers to the moment when the last of the regions has answered with what they name. Each
 * is asked as soon as control says that its edges obey: earlier answers would come from the old release, and take the
 * processors from what is measured.
 */
async function pointers(jibe: BenchJibe, releases: readonly string[]): Promise<number[]> {
	const done: number[] = [];
	for (let n = 0; n < RUNS; n++) {
		const target = releases[n % 2] ?? '';
		const users = new Map<string, User>();
		for (const { name, url } of jibe.regions) users.set(name, await openUser(Number(new URL(url).port)));
		const answers: Promise<number>[] = [];
		const { id, writtenAt } = await rollBack(jibe, target, (region) => answers.push(users.get(region)!.untilAnswered(target)));
		if (answers.length !== REGIONS) throw new Error(`${answers.length} of ${REGIONS} regions were told to be live in ${id}`);
		const answered = Math.max(...(await Promise.all(answers)));
		done.push(answered - writtenAt);
		await pause(SETTLE_MS);
	}
	return done;
}

interface RolledBack {
	id: string;
	/** Wall time by control: the pointers are committed, and the regions are being told. */
	writtenAt: number;
}

interface Progress {
	event?: { type: string; at: number; data: { name?: string; state: string } };
	result?: { id: string; state: string };
}

/** The command's own request, from a process that is warm; its answer is read with as little work as can be. */
async function rollBack(jibe: BenchJibe, release: string, live: (region: string) => void): Promise<RolledBack> {
	const { url } = JSON.parse(readFileSync(join(jibe.data, 'endpoint.json'), 'utf8')) as { url: string };
	const token = readFileSync(join(jibe.data, 'admin.token'), 'utf8').trim();
	const body = { environment: 'production', to: Number(release.slice(1)), undo: null, again: true, reason: null };
	const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
	const asked = request(`${url}/api/v1/apps/${APP}/rollbacks`, { method: 'POST', headers });
	asked.end(JSON.stringify(body));
	const [response] = (await once(asked, 'response')) as [IncomingMessage];
	let writtenAt = 0;
	let rest = '';
	for await (const part of response.setEncoding('latin1') as AsyncIterable<string>) {
		const lines = (rest + part).split('\n');
		rest = lines.pop() ?? '';
		for (const line of lines) {
			const { event, result } = JSON.parse(line) as Progress;
			if (event?.type === 'deployment.state' && event.data.state === 'RollingOut') writtenAt = event.at;
			if (event?.type === 'deployment.region' && event.data.state === 'live') live(event.data.name ?? '');
			if (result?.state === 'Deployed' && writtenAt > 0) return { id: result.id, writtenAt };
		}
	}
	throw new Error(`the rollback to ${release} was not deployed`);
}

/** To a release so old that nothing of it is warm: each deploy cools what it does not keep. */
async function coldRollbacks(jibe: BenchJibe, dir: string): Promise<Ran[]> {
	const done: Ran[] = [];
	for (let n = 0; n < COLD_RUNS; n++) {
		const { json } = await jibe.run(['status', APP]);
		const target = `v${String(json['serving'])}`;
		for (let i = 0; i < 2; i++) {
			editHandlers(dir, 3, 100 + n * 2 + i);
			await jibe.run(['deploy'], dir);
			await pause(SETTLE_MS * 2);
		}
		done.push(await jibe.run(['rollback', APP, '--to', target, '--again'], dir));
		await jibe.allAnswer(HOST, '/healthz', '');
		await pause(SETTLE_MS);
	}
	return done;
}

interface User {
	/** Asks until the release answers; when it did. */
	untilAnswered(release: string): Promise<number>;
}

/**
 * A connection to a region's edge. The request is written by hand and its answer only searched: 24 clients of Node's
 * would be the larger part of what is measured.
 */
async function openUser(port: number): Promise<User> {
	const socket = connect(port, '127.0.0.1');
	await once(socket, 'connect');
	const request = Buffer.from(`GET /healthz HTTP/1.1\r\nhost: ${HOST}\r\n\r\n`);
	const ask = () => socket.write(request);
	return {
		untilAnswered: (release) =>
			new Promise((resolve, reject) => {
				socket.on('error', reject);
				const label = Buffer.from(`x-jibe-release: ${release}\r\n`);
				socket.on('data', (bytes: Buffer) => {
					if (!bytes.includes(label)) return void setTimeout(ask, ASK_EACH_MS);
					resolve(Date.now());
					socket.destroy();
				});
				ask();
			}),
	};
}

function pause(ms: number): Promise<void> {
	return new Promise((resolve) => setTimeout(resolve, ms));
}

import { readFileSync, writeFileSync } from 'node:fs';
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
/** Often enough to see it, seldom enough to leave the processors to the work itself. */
const ASK_EACH_MS = 8;

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
	return await twoReleases({}, async (jibe, dir, releases) => {
		const warm: Ran[] = [];
		for (let n = 0; n < RUNS; n++) {
			warm.push(await jibe.run(['rollback', APP, '--to', releases[n % 2] ?? '', '--again'], dir));
			await pause(SETTLE_MS);
		}
		await jibe.servingPids(APP);
		const thawed = await pointers(jibe, dir, releases);
		return { warm, thawed, cold: await coldRollbacks(jibe, dir) };
	});
}

/** Warm releases keep running: what is measured is the pointer alone. */
async function running(): Promise<number[]> {
	return await twoReleases({ warm: 'running' }, pointers);
}

/** Two releases of the API in 24 regions; the second one serves. */
async function twoReleases<T>(config: object, work: (jibe: BenchJibe, dir: string, releases: string[]) => Promise<T>): Promise<T> {
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
		return await work(jibe, dir, releases);
	} finally {
		await jibe.end();
	}
}

/** From control's commit of the pointers to the moment when the last of the regions answers with what they name. */
async function pointers(jibe: BenchJibe, dir: string, releases: readonly string[]): Promise<number[]> {
	const done: number[] = [];
	for (let n = 0; n < RUNS; n++) {
		const target = releases[n % 2] ?? '';
		const seen = Promise.all(
			jibe.regions.map((region, i) => whenAnswered(Number(new URL(region.url).port), target, (i % ASK_EACH_MS) + 1)),
		);
		const ran = await jibe.run(['rollback', APP, '--to', target, '--again'], dir);
		done.push(Math.max(...(await seen)) - (await pointerWrittenAt(jibe, String(ran.json['deployment']))));
		await pause(SETTLE_MS);
	}
	return done;
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

/**
 * Wall time at which a region answers with the release: asked again and again on one connection. The request is written
 * by hand and its answer only searched, because a client of Node's would take the processors from what is measured.
 */
function whenAnswered(port: number, release: string, delayMs: number): Promise<number> {
	return new Promise((resolve, reject) => {
		const socket = connect(port, '127.0.0.1');
		const ask = () => socket.write(`GET /healthz HTTP/1.1\r\nhost: ${HOST}\r\n\r\n`);
		const target = `x-jibe-release: ${release}\r\n`;
		socket.once('connect', () => setTimeout(ask, delayMs));
		socket.on('error', reject);
		socket.on('data', (bytes: Buffer) => {
			if (!bytes.toString('latin1').includes(target)) return void setTimeout(ask, ASK_EACH_MS);
			const at = Date.now();
			socket.destroy();
			resolve(at);
		});
	});
}

/** When control had committed the pointers, by its own record. */
async function pointerWrittenAt(jibe: BenchJibe, deployment: string): Promise<number> {
	const { json } = await jibe.run(['history', APP, '--limit', '1']);
	const [newest] = json['deployments'] as { id: string; stages: { state: string; at: number }[] }[];
	const moved = newest?.stages.find(({ state }) => state === 'RollingOut' || state === 'Deploying');
	if (newest?.id !== deployment || moved === undefined) throw new Error(`${deployment} is not the newest deployment`);
	return moved.at;
}

function pause(ms: number): Promise<void> {
	return new Promise((resolve) => setTimeout(resolve, ms));
}

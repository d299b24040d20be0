import { Agent } from 'node:http';
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
/** Often enough to see it, seldom enough to leave the processors to the work itself. */
const ASK_EACH_MS = 4;

export async function bench(): Promise<Row[]> {
	const jibe = new BenchJibe();
	try {
		const dir = join(jibe.place, APP);
		generateApi(dir, { modules: 217, app: APP });
		await jibe.up(REGIONS);
		const releases: string[] = [];
		for (let n = 0; n < 2; n++) {
			if (n > 0) editHandlers(dir, 3, n);
			releases.push(String((await jibe.run(['deploy'], dir)).json['release']));
			await pause(SETTLE_MS);
		}
		const warm: Ran[] = [];
		const pointers: number[] = [];
		for (let n = 0; n < RUNS; n++) {
			const target = releases[(n + 1) % 2 === 1 ? 0 : 1] ?? '';
			const seen = whenAllAnswer(jibe, target);
			const ran = await jibe.run(['rollback', APP, '--to', target, '--again'], dir);
			warm.push(ran);
			const lastMs = await seen;
			const writtenMs = await pointerWrittenAt(jibe, String(ran.json['deployment']));
			pointers.push(lastMs - writtenMs);
			await pause(SETTLE_MS);
		}
		await jibe.servingPids(APP);
		const cold = await coldRollbacks(jibe, dir);
		const ms = (runs: readonly Ran[]) => runs.map((run) => run.ms);
		return [
			{ row: 'rollback-24-p50', value: percentile(ms(warm), 0.5), unit: 'ms', bar: 150, goal: 90 },
			{ row: 'rollback-24-p95', value: percentile(ms(warm), 0.95), unit: 'ms', bar: 300, goal: 150 },
			{ row: 'rollback-cold-24-p95', value: percentile(ms(cold), 0.95), unit: 'ms', bar: 3000, goal: 1500 },
			{ row: 'pointer-24-p99', value: percentile(pointers, 0.99), unit: 'ms', bar: 30, goal: 15 },
		];
	} finally {
		await jibe.end();
	}
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

/** Wall time at which the last of the regions answered with the release: each is asked again and again on one connection. */
async function whenAllAnswer(jibe: BenchJibe, release: string): Promise<number> {
	const agent = new Agent({ keepAlive: true });
	try {
		const times = await Promise.all(
			jibe.regions.map(async (region) => {
				while ((await jibe.ask(region, HOST, '/healthz', agent)).release !== release) await pause(ASK_EACH_MS);
				return Date.now();
			}),
		);
		return Math.max(...times);
	} finally {
		agent.destroy();
	}
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

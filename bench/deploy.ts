import { join } from 'node:path';
import { editHandlers, generateApi } from './generate.ts';
import { BenchJibe, type Ran } from './jibe.ts';
import { percentile, type Row } from './row.ts';

/** Three handlers of a 217-module API are edited: how long until every region serves them, from a cold shell. */
const APP = 'api';
const HOST = `${APP}.localhost`;
const RUNS_24 = 12;
const RUNS_1 = 20;
const RUNS_NOOP = 20;
const BURST = 5;
const BURSTS = 3;
const EDITED = 3;
/** The pool of idle processes is filled again after a deploy; whoever edits by hand takes longer than this. */
const THINK_MS = { 24: 5_000, 1: 1_000 } as const;

export async function bench(): Promise<Row[]> {
	const everywhere = await inRegions(24, async (editor) => await editor.runs(RUNS_24, THINK_MS[24]));
	const one = await inRegions(1, async (editor) => ({
		runs: await editor.runs(RUNS_1, THINK_MS[1]),
		burst: await editor.bursts(BURSTS),
		noop: await editor.unchanged(RUNS_NOOP),
	}));
	const ms = (runs: readonly Ran[]) => runs.map((run) => run.ms);
	const uploads = one.runs.map((run) => Number(run.json['uploadedBytes']));
	return [
		{ row: 'deploy-24-p50', value: percentile(ms(everywhere), 0.5), unit: 'ms', bar: 1100, goal: 700 },
		{ row: 'deploy-24-p95', value: percentile(ms(everywhere), 0.95), unit: 'ms', bar: 1800, goal: 1100 },
		{ row: 'deploy-1-p50', value: percentile(ms(one.runs), 0.5), unit: 'ms', bar: 250, goal: 150 },
		{ row: 'deploy-1-p95', value: percentile(ms(one.runs), 0.95), unit: 'ms', bar: 400, goal: 250 },
		{ row: 'deploy-burst-p50', value: percentile(ms(one.burst), 0.5), unit: 'ms', bar: 500, goal: 250 },
		{ row: 'deploy-noop-p50', value: percentile(ms(one.noop), 0.5), unit: 'ms', bar: 120, goal: 80 },
		{ row: 'deploy-upload', value: Math.max(...uploads), unit: 'bytes', bar: 4000, goal: 2000 },
	];
}

async function inRegions<T>(regions: 1 | 24, work: (editor: Editor) => Promise<T>): Promise<T> {
	const jibe = new BenchJibe();
	try {
		const editor = new Editor(jibe);
		await jibe.up(regions);
		await jibe.run(['deploy'], editor.dir);
		await jibe.servingPids(APP);
		await pause(THINK_MS[regions]);
		const result = await work(editor);
		await jibe.servingPids(APP);
		return result;
	} finally {
		await jibe.end();
	}
}

class Editor {
	readonly dir: string;
	readonly #jibe: BenchJibe;
	#seed = 0;

	constructor(jibe: BenchJibe) {
		this.#jibe = jibe;
		this.dir = join(jibe.place, APP);
		generateApi(this.dir, { modules: 217, app: APP });
	}

	async runs(count: number, thinkMs: number): Promise<Ran[]> {
		const done: Ran[] = [];
		for (let n = 0; n < count; n++) {
			done.push(await this.#edited());
			await pause(thinkMs);
		}
		return done;
	}

	/** Without a pause between them. */
	async bursts(count: number): Promise<Ran[]> {
		const done: Ran[] = [];
		for (let n = 0; n < count; n++) {
			for (let i = 0; i < BURST; i++) done.push(await this.#edited());
			await pause(THINK_MS[24]);
		}
		return done;
	}

	async unchanged(count: number): Promise<Ran[]> {
		const done: Ran[] = [];
		for (let n = 0; n < count; n++) done.push(await this.#jibe.run(['deploy'], this.dir));
		return done;
	}

	async #edited(): Promise<Ran> {
		const paths = editHandlers(this.dir, EDITED, ++this.#seed);
		const ran = await this.#jibe.run(['deploy'], this.dir);
		if (ran.json['state'] !== 'Deployed') throw new Error(`ended ${String(ran.json['state'])}`);
		for (const path of paths) await this.#jibe.allAnswer(HOST, path, `e${this.#seed}`);
		return ran;
	}
}

function pause(ms: number): Promise<void> {
	return new Promise((resolve) => setTimeout(resolve, ms));
}

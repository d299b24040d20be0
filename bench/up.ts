import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { editHandlers, generateApi } from './generate.ts';
import { BenchJibe } from './jibe.ts';
import { percentile, type Row } from './row.ts';

/** How soon Jibe is ready with 24 regions, and what all of it weighs with an API of 217 modules in each. */
const FIRSTS = 3;
const AGAINS = 5;
const DEPLOYS = 3;
const SETTLE_MS = 10_000;

export async function bench(): Promise<Row[]> {
	const first: number[] = [];
	const again: number[] = [];
	for (let n = 0; n < FIRSTS; n++) {
		const jibe = new BenchJibe();
		try {
			first.push((await jibe.up(24)).ms);
			for (let i = 0; n === 0 && i < AGAINS; i++) {
				await jibe.run(['down']);
				again.push((await jibe.run(['up', '--detach'])).ms);
			}
		} finally {
			await jibe.end();
		}
	}
	return [
		{ row: 'up-first', value: percentile(first, 0.5), unit: 'ms', bar: 8000, goal: 4000 },
		{ row: 'up-again', value: percentile(again, 0.5), unit: 'ms', bar: 3000, goal: 1000 },
		{ row: 'up-24-memory', value: await memory(24), unit: 'MiB', bar: 3000, goal: 2000 },
		{ row: 'up-1-memory', value: await memory(1), unit: 'MiB', bar: 450, goal: 280 },
	];
}

/** Proportional set size of every process after the third deploy: warm instances and the idle pool included. */
async function memory(regions: number): Promise<number> {
	const jibe = new BenchJibe();
	try {
		await jibe.up(regions);
		const dir = join(jibe.place, 'api');
		generateApi(dir, { modules: 217, app: 'api' });
		for (let n = 1; n <= DEPLOYS; n++) {
			if (n > 1) editHandlers(dir, 3, n);
			await jibe.run(['deploy'], dir);
			await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
		}
		await jibe.servingPids('api');
		const pids = [...jibe.pids(), ...jibe.postgresPids()];
		return Math.round(pids.reduce((sum, pid) => sum + pssKiB(pid), 0) / 1024);
	} finally {
		await jibe.end();
	}
}

function pssKiB(pid: number): number {
	try {
		return Number(/^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0);
	} catch {
		return 0; // ended meanwhile
	}
}

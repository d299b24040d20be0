import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cpus, platform, release, totalmem } from 'node:os';
import { join } from 'node:path';
import type { Row } from './row.ts';

/** `npm run bench -- NAME… [--json]`: a table, or one JSON object a bench. Benches are no tests: a slow machine is not a failure. */
const STARTS = 7;
const names = process.argv.slice(2).filter((word) => !word.startsWith('-'));
const json = process.argv.includes('--json');
const known = [
	'deploy',
	'rollback',
	'build',
	'swing',
	'edge',
	'up',
	'fanout',
	'hop',
	'fleet',
	'backup',
	'replica',
	'sandbox',
	'queue',
	'load',
	'events',
	'push',
];

if (names.length === 0 || names.some((name) => !existsSync(join(import.meta.dirname, `${name}.ts`)))) {
	process.stderr.write(`npm run bench -- ${known.join('|')} [--json]\n`);
	process.exit(2);
}
for (const name of names) {
	const { bench } = (await import(`./${name}.ts`)) as { bench: () => Promise<Row[]> };
	const machine = describeMachine();
	const rows = await bench();
	if (json) process.stdout.write(`${JSON.stringify({ bench: name, machine, rows })}\n`);
	else print(name, machine, rows);
}
process.exit(0);

interface Machine {
	cpu: string;
	cores: number;
	memoryMiB: number;
	os: string;
	node: string;
	/** Of `node -e 0`: how busy this machine is. */
	nodeStartMs: number;
}

function describeMachine(): Machine {
	const times = Array.from({ length: STARTS }, () => {
		const before = performance.now();
		spawnSync(process.execPath, ['-e', '0']);
		return performance.now() - before;
	});
	const [first] = cpus();
	return {
		cpu: first?.model ?? 'unknown',
		cores: cpus().length,
		memoryMiB: Math.round(totalmem() / 2 ** 20),
		os: `${platform()} ${release()}`,
		node: process.versions.node,
		nodeStartMs: Math.round(times.toSorted((a, b) => a - b)[STARTS >> 1] ?? 0),
	};
}

function print(name: string, machine: Machine, rows: readonly Row[]): void {
	const cells = rows.map(({ row, value, unit, bar, goal, peers }) => [
		row,
		`${value} ${unit}`,
		bar === null ? '' : String(bar),
		goal === null ? '' : String(goal),
		Object.entries(peers ?? {})
			.map(([peer, theirs]) => `${peer} ${theirs}`)
			.join(', '),
	]);
	const table = [['row', 'value', 'bar', 'go for', 'peers'], ...cells];
	const widths = [0, 1, 2, 3].map((column) => Math.max(...table.map((line) => line[column]?.length ?? 0)));
	process.stdout.write(`${name}: ${machine.cores} cores, ${machine.cpu}, node -e 0 in ${machine.nodeStartMs} ms\n`);
	for (const line of table)
		process.stdout.write(
			`  ${line
				.map((cell, column) => cell.padEnd(widths[column] ?? 0))
				.join('  ')
				.trimEnd()}\n`,
		);
}

import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { openTestbed, tell } from '../src/builder/sandbox/testbed.ts';
import { pause } from '../src/clock/clock.ts';
import { percentile, type Row } from './row.ts';

/**
 * From asking for a sandbox to the first byte that its first command prints. Beside it, the same of others that make a
 * container or an environment for one command, from their start to their end.
 */
export async function bench(): Promise<Row[]> {
	const bed = await openTestbed();
	try {
		const source = bed.files({ 'package.json': '{}', 'src/server.ts': 'export default {}' });
		const taken: number[] = [];
		for (let i = 0; i < WARM_STARTS + STARTS; i++) {
			await pause(BETWEEN_MS);
			const from = performance.now();
			let first = Number.NaN;
			const sandbox = await bed.sandboxes.create({ source });
			const { exitCode } = await tell(sandbox, 'echo begun', { onOutput: () => (first = performance.now()) });
			if (exitCode !== 0) throw new Error(`a first command ended with ${exitCode}`);
			if (i >= WARM_STARTS) taken.push(first - from);
			await sandbox.destroy();
		}
		process.stderr.write(`${bed.sandboxes.kind}: p90 ${percentile(taken, 0.9)} ms\n`);
		const value = percentile(taken, 0.5);
		return [{ row: 'sandbox-start-p50', value, unit: 'ms', bar: 60, goal: 25, peers: peers(bed.directory) }];
	} finally {
		await bed.close();
	}
}

const WARM_STARTS = 5;
const STARTS = 60;
/** As long as builds are apart on a busy builder; the next sandbox is prepared meanwhile. */
const BETWEEN_MS = 200;
const PEER_STARTS = 15;

function peers(directory: string): Record<string, number> {
	const empty = join(directory, 'empty');
	mkdirSync(empty);
	const all: Record<string, string[]> = {
		'a process': ['/bin/sh', '-c', 'echo begun'],
		bwrap: ['bwrap', '--unshare-all', '--ro-bind', '/', '/', '--bind', empty, '/tmp', '--proc', '/proc', '--dev', '/dev', 'echo', 'begun'],
		podman: ['podman', 'run', '--rm', '--network=none', '--rootfs', '/', 'echo', 'begun'],
		docker: ['docker', 'run', '--rm', '--network=none', 'debian:12-slim', 'echo', 'begun'],
	};
	const measured = Object.entries(all).flatMap(([name, [command, ...args]]) => {
		const times: number[] = [];
		for (let i = 0; i < PEER_STARTS; i++) {
			const from = performance.now();
			const { status, stdout } = spawnSync(command!, args, { encoding: 'utf8' });
			if (status !== 0 || stdout !== 'begun\n') return []; // it is not here, or may not run here
			times.push(performance.now() - from);
		}
		return [[name, percentile(times, 0.5)] as const];
	});
	return Object.fromEntries(measured);
}

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { pause, systemClock } from '#clock/clock.ts';
import { readPidFile } from '#process/pid-file.ts';
import { EXIT, Failure } from '../failure.ts';
import { remembered } from '../up/installation.ts';
import type { Package } from './package.ts';
import { restartService } from './service.ts';
import { readInstalled } from './note.ts';

/** An upgrade that is under way: what there was before stays known until the new version runs, however often it is begun. */
export interface Upgrade {
	from: Package | null;
	to: Package;
}

export function readUpgrade(data: string): Upgrade | null {
	try {
		return JSON.parse(readFileSync(join(data, 'upgrade.json'), 'utf8')) as Upgrade;
	} catch {
		return null; // none is under way: a whole one is renamed into place
	}
}

export function writeUpgrade(data: string, upgrade: Upgrade | null): void {
	const file = join(data, 'upgrade.json');
	if (upgrade === null) return rmSync(file, { force: true });
	writeFileSync(`${file}.${process.pid}`, JSON.stringify(upgrade), { mode: 0o600 });
	renameSync(`${file}.${process.pid}`, file);
}

/**
 * A supervisor of the package takes the place of the one that runs, and replaces what is of another version. Resolves
 * when everything runs. @throws Failure with what the supervisor said
 */
export async function handOver(data: string, to: Package, tell: (line: string) => void): Promise<void> {
	const installed = readInstalled(data);
	if (installed && restartService(installed)) return process.platform === 'linux' ? untilRuns(data, to) : undefined;
	const takesOver = knowsTakeOver(to);
	const words = ['up', '--data', data, '--detach', ...(takesOver ? ['--take-over'] : [])];
	const child = spawn(join(to.root, 'bin', 'jibe'), words, { env: environmentOf(data), stdio: ['ignore', 'ignore', 'pipe'], cwd: '/' });
	const said: string[] = [];
	createInterface({ input: child.stderr }).on('line', (line) => {
		said.push(line);
		tell(line);
	});
	const code = await new Promise<number | null>((resolve, reject) => child.once('close', resolve).once('error', reject));
	if (code === 0) return;
	throw new Failure('upgrade_failed', EXIT.jibe, `jibe ${to.version} does not start:\n${said.slice(-SAID_LINES).join('\n')}`);
}

const SAID_LINES = 8;
const SERVICE_LIMIT_MS = 120_000;
const LOOK_EACH_MS = 250;

/** The service's supervisor speaks to its manager's journal alone: that all of its programs are of the package is seen by their files. */
async function untilRuns(data: string, to: Package): Promise<void> {
	const deadline = systemClock.monotonic() + SERVICE_LIMIT_MS;
	const isOf = ({ pid }: { pid: number }) => commandOf(pid).includes(`${to.root}/`);
	for (;;) {
		const names = ['up', ...Object.keys(remembered(data)?.programs ?? {})];
		const running = names.flatMap((name) => readPidFile(data, name) ?? []).filter(({ alive }) => alive);
		if (running.length === names.length && running.every(isOf)) return;
		if (systemClock.monotonic() > deadline) {
			const late = running.filter((one) => !isOf(one)).map(({ name }) => name);
			throw new Failure(
				'upgrade_failed',
				EXIT.jibe,
				`jibe ${to.version} does not run: still of another version are ${late.join(', ') || 'none, but its supervisor ends'}`,
				{
					hint: 'journalctl -u jibe says why',
				},
			);
		}
		await pause(LOOK_EACH_MS);
	}
}

function commandOf(pid: number): string {
	try {
		return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
	} catch {
		return ''; // ended meanwhile
	}
}

/** The version before this one had no such option. */
function knowsTakeOver({ root }: Package): boolean {
	return spawnSync(join(root, 'bin', 'jibe'), ['help', 'up', '--json'], { encoding: 'utf8' }).stdout.includes('take-over');
}

const OURS = /^(JIBE_PROGRAM|NODE_COMPILE_CACHE|MALLOC_.*)$/;

/**
 * What the supervisor, or else control, was started with: DATABASE_URL is in no file, and the shell of whoever upgrades
 * need not have it.
 */
function environmentOf(data: string): NodeJS.ProcessEnv {
	const running = ['up', 'control', 'agent', 'edge-0'].map((name) => readPidFile(data, name)).find((file) => file?.alive);
	const file = `/proc/${running?.pid ?? 'self'}/environ`;
	if (running === undefined || !existsSync(file)) return process.env;
	const pairs = readFileSync(file, 'utf8').split('\0').filter(Boolean);
	const env = Object.fromEntries(pairs.map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]));
	return { ...Object.fromEntries(Object.entries(env).filter(([name]) => !OURS.test(name))), HOME: env['HOME'] ?? process.env['HOME'] };
}

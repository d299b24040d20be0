import { accessSync, constants, statfsSync, statSync } from 'node:fs';
import { availableParallelism, freemem, totalmem } from 'node:os';
import { delimiter, join } from 'node:path';
import { isolation } from '#process/isolation.ts';
import { readPidFiles } from '#process/pid-file.ts';
import { EXIT, Failure, type Exit } from './failure.ts';
import { ask, findServer } from './server.ts';
import { count } from './output.ts';
import type { Invocation, Verb } from './verbs.ts';

/** One thing that was looked at. `warn`: works, but somebody should know. */
interface Finding {
	check: string;
	state: 'ok' | 'warn' | 'bad';
	detail: string;
	hint: string | null;
}

const MARK = { ok: '✓', warn: '!', bad: '✗' } as const;
const MIN_FREE_SHARE = 0.15;
/** An instance, its successor and the database need about this much. */
const MIN_FREE_MEMORY_MIB = 512;
const PROGRAMS = new Set(['up', 'control', 'postgres', 'depot', 'agent', 'edge']);

export const verb: Verb = {
	syntax: { options: {}, positionals: [], optional: 0 },
	async run({ out, data }: Invocation): Promise<Exit> {
		const local = [runtime(), machine(), ...tools(), ...dataDirectory(data), ...programs(data)];
		const findings = [...local, ...(await controlAndRegions(data)), ...unenforced()];
		const bad = findings.filter(({ state }) => state === 'bad').length;
		const lines = findings.flatMap(({ check, state, detail, hint }) => [
			`${MARK[state]} ${check}: ${detail}`,
			...(hint === null ? [] : hint.split('\n').map((line) => `  ${line}`)),
		]);
		out.result({ healthy: bad === 0, findings }, lines);
		return bad === 0 ? EXIT.done : EXIT.jibe;
	},
};

function runtime(): Finding {
	return { check: 'Node', state: 'ok', detail: `${process.versions.node} at ${process.execPath}`, hint: null };
}

function machine(): Finding {
	const [free, all] = [freemem(), totalmem()].map((bytes) => Math.round(bytes / 2 ** 20)) as [number, number];
	const short = free < MIN_FREE_MEMORY_MIB;
	const detail = `${process.platform} ${process.arch}, ${count(availableParallelism(), 'core')}, ${free} of ${all} MiB of memory free`;
	const elsewhere = process.platform === 'linux' ? null : 'Linux is the platform that is tested: apps run without isolation here';
	const hint = elsewhere ?? (short ? 'a deploy that finds no room is refused before anything moves' : null);
	return { check: 'machine', state: hint === null ? 'ok' : 'warn', detail, hint };
}

/** Programs that are called when they are there. */
function tools(): Finding[] {
	if (onPath('git')) return [];
	const hint = "deployments record no commit, and nothing notices that a colleague's would be undone";
	return [{ check: 'git', state: 'warn', detail: 'not on PATH', hint }];
}

function onPath(command: string): boolean {
	return (process.env['PATH'] ?? '').split(delimiter).some((directory) => {
		try {
			accessSync(join(directory, command), constants.X_OK);
			return true;
		} catch {
			return false;
		}
	});
}

function dataDirectory(data: string): Finding[] {
	const stat = statSync(data, { throwIfNoEntry: false });
	if (stat === undefined) return [{ check: 'data', state: 'warn', detail: `${data} does not exist`, hint: 'jibe up makes it' }];
	const open = (stat.mode & 0o077) !== 0;
	const { bavail, blocks, bsize } = statfsSync(data);
	const free = blocks === 0 ? 1 : bavail / blocks;
	return [
		open
			? { check: 'data', state: 'bad', detail: `${data} can be read by others`, hint: `chmod 700 ${data}` }
			: { check: 'data', state: 'ok', detail: data, hint: null },
		{
			check: 'disk',
			state: free < MIN_FREE_SHARE ? 'warn' : 'ok',
			detail: `${Math.round(free * 100)} % free (${((bavail * bsize) / 2 ** 30).toFixed(1)} GiB)`,
			hint: free < MIN_FREE_SHARE ? 'below 15 % free the oldest releases that nobody needs are deleted' : null,
		},
	];
}

function programs(data: string): Finding[] {
	const files = readPidFiles(data);
	if (files.length === 0) return [{ check: 'programs', state: 'warn', detail: 'none run on this directory', hint: 'jibe up starts them' }];
	const dead = files.filter(({ alive }) => !alive).map(({ name }) => name);
	const supervised = files.some(({ name, alive }) => name === 'up' && alive);
	const living = files.length - dead.length;
	const own = files.filter(({ name }) => PROGRAMS.has(name.split('-')[0] ?? '')).map(({ name }) => name);
	const others = files.length - own.length;
	const found: Finding[] =
		dead.length === 0
			? [
					{
						check: 'programs',
						state: 'ok',
						detail: `${own.join(', ')} run${others === 0 ? '' : `, and ${count(others, 'instance')} of apps`}`,
						hint: null,
					},
				]
			: [
					{
						check: 'programs',
						state: supervised ? 'warn' : 'bad',
						detail: `not running: ${dead.join(', ')}`,
						hint: `logs are in ${join(data, 'logs')}`,
					},
				];
	if (!supervised && living > 0) {
		found.push({ check: 'supervisor', state: 'bad', detail: 'none: nothing starts again what dies', hint: 'jibe up takes over what runs' });
	}
	return found;
}

interface Region {
	name: string;
	state: string;
	servers: number;
	edges: number;
}

async function controlAndRegions(data: string): Promise<Finding[]> {
	try {
		const { regions } = (await ask(findServer(data), { path: '/api/v1/regions' })) as { regions: Region[] };
		const broken = regions.filter(({ state, servers, edges }) => state !== 'connected' || servers < 1 || edges < 1);
		return [
			{ check: 'control', state: 'ok', detail: 'answers', hint: null },
			await database(data),
			broken.length === 0
				? { check: 'regions', state: 'ok', detail: `${regions.length} connected`, hint: null }
				: {
						check: 'regions',
						state: 'bad',
						detail: `not whole: ${broken.map(({ name }) => name).join(', ')}`,
						hint: 'jibe region list shows what is missing',
					},
		];
	} catch (error) {
		if (!(error instanceof Failure)) throw error;
		return [{ check: 'control', state: 'bad', detail: error.message, hint: error.hint }];
	}
}

async function database(data: string): Promise<Finding> {
	try {
		await ask(findServer(data), { path: '/readyz' });
		return { check: 'database', state: 'ok', detail: 'answers', hint: null };
	} catch (error) {
		if (!(error instanceof Failure)) throw error;
		return { check: 'database', state: 'bad', detail: error.message, hint: error.hint };
	}
}

function unenforced(): Finding[] {
	const { missing } = isolation();
	const whole = 'a uid and a private /tmp for each app; limits of memory, processes and CPU are enforced';
	if (missing.length === 0) return [{ check: 'isolation', state: 'ok', detail: whole, hint: null }];
	return missing.map((detail) => ({ check: 'isolation', state: 'warn', detail, hint: null }));
}

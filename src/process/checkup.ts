import { readFileSync, statfsSync } from 'node:fs';
import { availableParallelism, freemem, totalmem } from 'node:os';
import { isRoot } from './directory.ts';
import { isolation } from './isolation.ts';

/** What `jibe doctor` looks at on every machine: the machine itself, as every program of Jibe sees it. */

/** One thing that was looked at. `warn`: works, but somebody should know. */
export interface Finding {
	check: string;
	state: 'ok' | 'warn' | 'bad';
	detail: string;
	/** What to do. */
	hint: string | null;
}

const MIN_FREE_SHARE = 0.15;
const BAD_FREE_SHARE = 0.03;
/** An instance, its successor and the database need about this much. */
const MIN_FREE_MEMORY_MIB = 512;
/** Two for each request under way of an edge, and those of a database. */
const MIN_FILES = 8_192;
/** An app's limit of processes is 512, its threads count. */
const MIN_TASKS = 4_096;
const MIN_INOTIFY_INSTANCES = 128;

/** `data`: an existing directory of the installation. */
export function machineFindings(data: string): Finding[] {
	return [machine(), disk(data), ...limits(), ...ports(), ...unenforced()];
}

export function ok(check: string, detail: string): Finding {
	return { check, state: 'ok', detail, hint: null };
}

export function warn(check: string, detail: string, hint: string): Finding {
	return { check, state: 'warn', detail, hint };
}

export function bad(check: string, detail: string, hint: string): Finding {
	return { check, state: 'bad', detail, hint };
}

function machine(): Finding {
	const [free, all] = [available(), totalmem()].map((bytes) => Math.round(bytes / 2 ** 20)) as [number, number];
	const cores = availableParallelism();
	const detail = `${process.platform} ${process.arch}, ${cores} ${cores === 1 ? 'core' : 'cores'}, ${free} of ${all} MiB of memory free`;
	if (process.platform !== 'linux') return warn('machine', detail, 'Linux is the platform that is tested: apps run without isolation here');
	if (free < MIN_FREE_MEMORY_MIB)
		return warn('machine', detail, 'a deploy that finds no room is refused before anything moves: end something, or add a server');
	return ok('machine', detail);
}

/** What the page cache holds can be had, too. */
function available(): number {
	const kib = /^MemAvailable:\s+(\d+) kB/m.exec(readText('/proc/meminfo'))?.[1];
	return kib === undefined ? freemem() : Number(kib) * 1024;
}

function disk(data: string): Finding {
	const { bavail, blocks, bsize, files, ffree } = statfsSync(data);
	const free = blocks === 0 ? 1 : bavail / blocks;
	const freeFiles = files === 0 ? 1 : ffree / files;
	const detail = `${Math.round(free * 100)} % free (${((bavail * bsize) / 2 ** 30).toFixed(1)} GiB)`;
	const hint = 'make room, or move the directory to a larger disk; below 15 % free the oldest releases that nobody needs are deleted';
	if (freeFiles < BAD_FREE_SHARE) return bad('disk', `${detail}, and hardly an inode left`, hint);
	if (free < BAD_FREE_SHARE) return bad('disk', detail, hint);
	return free < MIN_FREE_SHARE ? warn('disk', detail, hint) : ok('disk', detail);
}

function limits(): Finding[] {
	if (process.platform !== 'linux') return [];
	const files = limitOf('Max open files');
	const tasks = Math.min(limitOf('Max processes'), numberIn('/proc/sys/kernel/pid_max'), numberIn('/proc/sys/kernel/threads-max'));
	const watchers = numberIn('/proc/sys/fs/inotify/max_user_instances');
	const found: Finding[] = [];
	if (files < MIN_FILES)
		found.push(
			warn('limits', `${files} open files a program`, `jibe install sets it; else ulimit -n ${MIN_FILES * 8}, then jibe up again`),
		);
	if (tasks < MIN_TASKS)
		found.push(
			warn('limits', `${tasks} processes and threads`, 'ulimit -u 65536, or sysctl kernel.pid_max=4194304 kernel.threads-max=65536'),
		);
	if (watchers < MIN_INOTIFY_INSTANCES)
		found.push(warn('limits', `${watchers} watchers of files (inotify) a user`, 'sysctl fs.inotify.max_user_instances=1024'));
	return found.length > 0 ? found : [ok('limits', `${known(files)} open files, ${known(tasks)} processes, ${known(watchers)} watchers`)];
}

/** Infinity where there is no limit. */
function limitOf(name: string): number {
	const soft = new RegExp(`^${name}\\s+(\\S+)`, 'm').exec(readText('/proc/self/limits'))?.[1];
	return soft === undefined || soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft);
}

function numberIn(file: string): number {
	const text = readText(file).trim();
	return text === '' ? Number.POSITIVE_INFINITY : Number(text);
}

function known(limit: number): string {
	return limit === Number.POSITIVE_INFINITY ? 'any number of' : String(limit);
}

const LAST_PRIVILEGED_PORT = 1_023;

function ports(): Finding[] {
	if (process.platform !== 'linux') return [];
	const first = numberIn('/proc/sys/net/ipv4/ip_unprivileged_port_start');
	const may = isRoot() || first <= 80 || (capabilities() & NET_BIND_SERVICE) !== 0n;
	if (may) return [ok('ports', 'this user may listen on 80 and 443')];
	const detail = `this user may not listen on ports below ${Math.min(first, LAST_PRIVILEGED_PORT + 1)}`;
	return [warn('ports', detail, 'jibe install gives it the right; 8080 and above need none')];
}

const NET_BIND_SERVICE = 1n << 10n;

function capabilities(): bigint {
	return BigInt(`0x${/^CapEff:\s+(\w+)/m.exec(readText('/proc/self/status'))?.[1] ?? '0'}`);
}

function unenforced(): Finding[] {
	const { missing } = isolation();
	if (missing.length === 0)
		return [ok('isolation', 'a uid and a private /tmp for each app; limits of memory, processes and CPU are enforced')];
	const hint = isRoot()
		? 'on a machine of its own, or in a container with --privileged, they can be'
		: 'run Jibe as root: sudo jibe install';
	return missing.map((detail) => warn('isolation', detail, hint));
}

function readText(file: string): string {
	try {
		return readFileSync(file, 'utf8');
	} catch {
		return ''; // not this kernel's
	}
}

import { accessSync, constants, existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { isRoot } from './directory.ts';

/**
 * Limits, freezing and whole-sale killing of a process and all its children. A group is created below the group that
 * this program itself is in, so that it stays within whatever limits Jibe was given. Understands version 2, version 1,
 * and the hybrid layout (version 1 controllers with a version 2 tree beside them that can freeze and kill).
 */
export interface Cgroup {
	/** Directories of this group by what they can do; several are the same one in version 2. */
	memory?: string;
	pids?: string;
	cpu?: string;
	/** Version 1's freezer. */
	freezer?: string;
	/** Version 2: freeze and kill. */
	unified?: string;
}

export interface CgroupLimits {
	memoryMiB?: number;
	pids?: number;
	/** Thousandths of a core. */
	cpuMillis?: number | null;
	/** Hundredths of what a group gets when there is not enough for all. */
	cpuWeight?: number;
}

const CPU_PERIOD_US = 100_000;
/** Of version 1, where version 2 has 100. */
const DEFAULT_SHARES = 1024;
const MIB = 1024 * 1024;
const CONTROLLERS = ['memory', 'pids', 'cpu'] as const;
type Controller = (typeof CONTROLLERS)[number];
/** What version 1 has a tree for. */
const ABILITIES = [...CONTROLLERS, 'freezer'] as const;

/** What cgroups can do for this program; empty without root or where there are none. */
export function cgroupAbilities(): { limits: Controller[]; freezer: boolean } {
	const tree = findTree();
	const limits = CONTROLLERS.filter((name) => tree[name] !== undefined);
	return { limits, freezer: tree.unified !== undefined || tree.freezer !== undefined };
}

/** Creates (or takes over) the group `name`, such as `jibe-1a2b3c/i7m4k`. */
export function createCgroup(name: string, limits: CgroupLimits): Cgroup {
	const group: Cgroup = {};
	for (const [ability, base] of Object.entries(findTree()) as [keyof Cgroup, string][]) {
		const directory = join(base, name);
		makeGroup(base, directory);
		group[ability] = directory;
	}
	limitCgroup(group, limits);
	return group;
}

/** Files that a process writes its pid to, to be in the group. */
export function cgroupDoors(group: Cgroup): string[] {
	return [...new Set(Object.values(group) as string[])].map((directory) => join(directory, 'cgroup.procs'));
}

export function limitCgroup(group: Cgroup, limits: CgroupLimits): void {
	const two = (directory: string) => existsSync(join(directory, 'cgroup.freeze'));
	if (group.memory && limits.memoryMiB) {
		const bytes = String(limits.memoryMiB * MIB);
		if (two(group.memory)) {
			write(group.memory, 'memory.max', bytes);
			tryWrite(group.memory, 'memory.swap.max', '0');
			tryWrite(group.memory, 'memory.oom.group', '1');
		} else write(group.memory, 'memory.limit_in_bytes', bytes);
	}
	if (group.pids && limits.pids) write(group.pids, 'pids.max', String(limits.pids));
	if (group.cpu && limits.cpuWeight) weigh(group.cpu, limits.cpuWeight, two(group.cpu));
	if (group.cpu && limits.cpuMillis) {
		const quota = String(Math.round((limits.cpuMillis * CPU_PERIOD_US) / 1000));
		if (two(group.cpu)) write(group.cpu, 'cpu.max', `${quota} ${CPU_PERIOD_US}`);
		else {
			write(group.cpu, 'cpu.cfs_period_us', String(CPU_PERIOD_US));
			write(group.cpu, 'cpu.cfs_quota_us', quota);
		}
	}
}

function weigh(directory: string, weight: number, two: boolean): void {
	if (two) tryWrite(directory, 'cpu.weight', String(weight));
	else tryWrite(directory, 'cpu.shares', String(Math.round((weight * DEFAULT_SHARES) / 100)));
}

/** False when the group has no freezer or is gone. */
export function freezeCgroup(group: Cgroup, frozen: boolean): boolean {
	if (group.unified && tryWrite(group.unified, 'cgroup.freeze', frozen ? '1' : '0')) return true;
	return group.freezer !== undefined && tryWrite(group.freezer, 'freezer.state', frozen ? 'FROZEN' : 'THAWED');
}

/** SIGKILL to everything in it, frozen or not. */
export function killCgroup(group: Cgroup): void {
	if (group.unified && tryWrite(group.unified, 'cgroup.kill', '1')) return;
	for (const pid of cgroupPids(group)) {
		try {
			process.kill(pid, 'SIGKILL');
		} catch (error) {
			if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
		}
	}
	freezeCgroup(group, false); // version 1: a frozen process dies once it is thawed
}

export function cgroupPids(group: Cgroup): number[] {
	const directory = group.unified ?? group.freezer ?? group.pids ?? group.memory ?? group.cpu;
	const text = directory ? tryRead(directory, 'cgroup.procs') : null;
	return text ? text.split('\n').filter(Boolean).map(Number) : [];
}

/** How often the kernel killed something in it because its memory was used up. */
export function cgroupOomKills(group: Cgroup): number {
	if (!group.memory) return 0;
	const text = tryRead(group.memory, 'memory.events') ?? tryRead(group.memory, 'memory.oom_control') ?? '';
	return Number(/^oom_kill (\d+)/m.exec(text)?.[1] ?? 0);
}

/** How often the kernel refused it another process because it has as many as it may. */
export function cgroupPidsRefused(group: Cgroup): number {
	if (!group.pids) return 0;
	return Number(/^max (\d+)/m.exec(tryRead(group.pids, 'pids.events') ?? '')?.[1] ?? 0);
}

/** True once it is gone. The kernel refuses while a process in it has not ended completely. */
export function removeCgroup(group: Cgroup): boolean {
	let gone = true;
	for (const directory of new Set(Object.values(group) as string[])) gone = removeDirectory(directory) && gone;
	return gone;
}

/**
 * The group that a process was put into, wherever it was created: whoever ends an installation may be in another group
 * than who started it. Null when it is in none that `createCgroup` makes.
 */
export function cgroupOf(pid: number): Cgroup | null {
	const group: Cgroup = {};
	for (const [names, path] of membershipsOf(String(pid))) {
		if (!/\/jibe-[^/]+\/[^/]+$/.test(path)) continue;
		for (const name of names === '' ? ['unified' as const] : ABILITIES.filter((one) => names.split(',').includes(one))) {
			const directory = mountOf(name);
			if (directory !== null && existsSync(join(directory, path))) group[name] = join(directory, path);
		}
	}
	const { unified } = group;
	// Version 2: what this group is limited by shows in its files.
	if (unified) for (const name of CONTROLLERS) if (existsSync(join(unified, `${name}.max`))) group[name] ??= unified;
	return unified || group.memory || group.freezer ? group : null;
}

/**
 * Removes the group `name` and its empty children, here and where `others` (children of it) are; false while something
 * of it is left. The kernel lets a group go a little after its last process.
 */
export function removeCgroupTree(name: string, others: readonly Cgroup[] = []): boolean {
	const bases = new Set(Object.values(findTree()));
	for (const directory of others.flatMap((group) => Object.values(group) as string[])) {
		if (basename(dirname(directory)) === name) bases.add(dirname(dirname(directory)));
	}
	let gone = true;
	for (const base of bases) {
		const directory = join(base, name);
		if (!existsSync(directory)) continue;
		for (const child of readdirSync(directory, { withFileTypes: true })) {
			if (child.isDirectory()) removeDirectory(join(directory, child.name));
		}
		gone = removeDirectory(directory) && gone;
	}
	return gone;
}

let found: Partial<Record<keyof Cgroup, string>> | undefined;

/** Where this program may create groups, by ability. */
function findTree(): Partial<Record<keyof Cgroup, string>> {
	if (found) return found;
	if (process.platform !== 'linux' || !isRoot()) return (found = {});
	const own = new Map(membershipsOf('self').flatMap(([names, path]) => names.split(',').map((name) => [name, path] as const)));
	const tree: Partial<Record<keyof Cgroup, string>> = {};
	for (const name of ABILITIES) {
		const mount = mountOf(name);
		const base = mount && join(mount, own.get(name) ?? '/');
		if (base && isWritable(base)) tree[name] = base;
	}
	const two = mountOf('unified');
	if (two) addUnified(tree, two, join(two, own.get('') ?? '/'));
	return (found = tree);
}

/** Controllers (none in version 2) and the path below their mount, of each group that a process is in. */
function membershipsOf(pid: string): [names: string, path: string][] {
	const text = tryRead(`/proc/${pid}`, 'cgroup') ?? '';
	return text.split('\n').flatMap((line) => {
		const [, names, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
		return names === undefined || path === undefined ? [] : [[names, path] as [string, string]];
	});
}

function mountOf(name: keyof Cgroup): string | null {
	for (const line of (tryRead('/proc/self', 'mounts') ?? '').split('\n')) {
		const [, directory, type, options] = line.split(' ');
		if (directory === undefined) continue;
		if (name === 'unified' ? type === 'cgroup2' : type === 'cgroup' && options?.split(',').includes(name)) return directory;
	}
	return null;
}

function addUnified(tree: Partial<Record<keyof Cgroup, string>>, root: string, own: string): void {
	if (!isWritable(own)) return;
	const wanted = CONTROLLERS.filter((name) => tree[name] === undefined);
	// A group that holds processes may not hand controllers down (but for the root), so ours may have to lie beside it.
	const candidates = own === root ? [own] : [own, dirname(own)];
	const base = candidates.find((directory) => handDown(directory, wanted).length === wanted.length) ?? own;
	tree.unified = base;
	for (const name of handDown(base, wanted)) tree[name] = base;
}

/** Those of `wanted` that groups below `directory` get. */
function handDown(directory: string, wanted: readonly Controller[]): Controller[] {
	const offered = (tryRead(directory, 'cgroup.controllers') ?? '').trim().split(' ');
	return wanted.filter((name) => offered.includes(name) && tryWrite(directory, 'cgroup.subtree_control', `+${name}`));
}

/** Makes the groups from `base` to `directory`; in version 2 each but the last hands its controllers down. */
function makeGroup(base: string, directory: string): void {
	const parent = dirname(directory);
	if (parent !== base && parent.startsWith(base)) {
		makeGroup(base, parent);
		handDown(parent, CONTROLLERS);
	}
	mkdirSync(directory, { recursive: true });
}

/** In a container the tree is often there, but mounted read-only. */
function isWritable(directory: string): boolean {
	try {
		accessSync(directory, constants.W_OK);
		return true;
	} catch {
		return false;
	}
}

function removeDirectory(directory: string): boolean {
	try {
		rmdirSync(directory);
		return true;
	} catch (error) {
		return (error as NodeJS.ErrnoException).code === 'ENOENT';
	}
}

function write(directory: string, file: string, value: string): void {
	writeFileSync(join(directory, file), value);
}

function tryWrite(directory: string, file: string, value: string): boolean {
	try {
		write(directory, file, value);
		return true;
	} catch {
		return false; // this kernel or layout has it not, or the group is gone: the caller asks
	}
}

function tryRead(directory: string, file: string): string | null {
	try {
		return readFileSync(join(directory, file), 'utf8');
	} catch {
		return null;
	}
}

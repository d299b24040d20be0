import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Cgroup } from '#process/cgroup.ts';
import { bwrapCommand, bwrapOptions } from './bwrap.ts';
import { quote } from './holder.ts';
import { ociConfig, type Launch } from './oci.ts';
import type { SandboxKind, SandboxLimits } from './sandbox.ts';
import { kernelFilter } from './seccomp.ts';

/** What one command is started with: everything that differs lies in files, so that a list of processes shows nothing of it. */
export interface Start {
	/** For a shell that is already where the command is to run. */
	script: string;
	/** Whether the command itself was reached, once all has ended. */
	reached(): boolean;
	/** Of the sandbox's first process, whose end is the end of all that is in it; null where the group tells. */
	firstPid(): number | null;
	/** What whoever should have started it says. */
	complaint(): string;
}

export interface Ground {
	kind: SandboxKind;
	/** Names the command on this machine. */
	id: string;
	/** For the files of this one command. */
	directory: string;
	group: Cgroup | null;
	limits: SandboxLimits;
}

/** `enter`: what starts the rest where the command's network is. */
export function prepareStart(ground: Ground, launch: Launch, enter: readonly string[] = []): Start {
	mkdirSync(ground.directory, { mode: 0o700 });
	const { lines = [], words, reached, complaint, firstPid = () => null } = runners[ground.kind](ground, launch);
	const limits = [`ulimit -n ${openFiles()}`, `ulimit -f ${fileBlocks(ground.limits)}`];
	return {
		script: [...limits, ...lines, `exec ${[...enter.map(quote), ...words].join(' ')} </dev/null`].join('\n'),
		reached,
		complaint,
		firstPid,
	};
}

const OPEN_FILES = 65_536;
/** Of ulimit -f. */
const BLOCK_BYTES = 512;

function openFiles(): number {
	return Math.min(OPEN_FILES, hardLimit('Max open files'));
}

/** No single file may be larger than all may be together: by this the kernel itself stops it. */
function fileBlocks({ diskMiB }: SandboxLimits): number {
	return Math.min((diskMiB * 2 ** 20) / BLOCK_BYTES, Math.floor(hardLimit('Max file size') / BLOCK_BYTES));
}

/** Nobody without the right may raise one, and in a container root often has it not. */
function hardLimit(name: string): number {
	const hard = new RegExp(`^${name}\\s+\\S+\\s+(\\S+)`, 'm').exec(tryRead('/proc/self/limits'))?.[1];
	return hard === undefined || hard === 'unlimited' ? Number.POSITIVE_INFINITY : Number(hard);
}

type Runner = (
	ground: Ground,
	launch: Launch,
) => { lines?: string[]; words: string[] } & Partial<Pick<Start, 'firstPid'>> & Pick<Start, 'reached' | 'complaint'>;

const runners: Record<SandboxKind, Runner> = {
	crun: (ground, launch) => ociRunner(ground, launch, ['crun', '--cgroup-manager=disabled'], null),
	runc: (ground, launch) => ociRunner(ground, launch, ['runc'], pathBelow(ground)),
	bwrap({ directory }, launch) {
		const [words, status, filter] = [join(directory, 'words'), join(directory, 'status'), join(directory, 'filter')];
		const program = kernelFilter(process.arch);
		if (program !== null) writeFileSync(filter, program, { mode: 0o600 });
		const options = bwrapOptions(launch, program === null ? null : 8);
		writeFileSync(words, options.map((word) => `${word}\0`).join(''), { mode: 0o600 });
		const descriptors = [`7<${quote(words)}`, `9>${quote(status)}`, ...(program === null ? [] : [`8<${quote(filter)}`])];
		return {
			words: ['bwrap', '--json-status-fd', '9', '--args', '7', '--', ...bwrapCommand(launch).map(quote), ...descriptors],
			reached: () => /"exit-code"/.test(tryRead(status)),
			firstPid: () => Number(/"child-pid": (\d+)/.exec(tryRead(status))?.[1] ?? 0) || null,
			complaint: () => '',
		};
	},
	none: (_, { words, env, cwd }) => ({
		lines: [`cd ${quote(cwd)}`, 'unset OLDPWD', ...Object.entries(env).map(([name, value]) => `export ${quote(name)}=${quote(value)}`)],
		words: words.map(quote),
		reached: () => true,
		complaint: () => '',
	}),
};

function ociRunner({ kind, directory, id }: Ground, launch: Launch, program: string[], cgroupsPath: string | null): ReturnType<Runner> {
	const [log, pid] = [join(directory, 'log'), join(directory, 'pid')];
	writeFileSync(join(directory, 'config.json'), JSON.stringify(ociConfig(launch, cgroupsPath)), { mode: 0o600 });
	// With its group goes the reason why it ended.
	const keep = kind === 'runc' ? ['--keep'] : [];
	const places = ['--root', join(directory, 'state'), '--log', log];
	return {
		words: [...program, ...places, 'run', ...keep, '--bundle', directory, '--pid-file', pid, id].map(quote),
		reached: () => tryRead(pid) !== '',
		complaint: () => tryRead(log).trim(),
	};
}

/** Where the processes of a command are: in our group, and with runc in the one that it makes below. Those that are there now. */
export function groupsOf({ kind, id, group }: Pick<Ground, 'kind' | 'id' | 'group'>): Cgroup[] {
	if (group === null) return [];
	if (kind !== 'runc') return [group];
	const below = Object.entries(group).map(([ability, directory]: [string, string]) => [ability, join(directory, id)] as const);
	return [group, Object.fromEntries(below.filter(([, directory]) => existsSync(directory))) as Cgroup];
}

/**
 * runc insists on a group that it makes itself. Below ours it has our limits. In version 1 a relative path is taken below
 * the group that runc is in; in version 2 beside it, so there the path is named whole.
 */
function pathBelow({ group, id }: Ground): string | null {
	if (group === null) return null;
	const own = tryRead('/proc/self/cgroup').split('\n').filter(Boolean);
	const onlyTwo = own.length === 1 && own[0]!.startsWith('0::');
	if (!onlyTwo || group.unified === undefined) return id;
	const mount = /^\S+ (\S+) cgroup2 /m.exec(tryRead('/proc/self/mounts'))?.[1] ?? '/sys/fs/cgroup';
	return join(group.unified.slice(mount.length), id);
}

function tryRead(path: string): string {
	try {
		return readFileSync(path, 'utf8');
	} catch {
		return ''; // not written: what it would have said did not happen
	}
}

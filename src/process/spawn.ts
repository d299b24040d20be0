import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import type { Writable } from 'node:stream';
import { cgroupDoors, type Cgroup } from './cgroup.ts';
import { identify, type Identity } from './identity.ts';
import { isolation } from './isolation.ts';

/**
 * Starts a process that outlives this one: a session of its own, output to files, no descriptor of ours.
 * As root, with a uid, it is reached through `unshare → bash → setpriv → bash`, each replacing the one before, so
 * that the pid is that of the command itself and no process of ours stays between. What can't be enforced is left
 * out: `isolation()` says what that is.
 */
export interface DetachedProcess {
	/** What `ps` shows in place of the command. */
	argv0: string;
	/** An absolute path, unless `PATH` of `env` may decide. */
	command: string;
	args: readonly string[];
	env: Readonly<Record<string, string>>;
	/** As the process sees it, after the binds. */
	cwd: string;
	/** Files that output is appended to; the same path may be given for both. Default: none. */
	stdout?: string;
	stderr?: string;
	/** What it prints comes by pipes of `child`: then it does not outlive this process for long. */
	piped?: boolean;
	/** What it reads, up to its end, from descriptor 3. Not standard input: a shell that finds a socket there reads its user's startup files. */
	input?: string;
	uid?: number;
	gid?: number;
	/** Directories or files of this machine at other places, or (`from` = `to`) kept writable. The places must exist. */
	binds?: readonly Bind[];
	/** A /tmp of its own of this size; then everything but the binds is read-only too. */
	privateTmp?: { sizeMiB: number };
	cgroup?: Cgroup;
}

export interface Bind {
	from: string;
	to: string;
	readonly: boolean;
}

const FILE_MODE = 0o600;
const INPUT = 3;

/** @throws when the command can't be started at all; one that ends soon after says so through `child`. */
export async function spawnDetached(of: DetachedProcess): Promise<{ identity: Identity; child: ChildProcess }> {
	const chain = commandChain(of);
	const none = of.piped ? 'pipe' : 'ignore';
	const out = of.stdout === undefined ? none : openSync(of.stdout, 'a', FILE_MODE);
	const err = of.stderr === undefined ? none : of.stderr === of.stdout ? out : openSync(of.stderr, 'a', FILE_MODE);
	try {
		const child = spawn(chain.command, chain.args, {
			argv0: chain.argv0,
			cwd: chain.cwd,
			env: chain.env,
			detached: true,
			stdio: ['ignore', out, err, ...(of.input === undefined ? [] : ['pipe' as const])],
		});
		await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject));
		child.unref();
		// One that dies before it has read says so by its end.
		(child.stdio[INPUT] as Writable | undefined)?.on('error', () => {}).end(of.input);
		// A zombie until our `exit` handler reaps it has no identity; its start time is then nobody's.
		const identity = (child.pid && identify(child.pid)) || { pid: child.pid ?? 0, start: 'ended' };
		return { identity, child };
	} finally {
		if (typeof out === 'number') closeSync(out);
		if (typeof err === 'number' && err !== out) closeSync(err);
	}
}

interface Chain {
	command: string;
	args: string[];
	argv0: string;
	cwd: string;
	env: Record<string, string>;
}

/** All that the root-owned part of the chain sees: LD_PRELOAD, BASH_ENV or PATH of an app would be root's otherwise. */
const CHAIN_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** An app's variables travel under this prefix, so that nothing heeds them before the uid has changed. */
const ENV_PREFIX = 'JIBE_ENV_';
const LAST_SHELL = `for name in \${!${ENV_PREFIX}@}; do export "\${name#${ENV_PREFIX}}=\${!name}"; unset "$name"; done
unset OLDPWD; export -n PWD
exec -a "$0" "$@"`;

function commandChain(of: DetachedProcess): Chain {
	const can = isolation();
	const doors = of.cgroup ? cgroupDoors(of.cgroup) : [];
	const changes = can.setuid && (of.uid !== undefined || of.binds?.length || of.privateTmp || doors.length);
	if (!changes) return { command: of.command, args: [...of.args], argv0: of.argv0, cwd: of.cwd, env: { ...of.env } };
	const env = { PATH: CHAIN_PATH, ...Object.fromEntries(Object.entries(of.env).map(([name, value]) => [ENV_PREFIX + name, value])) };
	const script = [
		'set -e',
		// What an app was told is not to lie on a disk because it crashed.
		'ulimit -c 0',
		...doors.map((door) => `echo $$ > ${quote(door)}`),
		...(can.mounts ? mounts(of) : []),
		`cd ${quote(of.cwd)}`,
		`exec ${[...privileges(of), 'bash', '-c', quote(LAST_SHELL), quote(of.argv0), quote(of.command), ...of.args.map(quote)].join(' ')}`,
	].join('\n');
	const shell = ['bash', '-c', script, of.argv0];
	return can.mounts
		? { command: 'unshare', args: ['--mount', ...shell], argv0: of.argv0, cwd: '/', env }
		: { command: 'bash', args: shell.slice(1), argv0: of.argv0, cwd: '/', env };
}

/** Places where systems let everybody write, /tmp and /dev/shm aside. */
const WORLD_WRITABLE = ['/var/tmp', '/run/lock', '/var/crash', '/dev/mqueue'];

function mounts(of: DetachedProcess): string[] {
	const lines = (of.binds ?? []).map(
		({ from, to, readonly }) => `mount -o bind${readonly ? ',ro' : ''},nosuid,nodev ${quote(from)} ${quote(to)}`,
	);
	if (of.privateTmp) {
		// After the binds: what is bound may lie below /tmp. World-writable places elsewhere are read-only with the rest.
		lines.push(`mount -t tmpfs -o size=${of.privateTmp.sizeMiB}m,mode=1777,nosuid,nodev tmpfs /tmp`);
		lines.push('if mountpoint -q /dev/shm; then mount -o bind /tmp /dev/shm; fi');
		lines.push('mount -o remount,bind,ro / || true');
		// Those that are on mounts of their own are not: the small /tmp stands in for them.
		lines.push(`for place in ${WORLD_WRITABLE.join(' ')}; do if [ -w "$place" ]; then mount -o bind /tmp "$place"; fi; done`);
	}
	return lines;
}

function privileges(of: DetachedProcess): string[] {
	if (of.uid === undefined) return [];
	const ids = [`--reuid=${of.uid}`, `--regid=${of.gid ?? of.uid}`, '--clear-groups'];
	if (isolation().mounts) return ['setpriv', ...ids, '--no-new-privs', '--inh-caps=-all', '--bounding-set=-all'];
	// Nothing can be bound to where this uid may read it: it has to get through directories that are not its own.
	const caps = '-all,+dac_override';
	// By default access(2) would ask as if that were not granted.
	const reach = '--securebits=+no_setuid_fixup';
	return ['setpriv', ...ids, reach, '--no-new-privs', `--inh-caps=${caps}`, `--ambient-caps=${caps}`, `--bounding-set=${caps}`];
}

/** One word of a shell, whatever is in it. */
function quote(text: string): string {
	return `'${text.replaceAll("'", `'\\''`)}'`;
}

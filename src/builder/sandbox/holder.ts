import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { join } from 'node:path';
import { cgroupDoors, type Cgroup } from '#process/cgroup.ts';
import { isRoot } from '#process/directory.ts';
import { SandboxError } from './sandbox.ts';

/**
 * A shell that waits in a mount namespace of its own, and so keeps the mounts of one sandbox: nobody else sees them, and
 * they end with it. It reads what to do from the builder; when the builder is gone, it kills what runs in the sandbox.
 */
export class Holder {
	/** By which the kernel shows the namespace to whoever may see it. */
	readonly pid: number;
	private readonly child: ChildProcessWithoutNullStreams;
	private readonly ended: Promise<void>;
	private text = '';
	/** Why there is none any more. */
	private gone: string | null = null;
	private waiting: { resolve(): void; reject(error: Error): void } | null = null;

	private constructor(child: ChildProcessWithoutNullStreams, pid: number) {
		this.child = child;
		this.pid = pid;
		this.ended = new Promise((resolve) => {
			// With what it said before: unshare tells why it may not.
			child.once('close', () => {
				resolve();
				this.gone = this.text.trim() || 'it ended';
				this.fail(this.gone);
			});
		});
		child.stdin.on('error', () => {}); // its exit says so
		child.stdout.setEncoding('utf8').on('data', (text: string) => this.heard(text));
	}

	static async open(group: Cgroup | null): Promise<Holder> {
		const namespaces = isRoot() ? [] : ['--user', '--map-root-user'];
		const child = spawn('unshare', [...namespaces, '--mount', '--propagation', 'slave', '/bin/sh'], {
			cwd: '/',
			// The new way to mount cuts long options of overlays in kernels before 6.5.
			env: { ...SYSTEM_ENV, LIBMOUNT_FORCE_MOUNT2: 'always' },
			stdio: ['pipe', 'pipe', 'pipe'],
			// Ctrl-C of a terminal is for the builder, which ends its sandboxes itself.
			detached: true,
		});
		const cause = await new Promise<Error | null>((resolve) => child.once('spawn', () => resolve(null)).once('error', resolve));
		if (cause !== null || child.pid === undefined) {
			throw new SandboxError('sandbox_failed', 'unshare could not be started: install util-linux', { cause });
		}
		const holder = new Holder(child, child.pid);
		child.stderr.setEncoding('utf8').on('data', (text: string) => (holder.text += text));
		try {
			await holder.run([...killAtEnd(group), ...(isRoot() ? [WITHOUT_UNIFIED] : [':'])].join('\n'));
		} catch (error) {
			await holder.close();
			throw error;
		}
		return holder;
	}

	/** One script at a time. @throws SandboxError with what it printed. */
	run(script: string): Promise<void> {
		const done = new Promise<void>((resolve, reject) => (this.waiting = { resolve, reject }));
		if (this.gone !== null) this.fail(this.gone);
		this.child.stdin.write(`{ ${script}\n} 2>&1\necho "${ANSWER}$?"\n`);
		return done;
	}

	/** A path inside, as this program may open it. */
	inside(path: string): string {
		return `/proc/${this.pid}/root${path}`;
	}

	/** What starts a program inside. */
	enter(): string[] {
		return isRoot()
			? ['nsenter', `--mount=/proc/${this.pid}/ns/mnt`, '--']
			: ['nsenter', '--user', '--mount', '--preserve-credentials', '--target', String(this.pid), '--'];
	}

	async close(): Promise<void> {
		this.child.stdin.end();
		await this.ended;
	}

	private heard(text: string): void {
		this.text += text;
		const answer = ANSWERED.exec(this.text);
		if (answer === null) return;
		const [status, before] = [answer[1], this.text.slice(0, answer.index)];
		this.text = this.text.slice(answer.index + answer[0].length);
		if (status === '0') {
			this.waiting?.resolve();
			this.waiting = null;
		} else this.fail(before.trim() || `it answered ${status}`);
	}

	private fail(why: string): void {
		this.waiting?.reject(new SandboxError('sandbox_failed', `The mounts of a sandbox could not be made: ${why}`));
		this.waiting = null;
	}
}

/** What makes crun give up: a version 2 tree beside version 1. It needs neither: limits are set by the builder. Others than root may not, and need not: they have no crun. */
const WITHOUT_UNIFIED = 'if mountpoint -q /sys/fs/cgroup/unified; then umount -l /sys/fs/cgroup/unified; fi';
const KILL_ROUNDS = '1 2 3 4 5 6 7 8 9 10';

/** A builder that is killed closes the holder's input, and with it everything that runs here ends. Nobody reads what is said then. */
function killAtEnd(group: Cgroup | null): string[] {
	if (group === null) return [];
	if (group.unified) return [`exec 9>${quote(join(group.unified, 'cgroup.kill'))}`, `trap 'exec >/dev/null 2>&1; echo 1 >&9' EXIT`];
	const round = `kill -9 $(cat ${cgroupDoors(group).map(quote).join(' ')})`;
	return [`trap ${quote(`exec >/dev/null 2>&1; for i in ${KILL_ROUNDS}; do ${round}; done`)} EXIT`];
}

export const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** All that programs see that we start around a command. */
export const SYSTEM_ENV: Readonly<Record<string, string>> = { PATH: SYSTEM_PATH, LC_ALL: 'C' };
const ANSWER = '=jibe=';
const ANSWERED = new RegExp(`^${ANSWER}(\\d+)\\n`, 'm');

/** One word of a shell, whatever is in it. */
export function quote(text: string): string {
	return `'${text.replaceAll("'", `'\\''`)}'`;
}

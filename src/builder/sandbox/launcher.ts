import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, constants, openSync } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { cgroupDoors, type Cgroup } from '#process/cgroup.ts';
import { quote, SYSTEM_ENV, type Holder } from './holder.ts';
import { SandboxError } from './sandbox.ts';

/**
 * A shell that is already where a command is to run, in the sandbox's group and among its mounts, and becomes that command
 * when it is told. To enter a group takes the kernel 10 ms and more, so it is done in advance.
 */
export class Launcher {
	readonly output: Readonly<Record<'out' | 'err', Socket>>;
	readonly ended: Promise<Ended>;
	private readonly child: ChildProcess;

	constructor(pipes: string, holder: Holder | null, group: Cgroup | null) {
		const [out, err] = [openPipe(join(pipes, 'out')), openPipe(join(pipes, 'err'))];
		try {
			this.child = spawn('/bin/sh', ['-c', opening(holder, group)], {
				cwd: '/',
				env: SYSTEM_ENV,
				stdio: ['pipe', out.write, err.write],
				// A group of processes of its own: what it becomes is killed with its children.
				detached: true,
			});
		} finally {
			closeSync(out.write);
			closeSync(err.write);
		}
		this.child.stdin?.on('error', () => {}); // its end says so
		this.output = { out: readerOf(out.read), err: readerOf(err.read) };
		this.ended = new Promise((resolve) => {
			this.child.once('exit', (code, signal) => resolve({ code, signal, error: null }));
			this.child.once('error', (error) => resolve({ code: null, signal: null, error }));
		});
	}

	/** The script's last line is to replace the shell. */
	become(script: string): void {
		if (this.child.pid === undefined) throw new SandboxError('sandbox_failed', 'A shell could not be started');
		this.child.stdin?.end(`${script}\n`);
	}

	kill(): void {
		if (this.child.pid === undefined || this.child.exitCode !== null || this.child.signalCode !== null) return;
		try {
			process.kill(-this.child.pid, 'SIGKILL');
		} catch (error) {
			if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
		}
	}

	/** Without having become anything. */
	async close(): Promise<void> {
		this.kill();
		await this.ended;
		for (const socket of Object.values(this.output)) socket.destroy();
	}
}

export interface Ended {
	code: number | null;
	signal: NodeJS.Signals | null;
	/** It did not even start. */
	error: Error | null;
}

/** When the machine itself has no memory left, a build goes before anything that serves. */
const FIRST_TO_GO = 700;

function opening(holder: Holder | null, group: Cgroup | null): string {
	return [
		'set -e',
		...(group ? cgroupDoors(group).map((door) => `echo $$ > ${quote(door)}`) : []),
		...(process.platform === 'linux' ? [`echo ${FIRST_TO_GO} > /proc/self/oom_score_adj`] : []),
		'ulimit -c 0',
		'umask 022',
		`exec ${[...(holder?.enter() ?? []), '/bin/sh', '-e'].map(quote).join(' ')}`,
	].join('\n');
}

/** A pipe with a name, because commands open /dev/stdout anew, which the sockets that Node makes for its children refuse. */
function openPipe(path: string): { read: number; write: number } {
	const read = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
	return { read, write: openSync(path, constants.O_WRONLY) };
}

function readerOf(descriptor: number): Socket {
	const socket = new Socket({ fd: descriptor, readable: true, writable: false });
	// Nothing is read before somebody listens; what waits keeps no builder alive.
	return socket.pause();
}

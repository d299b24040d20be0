import { readdirSync } from 'node:fs';
import { setPriority } from 'node:os';
import { cgroupPids, freezeCgroup, killCgroup, type Cgroup } from './cgroup.ts';
import { isAlive, type Identity } from './identity.ts';

/** What may be done to a process started by `spawnDetached`, and to its children. A reused pid is never touched. */

/** True when there was somebody to send it to. */
export function signalProcess(identity: Identity, signal: NodeJS.Signals): boolean {
	return isAlive(identity) && send(identity.pid, signal);
}

/** To the whole process group: it leads one of its own. */
export function signalGroup(identity: Identity, signal: NodeJS.Signals): boolean {
	return isAlive(identity) && send(-identity.pid, signal);
}

/** SIGKILL to it and all its children, also to those that left its process group where there is a cgroup. */
export function killTree(identity: Identity, cgroup?: Cgroup): void {
	signalGroup(identity, 'SIGKILL');
	if (cgroup && cgroupPids(cgroup).length > 0) killCgroup(cgroup);
}

export function freeze(identity: Identity, cgroup?: Cgroup): void {
	if (!(cgroup && freezeCgroup(cgroup, true))) signalGroup(identity, 'SIGSTOP');
}

export function thaw(identity: Identity, cgroup?: Cgroup): void {
	if (!(cgroup && freezeCgroup(cgroup, false))) signalGroup(identity, 'SIGCONT');
}

/** Niceness of all its threads (Linux keeps one for each). Only root may lower it again. */
export function setNiceness(identity: Identity, niceness: number): void {
	if (!isAlive(identity)) return;
	for (const thread of threads(identity.pid)) {
		try {
			setPriority(thread, niceness);
		} catch {
			// ESRCH: the thread has ended; EACCES: not root, and priority is a courtesy
		}
	}
}

function threads(pid: number): number[] {
	try {
		return readdirSync(`/proc/${pid}/task`).map(Number);
	} catch {
		return [pid];
	}
}

function send(pid: number, signal: NodeJS.Signals): boolean {
	try {
		process.kill(pid, signal);
		return true;
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
		throw error;
	}
}

import { rmSync, statSync } from 'node:fs';
import { stopPostgres } from '#state/embedded.ts';
import { cgroupOf, killCgroup, type Cgroup } from '#process/cgroup.ts';
import { signalGroup } from '#process/control.ts';
import { runDirectory } from '#process/directory.ts';
import type { Identity } from '#process/identity.ts';
import { readPidFiles, removePidFile } from '#process/pid-file.ts';
import { letGo } from './claim.ts';
import { isFrozen, removeGroups } from './groups.ts';
import { endProcess, hasEnded } from './keeper.ts';
import { removeEndpoint } from './installation.ts';
import { findProcesses } from './processes.ts';

/**
 * Ends an installation: whatever of it runs, whoever started it. Needs neither supervisor nor control, because every
 * process of it shows its role and its data directory in its arguments, and most have a pid file too.
 */
export async function stopInstallation(data: string, tell: (line: string) => void): Promise<number> {
	const found = findProcesses(data);
	const of = (role: string) => found.filter((one) => one.role === role);
	await Promise.all(of('up').map(letGo));
	await Promise.all(['edge', 'agent', 'depot'].flatMap(of).map((one) => endProcess(one)));
	// Again, because an agent may have started one until it ended.
	const instances = findProcesses(data).filter((one) => one.role === 'instance');
	const groups = instances.flatMap(({ pid }) => cgroupOf(pid) ?? []);
	await Promise.all(instances.map(endInstance));
	await Promise.all(['control', 'builder'].flatMap(of).map((one) => endProcess(one)));
	if (await stopPostgres(data)) tell('PostgreSQL stopped');
	const count = new Set([...found, ...instances].map((one) => one.pid)).size;
	await clean(data, groups);
	return count;
}

const INSTANCE_WITHIN_MS = 3_000;

/** Its whole process group: an app may have children. One that is frozen can't hear SIGTERM and has nothing in flight. */
async function endInstance(instance: Identity): Promise<void> {
	const group = cgroupOf(instance.pid);
	const listens = !isFrozen(instance.pid, group);
	if (listens && signalGroup(instance, 'SIGTERM')) await hasEnded(instance, INSTANCE_WITHIN_MS);
	signalGroup(instance, 'SIGKILL');
	if (group !== null) killCgroup(group);
	await hasEnded(instance, INSTANCE_WITHIN_MS);
}

async function clean(data: string, groups: readonly Cgroup[]): Promise<void> {
	if (statSync(data, { throwIfNoEntry: false }) === undefined) return;
	const ended = readPidFiles(data).filter(({ alive }) => !alive);
	for (const { name } of ended) removePidFile(data, name);
	removeEndpoint(data);
	const directory = runDirectory(data);
	await removeGroups(data, [...groups, ...ended.flatMap(({ cgroup }) => cgroup ?? [])]);
	rmSync(directory, { recursive: true, force: true });
}

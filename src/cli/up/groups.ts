import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { createCgroup, removeCgroupTree, type Cgroup } from '#process/cgroup.ts';
import { runDirectory } from '#process/directory.ts';

/** The cgroups that agents put instances into, found again without the agents' records. */

/** The group of a process, when it is one of an installation's. */
export function groupOf(pid: number): Cgroup | null {
	const name = /\/(jibe-[0-9a-z]+\/[^/\n]+)$/m.exec(readText(`/proc/${pid}/cgroup`))?.[1];
	return name === undefined ? null : createCgroup(name, {});
}

export function isFrozen(pid: number, group: Cgroup | null): boolean {
	const stat = readText(`/proc/${pid}/stat`);
	if (/^[Tt]/.test(stat.slice(stat.lastIndexOf(')') + 2))) return true;
	if (group?.unified && /^frozen 1$/m.test(readText(join(group.unified, 'cgroup.events')))) return true;
	return group?.freezer !== undefined && readText(join(group.freezer, 'freezer.state')).startsWith('FROZEN');
}

/** What is left of an installation's groups once their processes are gone. */
export function removeGroups(data: string): void {
	removeCgroupTree(`jibe-${basename(runDirectory(data))}`);
}

function readText(path: string): string {
	try {
		return readFileSync(path, 'utf8');
	} catch {
		return ''; // ended meanwhile, another kernel's layout, or not Linux
	}
}

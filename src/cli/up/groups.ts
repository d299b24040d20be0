import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { pause } from '#clock/clock.ts';
import { removeCgroupTree, type Cgroup } from '#process/cgroup.ts';
import { runDirectory } from '#process/directory.ts';

/** The cgroups that agents put instances into, found again without the agents' records. */

export function isFrozen(pid: number, group: Cgroup | null): boolean {
	const stat = readText(`/proc/${pid}/stat`);
	if (/^[Tt]/.test(stat.slice(stat.lastIndexOf(')') + 2))) return true;
	if (group?.unified && /^frozen 1$/m.test(readText(join(group.unified, 'cgroup.events')))) return true;
	return group?.freezer !== undefined && readText(join(group.freezer, 'freezer.state')).startsWith('FROZEN');
}

const REMOVALS = 50;
const REMOVAL_DELAY_MS = 20;

/** What is left of an installation's groups once their processes are gone. */
export async function removeGroups(data: string, groups: readonly Cgroup[]): Promise<void> {
	const name = `jibe-${basename(runDirectory(data))}`;
	for (let tries = 0; tries < REMOVALS && !removeCgroupTree(name, groups); tries++) await pause(REMOVAL_DELAY_MS);
}

function readText(path: string): string {
	try {
		return readFileSync(path, 'utf8');
	} catch {
		return ''; // ended meanwhile, another kernel's layout, or not Linux
	}
}

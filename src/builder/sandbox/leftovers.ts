import { hash } from 'node:crypto';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { pause } from '#clock/clock.ts';
import { cgroupAbilities, cgroupPids, createCgroup, killCgroup, removeCgroup, removeCgroupTree, type Cgroup } from '#process/cgroup.ts';
import { isAlive, ownIdentity } from '#process/identity.ts';
import { removeTree } from './tree.ts';

/** Sandboxes of one builder lie below a directory that names its process, so that another one knows when nobody owns them. */
export interface Nest {
	directory: string;
	/** The parent of the sandboxes' groups; null where there are none. */
	groups: string | null;
	groupName(id: string): string | null;
}

export function ownNest(directory: string): Nest {
	const { pid, start } = ownIdentity();
	const nest = nestOf(directory, `${pid}-${start.replace(':', '.')}`);
	mkdirSync(nest.directory, { recursive: true, mode: 0o700 });
	if (nest.groups !== null) createCgroup(nest.groups, { cpuWeight: CPU_WEIGHT });
	return nest;
}

/** All builds together, beside what serves on the same machine. */
const CPU_WEIGHT = 30;

/** Ends and deletes what builders left that were killed. */
export async function sweepLeftovers(directory: string): Promise<void> {
	for (const name of readdirSync(directory)) {
		const [, pid, start] = NEST.exec(name) ?? [];
		if (pid === undefined || start === undefined || isAlive({ pid: Number(pid), start: start.replace('.', ':') })) continue;
		const nest = nestOf(directory, name);
		for (const id of readdirSync(nest.directory)) await endGroup(nest, id);
		await removeNest(nest);
	}
}

/** Its sandboxes have ended. */
export async function removeNest(nest: Nest): Promise<void> {
	await removeTree(nest.directory);
	// The last builder of a directory takes the parent of its groups away; the kernel refuses while there are others.
	if (nest.groups !== null) removeCgroup(createCgroup(nest.groups, {}));
}

const NEST = /^(\d+)-(.+)$/;
const GROUP_HASH_LENGTH = 8;

function nestOf(directory: string, name: string): Nest {
	const parent = `jibe-builds-${hash('sha256', directory, 'hex').slice(0, GROUP_HASH_LENGTH)}`;
	const groups = cgroupAbilities().limits.length > 0 ? parent : null;
	return { directory: join(directory, name), groups, groupName: (id) => groups && `${groups}/${name}-${id}` };
}

const END_MS = 5_000;
const END_LOOK_MS = 5;

/** Kills what is in the group and waits until the kernel has let go of it. */
export async function endGroup(nest: Nest, id: string): Promise<void> {
	const name = nest.groupName(id);
	if (name === null) return;
	const group: Cgroup = createCgroup(name, {});
	for (let waited = 0; waited < END_MS; waited += END_LOOK_MS) {
		if (cgroupPids(group).length > 0) killCgroup(group);
		else if (removeCgroupTree(name)) return;
		await pause(END_LOOK_MS);
	}
}

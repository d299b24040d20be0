import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { cgroupAbilities } from './cgroup.ts';
import { isRoot } from './directory.ts';

export interface Isolation {
	/** Apps run under a uid of their own. */
	uid: boolean;
	/** Apps see a mount namespace of their own. */
	mounts: boolean;
	/** Limits of memory, processes and CPU are enforced by the kernel. */
	cgroup: boolean;
	freezer: 'cgroup' | 'signal';
	/** What is not enforced here, each a sentence for a person. */
	missing: string[];
}

let known: Isolation | undefined;

/** What this program can enforce upon the processes that it starts. */
export function isolation(): Isolation {
	known ??= findOut();
	return known;
}

function findOut(): Isolation {
	const root = isRoot();
	const linux = process.platform === 'linux';
	const uid = root && linux && onPath('setpriv') && onPath('bash');
	const mounts = uid && onPath('unshare') && onPath('mount');
	const groups = cgroupAbilities();
	const cgroup = groups.limits.includes('memory') && groups.limits.includes('pids');
	const why = root ? (linux ? 'setpriv, unshare, mount and bash are not all on PATH' : 'only Linux can') : 'Jibe does not run as root';
	const missing: string[] = [];
	if (!uid) missing.push(`apps run under Jibe's own uid and can read what it can (${why})`);
	if (!mounts) missing.push(`apps share /tmp and see every directory that their uid may read (${why})`);
	if (!cgroup) missing.push(`limits of memory and processes are not enforced by the kernel (${root ? 'no cgroups here' : why})`);
	if (!groups.limits.includes('cpu')) missing.push(`limits of CPU are not enforced (${root ? 'no cpu cgroup here' : why})`);
	return { uid, mounts, cgroup, freezer: groups.freezer ? 'cgroup' : 'signal', missing };
}

function onPath(command: string): boolean {
	return (process.env['PATH'] ?? '/usr/bin:/bin').split(delimiter).some((directory) => {
		try {
			accessSync(join(directory, command), constants.X_OK);
			return true;
		} catch {
			return false;
		}
	});
}

import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { cgroupAbilities } from './cgroup.ts';
import { isRoot } from './directory.ts';

export interface Isolation {
	/** A process can be started under another uid at all. */
	setuid: boolean;
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
	const setuid = root && linux && onPath('setpriv') && onPath('bash');
	const mounts = setuid && onPath('unshare') && onPath('mount') && mayUnshare();
	// What an app may read lies in directories that are only opened to it in a mount namespace of its own.
	const uid = mounts;
	const groups = cgroupAbilities();
	const cgroup = groups.limits.includes('memory') && groups.limits.includes('pids');
	const why = root ? (linux ? rootButNot(setuid) : 'only Linux can') : 'Jibe does not run as root';
	const missing: string[] = [];
	if (!uid) missing.push(`apps run under Jibe's own uid and can read what it can (${why})`);
	if (!mounts) missing.push(`apps share /tmp and see every directory that their uid may read (${why})`);
	if (!cgroup) missing.push(`limits of memory and processes are not enforced by the kernel (${root ? 'no cgroups here' : why})`);
	if (!groups.limits.includes('cpu')) missing.push(`limits of CPU are not enforced (${root ? 'no cpu cgroup here' : why})`);
	return { setuid, uid, mounts, cgroup, freezer: groups.freezer ? 'cgroup' : 'signal', missing };
}

/** In a container root often may not: `docker run` leaves out CAP_SYS_ADMIN. */
function mayUnshare(): boolean {
	return spawnSync('unshare', ['--mount', 'true'], { stdio: 'ignore' }).status === 0;
}

function rootButNot(setuid: boolean): string {
	return setuid && onPath('unshare') && onPath('mount')
		? 'this root may not make mount namespaces: it lacks CAP_SYS_ADMIN, as in a container'
		: 'setpriv, unshare, mount and bash are not all on PATH';
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

import { isRoot } from '#process/directory.ts';
import { HOSTNAME, INIT, SHARED_MEMORY_MIB, type Launch } from './oci.ts';
import { BUILD_UID } from './sandbox.ts';

/**
 * Options for bubblewrap, to be given by `--args`: neither environment nor paths are to be seen in a list of processes.
 * Without root everything happens in a user namespace. As root it needs none: the command itself becomes BUILD_UID.
 */
export function bwrapOptions(launch: Launch, filter: number | null): string[] {
	const { root, places, network } = launch;
	const id = String(BUILD_UID);
	const user = isRoot() ? ['--cap-add', 'CAP_SETUID', '--cap-add', 'CAP_SETGID', '--cap-add', 'CAP_SETPCAP'] : [
		'--unshare-user', '--uid', id, '--gid', id,
	]; // prettier-ignore
	return [
		['--unshare-pid', '--unshare-ipc', '--unshare-uts', '--die-with-parent', '--new-session', '--hostname', HOSTNAME],
		network ? [] : ['--unshare-net'],
		['--cap-drop', 'ALL', ...user],
		['--ro-bind', root, '/', '--proc', '/proc', '--dev', '/dev'],
		['--perms', '1777', '--size', String(SHARED_MEMORY_MIB * 2 ** 20), '--tmpfs', '/dev/shm'],
		...places.map(({ from, to, readonly }) => [readonly ? '--ro-bind' : '--bind', from, to]),
		['--clearenv'],
		...Object.entries(launch.env).map(([name, value]) => ['--setenv', name, value]),
		filter === null ? [] : ['--seccomp', String(filter)],
		['--chdir', launch.cwd],
	].flat();
}

export function bwrapCommand({ words }: Launch): string[] {
	const id = String(BUILD_UID);
	const become = ['setpriv', '--reuid', id, '--regid', id, '--clear-groups', '--inh-caps=-all', '--bounding-set=-all', '--'];
	return [...(isRoot() ? become : []), ...INIT, ...words];
}

import { ociSeccomp } from './seccomp.ts';
import { BUILD_UID } from './sandbox.ts';
import type { Place } from './view.ts';

/** What a command is to be run with, whatever runs it. */
export interface Launch {
	/** Mounted as /, read-only. */
	root: string;
	places: readonly Place[];
	words: readonly string[];
	cwd: string;
	env: Readonly<Record<string, string>>;
	/** It has the network of whoever starts it; false: one of its own with nothing in it. */
	network: boolean;
}

/** `config.json` of an OCI bundle (runtime specification 1.0). Limits are not in it: the runtime starts in a group that has them. */
export function ociConfig(launch: Launch, cgroupsPath: string | null): object {
	const namespaces = ['pid', 'mount', 'ipc', 'uts', ...(launch.network ? [] : ['network'])];
	return {
		ociVersion: '1.0.2',
		process: {
			terminal: false,
			user: { uid: BUILD_UID, gid: BUILD_UID },
			args: [...INIT, ...launch.words],
			env: Object.entries(launch.env).map(([name, value]) => `${name}=${value}`),
			cwd: launch.cwd,
			capabilities: { bounding: [], effective: [], inheritable: [], permitted: [], ambient: [] },
			noNewPrivileges: true,
		},
		root: { path: launch.root, readonly: true },
		hostname: HOSTNAME,
		mounts: [...SYSTEM_MOUNTS, ...launch.places.map(mountOf)],
		linux: {
			namespaces: namespaces.map((type) => ({ type })),
			...(cgroupsPath === null ? {} : { cgroupsPath, resources: {} }),
			maskedPaths: MASKED,
			readonlyPaths: READ_ONLY,
			seccomp: ociSeccomp(),
		},
	};
}

export const HOSTNAME = 'build';
/** The first process of a sandbox: it reaps what others leave, and dies of no signal that its command is sent. */
export const INIT = ['/bin/sh', '-c', '"$@"\nexit $?', 'build'];
export const SHARED_MEMORY_MIB = 64;

const SYSTEM_MOUNTS = [
	{ destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
	{ destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'noexec', 'mode=755', 'size=64k'] },
	{ destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620'] },
	{
		destination: '/dev/shm',
		type: 'tmpfs',
		source: 'shm',
		options: ['nosuid', 'noexec', 'nodev', 'mode=1777', `size=${SHARED_MEMORY_MIB}m`],
	},
];

/** What /proc tells of the machine, or lets somebody change. */
const MASKED = [
	'/proc/acpi', '/proc/asound', '/proc/kcore', '/proc/keys', '/proc/latency_stats', '/proc/timer_list', '/proc/timer_stats',
	'/proc/sched_debug', '/proc/scsi',
]; // prettier-ignore
const READ_ONLY = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

function mountOf({ from, to, readonly }: Place): object {
	return { destination: to, type: 'bind', source: from, options: ['rbind', 'nosuid', 'nodev', ...(readonly ? ['ro'] : [])] };
}

/**
 * What no build needs of the kernel: ways into other namespaces, mounts, modules, keys, the clock, and the parts with the
 * longest record of holes. Commands have no capabilities and can't gain any, so this is the second wall. One list, as the
 * OCI runtimes read it and as the kernel does (bubblewrap).
 */
type Architecture = 'x64' | 'arm64';

/** Numbers of calls on x64 and arm64; null where it does not exist. */
const REFUSED: Record<string, readonly [x64: number | null, arm64: number | null]> = {
	_sysctl: [156, null],
	acct: [163, 89],
	add_key: [248, 217],
	adjtimex: [159, 171],
	bpf: [321, 280],
	chroot: [161, 51],
	clock_adjtime: [305, 266],
	clock_settime: [227, 112],
	create_module: [174, null],
	delete_module: [176, 106],
	fanotify_init: [300, 262],
	finit_module: [313, 273],
	fsconfig: [431, 431],
	fsmount: [432, 432],
	fsopen: [430, 430],
	fspick: [433, 433],
	init_module: [175, 105],
	io_uring_enter: [426, 426],
	io_uring_register: [427, 427],
	io_uring_setup: [425, 425],
	ioperm: [173, null],
	iopl: [172, null],
	kcmp: [312, 272],
	kexec_file_load: [320, 294],
	kexec_load: [246, 104],
	keyctl: [250, 219],
	lookup_dcookie: [212, 18],
	mount: [165, 40],
	mount_setattr: [442, 442],
	move_mount: [429, 429],
	name_to_handle_at: [303, 264],
	open_by_handle_at: [304, 265],
	open_tree: [428, 428],
	perf_event_open: [298, 241],
	pivot_root: [155, 41],
	quotactl: [179, 60],
	quotactl_fd: [443, 443],
	reboot: [169, 142],
	request_key: [249, 218],
	setdomainname: [171, 162],
	sethostname: [170, 161],
	setns: [308, 268],
	settimeofday: [164, 170],
	swapoff: [168, 225],
	swapon: [167, 224],
	sysfs: [139, null],
	syslog: [103, 116],
	umount2: [166, 39],
	unshare: [272, 97],
	uselib: [134, null],
	userfaultfd: [323, 282],
	ustat: [136, null],
	vhangup: [153, 58],
};
const CLONE = { x64: 56, arm64: 220 };
/** New namespaces: mount, cgroup, uts, ipc, user, pid, network. */
const CLONE_NEW = [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
const CLONE_NEW_BITS = CLONE_NEW.reduce((all, one) => all | one, 0);
/** Its flags lie in memory, where no filter can look; libraries fall back to clone. */
const CLONE3 = { x64: 435, arm64: 435 };
const SOCKET = { x64: 41, arm64: 198 };
/** Families of sockets with much code and no use in a build: X.25, packet, RDS, CAN, TIPC, Bluetooth, AF_ALG, NFC, vsock, QRTR, XDP. */
const REFUSED_FAMILIES = [9, 17, 21, 29, 30, 31, 38, 39, 40, 42, 44];

const EPERM = 1;
const ENOSYS = 38;
const EAFNOSUPPORT = 97;

/** `linux.seccomp` of an OCI configuration. Calls of another architecture than the machine's own end the process. */
export function ociSeccomp(): object {
	const refuse = (names: string[], errnoRet: number, args?: object[]) => ({ names, action: 'SCMP_ACT_ERRNO', errnoRet, args });
	return {
		defaultAction: 'SCMP_ACT_ALLOW',
		syscalls: [
			refuse(Object.keys(REFUSED), EPERM),
			refuse(['clone3'], ENOSYS),
			...CLONE_NEW.map((flag) => refuse(['clone'], EPERM, [{ index: 0, value: flag, valueTwo: flag, op: 'SCMP_CMP_MASKED_EQ' }])),
			...REFUSED_FAMILIES.map((family) => refuse(['socket'], EAFNOSUPPORT, [{ index: 0, value: family, op: 'SCMP_CMP_EQ' }])),
		],
	};
}

const AUDIT_ARCHITECTURE = { x64: 0xc000_003e, arm64: 0xc000_00b7 };
/** x32: the same kernel with other numbers. */
const FIRST_X32 = 0x4000_0000;
const LOAD = 0x20;
const JUMP_EQUAL = 0x15;
const JUMP_AT_LEAST = 0x35;
const JUMP_ANY_BIT = 0x45;
const RETURN = 0x06;
const ALLOW = 0x7fff_0000;
const KILL = 0x8000_0000;
const FAIL = 0x0005_0000;
const OFFSET_NUMBER = 0;
const OFFSET_ARCHITECTURE = 4;
const OFFSET_FIRST_ARGUMENT = 16;
const INSTRUCTION_BYTES = 8;

/** The same as a program for the kernel's filter; null for an architecture whose numbers aren't known. */
export function kernelFilter(architecture: string): Buffer | null {
	if (architecture !== 'x64' && architecture !== 'arm64') return null;
	return assemble(instructions(architecture));
}

type Instruction = readonly [code: number, ifTrue: number, ifFalse: number, value: number];

function instructions(architecture: Architecture): Instruction[] {
	const index = architecture === 'x64' ? 0 : 1;
	const refused = Object.values(REFUSED).flatMap((numbers) => numbers[index] ?? []);
	const failWhen = (number: number, errno: number): Instruction[] => [
		[JUMP_EQUAL, 0, 1, number],
		[RETURN, 0, 0, FAIL | errno],
	];
	return [
		[LOAD, 0, 0, OFFSET_ARCHITECTURE],
		[JUMP_EQUAL, 1, 0, AUDIT_ARCHITECTURE[architecture]],
		[RETURN, 0, 0, KILL],
		[LOAD, 0, 0, OFFSET_NUMBER],
		...(architecture === 'x64' ? ([[JUMP_AT_LEAST, 0, 1, FIRST_X32], [RETURN, 0, 0, FAIL | ENOSYS]] as const) : []), // prettier-ignore
		...refused.flatMap((number) => failWhen(number, EPERM)),
		...failWhen(CLONE3[architecture], ENOSYS),
		[JUMP_EQUAL, 0, 4, CLONE[architecture]],
		[LOAD, 0, 0, OFFSET_FIRST_ARGUMENT],
		[JUMP_ANY_BIT, 0, 1, CLONE_NEW_BITS],
		[RETURN, 0, 0, FAIL | EPERM],
		[RETURN, 0, 0, ALLOW],
		[JUMP_EQUAL, 1, 0, SOCKET[architecture]],
		[RETURN, 0, 0, ALLOW],
		[LOAD, 0, 0, OFFSET_FIRST_ARGUMENT],
		...REFUSED_FAMILIES.flatMap((family) => failWhen(family, EAFNOSUPPORT)),
		[RETURN, 0, 0, ALLOW],
	];
}

function assemble(program: readonly Instruction[]): Buffer {
	const bytes = Buffer.alloc(program.length * INSTRUCTION_BYTES);
	for (const [index, [code, ifTrue, ifFalse, value]] of program.entries()) {
		const at = index * INSTRUCTION_BYTES;
		bytes.writeUInt16LE(code, at);
		bytes.writeUInt8(ifTrue, at + 2);
		bytes.writeUInt8(ifFalse, at + 3);
		bytes.writeUInt32LE(value >>> 0, at + 4);
	}
	return bytes;
}

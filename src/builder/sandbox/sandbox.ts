/**
 * Where a user's commands run: a file system of their own with the source at the same path everywhere, no network unless
 * it is asked for, limits, and nothing left afterwards. One sandbox is one tree of files and one command at a time: steps
 * that run beside one another have a sandbox each, with what they need of others' outputs as `layers`.
 */
export interface Sandboxes {
	/** none: only where a person allowed it. */
	readonly kind: SandboxKind;
	/** What it can't enforce here, each a sentence for a person. */
	readonly missing: readonly string[];
	create(of: SandboxOptions): Promise<Sandbox>;
	/** Destroys those that are left. */
	close(): Promise<void>;
}

export type SandboxKind = 'crun' | 'runc' | 'bwrap' | 'none';

export interface SandboxOptions {
	/** A directory that commands see, copied on write, as `paths.source`. As root it comes to belong to BUILD_UID. */
	source: string;
	/** Directories laid over the source, later ones over earlier ones: outputs of other steps, taken from the cache. */
	layers?: readonly string[];
	/** `to` is an absolute path outside /usr, /etc, /proc and /dev, or below the source's. */
	readOnly?: readonly Mount[];
	/** What outlives the sandbox, such as a package manager's cache. As root it comes to belong to BUILD_UID. */
	writable?: readonly Mount[];
	/** Files below `paths.secrets`, readable by the commands alone, in memory. */
	secrets?: Readonly<Record<string, string>>;
	limits?: Partial<SandboxLimits>;
}

export interface Mount {
	from: string;
	to: string;
}

export interface SandboxLimits {
	memoryMiB: number;
	/** Processes and threads. */
	pids: number;
	/** Thousandths of a core; null: what others leave. */
	cpuMillis: number | null;
	/** Written below source, home and /tmp. */
	diskMiB: number;
	/** Of one command, both streams. */
	outputMiB: number;
}

export interface Sandbox {
	/** As the commands see them: the same on every machine, unless the kind is `none`. */
	readonly paths: { readonly source: string; readonly home: string; readonly secrets: string };
	/** @throws SandboxError when the command could not even be started; what it does itself is an answer. */
	run(command: SandboxCommand): Promise<SandboxResult>;
	/** Files and symbolic links that match one of the globs, relative to the source; sorted by path. Not while a command runs. */
	outputs(globs: readonly string[]): Promise<OutputFile[]>;
	/** Kills what runs; `run` then answers with signal SIGKILL. */
	kill(): void;
	/** Ends everything and deletes everything but what `writable` names. Twice is as good as once. */
	destroy(): Promise<void>;
}

export interface SandboxCommand {
	/** A line for `sh -c`, or words. */
	command: string | readonly string[];
	/** Absolute; the source by default. */
	cwd?: string;
	/** Over FIXED_ENV; nothing of the builder's own environment is seen. */
	env?: Readonly<Record<string, string>>;
	/** Absent: nothing can be reached but what the command itself listens on. */
	network?: Reach;
	timeoutMs: number;
	onOutput?(stream: 'out' | 'err', bytes: Buffer): void;
}

/** What a command may connect to beside its own loopback. */
export interface Reach {
	allows(address: string, port: number): boolean;
	/** What is connected to at other ports than the usual ones: nothing else listens to what a command tries. */
	places: readonly { address: string; port: number }[];
}

export interface SandboxResult {
	/** Null when a signal ended it. */
	exitCode: number | null;
	signal: NodeJS.Signals | null;
	/** The limit that ended it, if one did. */
	reason: SandboxReason | null;
	ms: number;
}
export type SandboxReason = 'timeout' | 'memory' | 'pids' | 'disk' | 'output';

export interface OutputFile {
	/** Relative to the source, `/` between the parts. */
	path: string;
	/** Where its bytes can be read until the sandbox is destroyed; a link's are not to be followed. */
	at: string;
	/** Of a symbolic link; null for a file. */
	target: string | null;
	executable: boolean;
	bytes: number;
}

/** Where things are inside, on every machine. */
export const SOURCE_PATH = '/src';
export const HOME_PATH = '/home/build';
export const SECRETS_PATH = '/run/secrets';

/** Who commands run as. Above users and services, below what user namespaces are given; small enough for every archive format. */
export const BUILD_UID = 77_000;

export const FIXED_ENV: Readonly<Record<string, string>> = {
	HOME: HOME_PATH,
	USER: 'build',
	LOGNAME: 'build',
	SHELL: '/bin/sh',
	TMPDIR: '/tmp',
	TZ: 'UTC',
	LANG: 'C.UTF-8',
	LC_ALL: 'C.UTF-8',
	SOURCE_DATE_EPOCH: '0',
	CI: 'true',
};

export const DEFAULT_LIMITS: SandboxLimits = { memoryMiB: 4_096, pids: 1_024, cpuMillis: null, diskMiB: 10_240, outputMiB: 64 };

/** It is not the command's fault: the machine can't do what was asked. */
export class SandboxError extends Error {
	readonly code: 'no_sandbox' | 'no_network' | 'sandbox_failed' | 'sandbox_busy' | 'sandbox_mount';

	constructor(code: SandboxError['code'], message: string, options?: { cause?: unknown }) {
		super(message, options);
		this.code = code;
	}
}

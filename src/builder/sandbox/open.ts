import type { Log } from '#log/log.ts';
import { SandboxError, type Mount, type SandboxKind, type Sandboxes } from './sandbox.ts';

export interface SandboxesOptions {
	/** A directory of the builder's own, absolute, on the disk that builds may fill. */
	directory: string;
	/** Tools that lie outside /usr: seen read-only by every command. */
	toolchains?: readonly Mount[];
	/** Directories, as commands see them, that come first on PATH. */
	path?: readonly string[];
	/** A root file system to see in place of this machine's /usr: an unpacked image. */
	image?: string;
	/** Run commands as this program itself where nothing better is there. */
	allowUnsandboxed?: boolean;
	/** This kind and no other. */
	kind?: SandboxKind;
	log: Log;
}

/** @throws SandboxError `no_sandbox` where there is none and running without was not allowed. */
export async function openSandboxes(options: SandboxesOptions): Promise<Sandboxes> {
	throw new SandboxError('no_sandbox', `no sandbox for ${options.directory}`);
}

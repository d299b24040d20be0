import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Log } from '#log/log.ts';
import { buildIsolation } from '#process/build-isolation.ts';
import { Factory } from './factory.ts';
import { ownNest, sweepLeftovers } from './leftovers.ts';
import { SandboxError, type Mount, type SandboxKind, type Sandboxes } from './sandbox.ts';

export interface SandboxesOptions {
	/** A directory of the builder's own, absolute, on the disk that builds may fill. Several builders may share it. */
	directory: string;
	/** Tools that lie outside /usr: seen read-only by every command. */
	toolchains?: readonly Mount[];
	/** Directories, as commands see them, that come first on PATH. */
	path?: readonly string[];
	/** Run commands as this program itself where nothing better is there. */
	allowUnsandboxed?: boolean;
	/** This kind and no other. */
	kind?: SandboxKind;
	log: Log;
}

/** @throws SandboxError `no_sandbox` where there is none and running without was not allowed. */
export async function openSandboxes(options: SandboxesOptions): Promise<Sandboxes> {
	mkdirSync(options.directory, { recursive: true, mode: 0o700 });
	await sweepLeftovers(options.directory);
	const nest = ownNest(options.directory);
	const { kinds, missing, hint } = buildIsolation();
	const failures: string[] = [];
	for (const kind of options.kind === undefined ? kinds : [options.kind].filter((one) => one !== 'none')) {
		for (const copies of [false, true]) {
			const factory = new Factory({ ...options, kind, copies, nest, missing });
			const failure = await tryOut(factory, join(nest.directory, 'trial'));
			if (failure === null) return factory;
			await factory.close();
			failures.push(`${kind}: ${failure}`);
		}
	}
	if (options.kind === 'none' || (options.kind === undefined && options.allowUnsandboxed)) {
		return new Factory({ ...options, kind: 'none', copies: true, nest, missing: [UNSANDBOXED] });
	}
	const why = failures.length > 0 ? [...new Set(failures)].join('\n') : (hint ?? `${options.kind} is not here`);
	throw new SandboxError('no_sandbox', `Builds can't be kept apart from this machine, so none are run here: ${why}\n${CHOICE}`);
}

const UNSANDBOXED = "builds run as the builder itself: they can read and write what it can, use the network, and see other builds' files";
const CHOICE = 'jibe doctor says what this machine lacks; --allow-unsandboxed runs builds as the builder itself, with all that it may do.';
const TRIAL_MS = 30_000;

/** Null when it works, else what is in the way. */
async function tryOut(factory: Factory, source: string): Promise<string | null> {
	mkdirSync(source, { recursive: true, mode: 0o755 });
	try {
		const sandbox = await factory.create({ source });
		try {
			const { exitCode, reason } = await sandbox.run({ command: 'test -w . && : > here', timeoutMs: TRIAL_MS });
			return exitCode === 0 ? null : `a first command ended with ${reason ?? exitCode}`;
		} finally {
			await sandbox.destroy();
		}
	} catch (error) {
		if (error instanceof SandboxError) return error.message;
		throw error;
	}
}

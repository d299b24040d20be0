import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { sha256, type Digest } from '#digest/digest.ts';
import type { Log } from '#log/log.ts';
import { directoriesIn, unused, type UnusedLimits } from '#store/least-used.ts';
import { Dependencies } from './dependencies.ts';
import { BuildFault } from './fault.ts';
import { openSandboxes } from './sandbox/open.ts';
import { SandboxError, type Sandboxes } from './sandbox/sandbox.ts';
import { findToolchains, type Toolchains } from './toolchains.ts';

/**
 * What one builder has for all of its builds. `<data>/builder/` holds what the builders of a machine share (`cache`,
 * `dependencies`, `downloads`, `sandboxes`) and, for each, `<name>/checkouts` and `<name>/temporary`.
 */
export interface WorkshopOptions {
	data: string;
	name: string;
	server: string;
	allowUnsandboxed: boolean;
	log: Log;
}

/** What is part of a step's key beside the Node that Jibe runs on. */
const TOOLS = ['npm', 'pnpm', 'yarn', 'python3', 'go', 'cargo', 'rustc', 'gcc', 'cc', 'make', 'java', 'ruby', 'php'];

const DAY_MS = 24 * 3_600_000;
const DOWNLOADS: UnusedLimits = { maxBytes: 10 * 1024 ** 3, maxAgeMs: 30 * DAY_MS };
/** Compiled modules have their own limit; this is what is known of each checkout. */
const COMPILED: UnusedLimits = { maxBytes: 1024 ** 3, maxAgeMs: 30 * DAY_MS };
/** Longer than any build: what was used since may be in use by another builder of this machine. */
const IN_USE_MS = 3_600_000;

export class Workshop {
	readonly server: string;
	readonly log: Log;
	readonly platform: string;
	readonly checkouts: string;
	readonly cache: string;
	readonly toolchains: Toolchains;
	/** For people, and kept with the release. */
	readonly toolchainText: string;
	readonly toolchain: Digest;
	readonly #root: string;
	readonly #temporary: string;
	readonly #allowUnsandboxed: boolean;
	#sandboxes: Promise<Sandboxes> | null = null;
	#dependencies: Dependencies | null = null;

	constructor({ data, name, server, allowUnsandboxed, log }: WorkshopOptions) {
		this.server = server;
		this.log = log;
		this.#allowUnsandboxed = allowUnsandboxed;
		this.#root = join(data, 'builder');
		this.checkouts = join(this.#root, name, 'checkouts');
		this.#temporary = join(this.#root, name, 'temporary');
		this.cache = join(this.#root, 'cache');
		// What an earlier one that was killed left behind.
		rmSync(this.#temporary, { recursive: true, force: true });
		for (const path of [this.checkouts, this.#temporary, this.cache]) mkdirSync(path, { recursive: true, mode: 0o700 });
		this.toolchains = findToolchains();
		this.toolchainText = `node ${process.versions.node}, ${systemName()}`;
		this.toolchain = sha256(`${this.toolchainText}, ${this.toolchains.stamp(TOOLS)}`);
		this.platform = ownPlatform();
	}

	/** A directory of one build alone. */
	temporary(id: string): string {
		const path = join(this.#temporary, id);
		rmSync(path, { recursive: true, force: true });
		mkdirSync(path, { recursive: true, mode: 0o700 });
		return path;
	}

	/** @throws BuildFault no_sandbox */
	async sandboxes(): Promise<Sandboxes> {
		const directory = join(this.#root, 'sandboxes');
		const { mounts: toolchains, path } = this.toolchains;
		this.#sandboxes ??= openSandboxes({ directory, toolchains, path, allowUnsandboxed: this.#allowUnsandboxed, log: this.log });
		try {
			return await this.#sandboxes;
		} catch (error) {
			this.#sandboxes = null;
			if (error instanceof SandboxError && error.code === 'no_sandbox')
				throw new BuildFault('no_sandbox', error.message, null, { cause: error });
			throw error;
		}
	}

	dependencies(): Dependencies {
		this.#dependencies ??= new Dependencies({
			directory: join(this.#root, 'dependencies'),
			downloads: join(this.#root, 'downloads'),
			sandboxes: () => this.sandboxes(),
			toolchains: this.toolchains,
		});
		return this.#dependencies;
	}

	/** What managers downloaded and compiles remember, of all builders of this machine: to be called between builds. */
	async tidy(now: number): Promise<void> {
		const managers = await directoriesIn(join(this.#root, 'downloads'));
		const downloads = (await Promise.all(managers.map(({ path }) => directoriesIn(path)))).flat();
		const apps = await directoriesIn(join(this.cache, 'apps'));
		const going = [...(await unused(downloads, now, DOWNLOADS)), ...(await unused(apps, now, COMPILED))];
		for (const { path, usedAt } of going) if (now - usedAt > IN_USE_MS) await rm(path, { recursive: true, force: true });
	}

	async close(): Promise<void> {
		const sandboxes = await this.#sandboxes?.catch(() => null); // there never were any
		await sandboxes?.close();
		for (const name of readdirSync(this.#temporary)) rmSync(join(this.#temporary, name), { recursive: true, force: true });
	}
}

function ownPlatform(): string {
	const os = process.platform === 'darwin' ? 'darwin' : 'linux';
	const cpu = process.arch === 'arm64' ? 'arm64' : 'x64';
	if (os === 'darwin') return `${os}-${cpu}`;
	const musl = existsSync('/lib/ld-musl-x86_64.so.1') || existsSync('/lib/ld-musl-aarch64.so.1');
	return `${os}-${cpu}-${musl ? 'musl' : 'glibc'}`;
}

function systemName(): string {
	try {
		return /^PRETTY_NAME="?([^"\n]+)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? process.platform;
	} catch {
		return process.platform; // not every system has that file
	}
}

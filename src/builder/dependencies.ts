import { copyFileSync, constants, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'; // prettier-ignore
import { dirname, join } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import { sha256 } from '#digest/digest.ts';
import type { BuildJob } from '#wire/builds.ts';
import { confine } from './checkout.ts';
import { BuildFault } from './fault.ts';
import { installKey, type Install } from './managers.ts';
import { wayOut } from './reach.ts';
import type { Mount, OutputFile, Reach, Sandboxes } from './sandbox/sandbox.ts';
import type { Toolchains } from './toolchains.ts';

/**
 * What lockfiles name, installed once for each lockfile of a repository and kept on this builder's disk. Production's builds
 * find only what production's made; previews find that too; forks leave nothing behind.
 */
export interface Provided {
	install: Install;
	/** Of everything that decides it. */
	key: string;
	/** It was kept from an earlier build. */
	cached: boolean;
	/** Laid over the source; null: nothing of it lies there. */
	layer: string | null;
	/** In the home, read-only. */
	mounts: Mount[];
	/** For a person. */
	summary: string;
}

export interface Installing {
	/** The source on disk. */
	checkout: string;
	/** Digest of all of it. */
	content: string;
	job: BuildJob;
	reach: () => Promise<Reach>;
	/** Where what must not outlive the build is kept. */
	temporary: string;
	signal: AbortSignal;
	print: (stream: 'out' | 'err', text: Buffer) => void;
}

const INSTALL_LIMIT_MS = 15 * 60_000;
const KEPT_ENTRIES = 60;
const KEPT_MS = 30 * 24 * 3_600_000;
/** Longer than any build: what was used since may be in use by another builder of this machine. */
const IN_USE_MS = 3_600_000;
const SHOWN_LINES = 30;

export class Dependencies {
	readonly #of: { directory: string; downloads: string; sandboxes: () => Promise<Sandboxes>; toolchains: Toolchains };

	constructor(of: { directory: string; downloads: string; sandboxes: () => Promise<Sandboxes>; toolchains: Toolchains }) {
		this.#of = of;
		mkdirSync(of.directory, { recursive: true, mode: 0o700 });
		mkdirSync(of.downloads, { recursive: true, mode: 0o700 });
	}

	/** @throws BuildFault when they can't be installed */
	async provide(install: Install, of: Installing): Promise<Provided> {
		const { manager } = install;
		const { tool } = install;
		if (this.#of.toolchains.find(tool) === null) {
			throw new BuildFault('no_tool', `${install.files[0]} needs ${tool}, which this builder does not have`, `install ${tool} on it`);
		}
		const key = installKey(install, of.checkout, `${this.#of.toolchains.stamp([tool])}${install.scripted ? of.content : ''}`).slice(7);
		for (const scope of scopesRead(of.job)) {
			const kept = join(this.#of.directory, scope, key);
			if (!existsSync(join(kept, ABOUT))) continue;
			touch(join(kept, ABOUT));
			const rate = this.#count(of.job, true);
			return provided({ install, key }, kept, true, `${manager}: ${readFileSync(join(kept, ABOUT), 'utf8')} from the cache (${rate})`);
		}
		const kept = await this.#install(install, of, key);
		const rate = this.#count(of.job, false);
		return provided({ install, key }, kept, false, `${manager}: ${readFileSync(join(kept, ABOUT), 'utf8')} installed (${rate})`);
	}

	/** Where compilers keep what they made: each circle of trust its own, a fork's for one build. */
	caches(names: readonly { name: string; at: string }[], of: Pick<Installing, 'job' | 'temporary'>): Mount[] {
		return names.map(({ name, at }) => {
			const from = this.#downloads(name, of);
			mkdirSync(from, { recursive: true });
			return { from, to: at };
		});
	}

	async #install(install: Install, of: Installing, key: string): Promise<string> {
		const draft = join(of.temporary, `dependencies-${install.manager}`);
		const home = join(draft, 'home');
		const downloads = this.#downloads(install.manager, of);
		for (const path of [home, downloads]) mkdirSync(path, { recursive: true });
		touch(downloads);
		const writable = [{ from: downloads, to: install.downloads }, ...(install.home === null ? [] : [{ from: home, to: install.home }])];
		const sandbox = await (await this.#of.sandboxes()).create({ source: of.checkout, writable });
		const stop = () => sandbox.kill();
		of.signal.addEventListener('abort', stop);
		try {
			const tail = new Tail();
			const result = await sandbox.run({
				command: install.command,
				cwd: join(sandbox.paths.source, install.at),
				env: { ...wayOut(), ...tokensFor(install, of), ...install.env },
				network: await of.reach(),
				timeoutMs: INSTALL_LIMIT_MS,
				onOutput: (stream, bytes) => {
					tail.add(bytes);
					of.print(stream, bytes);
				},
			});
			of.signal.throwIfAborted();
			if (result.exitCode !== 0) {
				const how = result.reason ?? result.signal ?? `exit code ${result.exitCode}`;
				throw new BuildFault('dependencies', `${install.command.split(' ').slice(0, 2).join(' ')} failed (${how})\n${tail.text()}`, null);
			}
			const tree = join(draft, 'tree');
			mkdirSync(tree, { recursive: true });
			const files = install.outputs.length === 0 ? [] : await sandbox.outputs(install.outputs);
			for (const file of files) take(file, tree);
			// What leads out of it would be read with the builder's rights.
			if (files.length > 0) confine(tree);
			writeFileSync(join(draft, ABOUT), `${countOf(install, files, home)}`);
		} finally {
			of.signal.removeEventListener('abort', stop);
			await sandbox.destroy();
		}
		return this.#keep(draft, of.job, key);
	}

	/** A fork's own: gone with the build. */
	#downloads(name: string, of: Pick<Installing, 'job' | 'temporary'>): string {
		if (of.job.trust === 'fork') return join(of.temporary, 'downloads', name);
		return join(this.#of.downloads, scopeOf(of.job, of.job.trust), name);
	}

	#keep(draft: string, job: BuildJob, key: string): string {
		if (job.trust === 'fork') return draft;
		const kept = join(this.#of.directory, scopeOf(job, job.trust), key);
		mkdirSync(dirname(kept), { recursive: true });
		try {
			renameSync(draft, kept);
		} catch (error) {
			// Another builder of this machine was quicker with the same.
			if (!existsSync(join(kept, ABOUT))) throw error;
			rmSync(draft, { recursive: true, force: true });
		}
		this.#evict();
		return kept;
	}

	#evict(): void {
		const now = systemClock.now();
		const all = readdirSync(this.#of.directory).flatMap((scope) =>
			readdirSync(join(this.#of.directory, scope), { withFileTypes: true })
				.filter((entry) => entry.isDirectory())
				.map((entry) => {
					const path = join(this.#of.directory, scope, entry.name);
					return { path, usedAt: statSync(join(path, ABOUT), { throwIfNoEntry: false })?.mtimeMs ?? 0 };
				}),
		);
		const idle = all.filter(({ usedAt }) => now - usedAt > IN_USE_MS).sort((a, b) => a.usedAt - b.usedAt);
		const tooMany = Math.max(0, all.length - KEPT_ENTRIES);
		for (const [index, { path, usedAt }] of idle.entries()) {
			if (index < tooMany || now - usedAt > KEPT_MS) rmSync(path, { recursive: true, force: true });
		}
	}

	/** Of this repository and trust domain. */
	#count(job: BuildJob, hit: boolean): string {
		if (job.trust === 'fork') return 'nothing is kept of forks';
		const file = join(this.#of.directory, scopeOf(job, job.trust), 'rate.json');
		const before = readRate(file);
		const rate = { hits: before.hits + (hit ? 1 : 0), misses: before.misses + (hit ? 0 : 1) };
		mkdirSync(dirname(file), { recursive: true });
		writeFileSync(`${file}.${process.pid}`, JSON.stringify(rate));
		renameSync(`${file}.${process.pid}`, file);
		return `hit rate ${Math.round((100 * rate.hits) / (rate.hits + rate.misses))} % of ${rate.hits + rate.misses}`;
	}
}

const ABOUT = 'about';

function scopesRead(job: BuildJob): string[] {
	const production = scopeOf(job, 'production');
	return job.trust === 'preview' ? [production, scopeOf(job, 'preview')] : [production];
}

function scopeOf(job: BuildJob, trust: 'production' | 'preview'): string {
	return sha256(`${job.lane}\0${trust}`).slice(7, 39);
}

function provided({ install, key }: { install: Install; key: string }, kept: string, cached: boolean, summary: string): Provided {
	const mounts = install.home === null ? [] : [{ from: join(kept, 'home'), to: install.home }];
	return { install, key, cached, layer: install.outputs.length === 0 ? null : join(kept, 'tree'), mounts, summary };
}

function take(file: OutputFile, tree: string): void {
	const to = join(tree, file.path);
	mkdirSync(dirname(to), { recursive: true });
	if (file.target !== null) return symlinkSync(file.target, to);
	try {
		renameSync(file.at, to);
	} catch (error) {
		if ((error as NodeJS.ErrnoException).code !== 'EXDEV') throw error;
		copyFileSync(file.at, to, constants.COPYFILE_FICLONE);
	}
}

function countOf(install: Install, files: readonly OutputFile[], home: string): string {
	if (install.outputs.length === 0) return `${readdirSync(home).length} modules`;
	const packages = files.filter(({ path }) => /(^|\/)node_modules\/(@[^/]+\/)?[^/@.][^/]*\/package\.json$/.test(path)).length;
	return packages > 0 ? `${packages} packages` : `${files.length} files`;
}

function readRate(file: string): { hits: number; misses: number } {
	try {
		return JSON.parse(readFileSync(file, 'utf8')) as { hits: number; misses: number };
	} catch {
		return { hits: 0, misses: 0 }; // the first, or cut short: it is only for people
	}
}

function touch(file: string): void {
	const now = systemClock.now() / 1000;
	utimesSync(file, now, now);
}

/** `.npmrc` may name variables for registries' tokens: those of the build's secrets that it names are set, and no others. */
function tokensFor({ files }: Install, { checkout, job }: Installing): Record<string, string> {
	const text = files.filter((path) => /\.(npmrc|yarnrc)$/.test(path)).map((path) => readFileSync(join(checkout, path), 'utf8')).join('\n'); // prettier-ignore
	const named = [...text.matchAll(/\$\{(\w+)\}/g)].map(([, name]) => name!);
	return Object.fromEntries(named.flatMap((name) => (job.secrets[name] === undefined ? [] : [[name, job.secrets[name]]])));
}

class Tail {
	#text = '';
	add(bytes: Buffer): void {
		this.#text = (this.#text + bytes.toString()).slice(-16_384);
	}
	text(): string {
		return this.#text.trimEnd().split('\n').slice(-SHOWN_LINES).join('\n');
	}
}

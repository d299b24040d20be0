import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock } from '#clock/clock.ts';
import { canonicalJson, sha256, type Digest } from '#digest/digest.ts';
import { ActionCache, writeWhole, type CachedOutput } from './action-cache.ts';
import { BuildError } from './build-error.ts';
import { compileModule, TOOLCHAIN, type CompileOptions } from './compile.ts';
import { NO_FACTS, type Facts } from './facts.ts';
import { loaderOf } from './link.ts';
import { sourceKey } from './result.ts';
import { encodeState, SIGNATURE_BYTES, STATE_FILE, type StateTable } from './state.ts';

/** One run of a build: its settings, its caches, and what it counted. */

export interface BuildSettings {
	/** Real path of the app's folder. */
	dir: string;
	entry: string;
	include: readonly string[];
	exclude: readonly string[];
	nodeVersion: string;
	cacheDir: string;
}

/** Raised whenever the same input gives another artifact or state. */
const BUILD_FORMAT = 1;

export class Session {
	readonly settings: BuildSettings;
	readonly stateDir: string;
	readonly key: Buffer;
	readonly actions: ActionCache;
	readonly startedNs: bigint;
	readonly startedMs: number;
	/** Transforms that this run executed, by path. */
	readonly compiled = new Set<string>();

	constructor(settings: BuildSettings) {
		const { dir, entry, include, exclude, nodeVersion, cacheDir } = settings;
		this.settings = settings;
		this.stateDir = join(cacheDir, 'apps', sha256(`${dir}\0${entry}`).slice(7, 31));
		this.key = Buffer.from(sha256(canonicalJson([BUILD_FORMAT, TOOLCHAIN, dir, entry, include, exclude, nodeVersion])).slice(7), 'hex');
		this.actions = new ActionCache(join(cacheDir, 'actions'));
		this.startedNs = BigInt(Math.floor(systemClock.now())) * 1_000_000n;
		this.startedMs = systemClock.monotonic();
	}

	get statePath(): string {
		return join(this.stateDir, STATE_FILE);
	}

	/** From the cache, or by oxc. `bytes` must have the digest `source`. */
	output(path: string, source: Digest, bytes: () => Buffer, options: CompileOptions): CachedOutput {
		const key = sourceKey(source, path, options);
		const known = this.actions.get(key);
		if (known) return known;
		this.compiled.add(path);
		return this.actions.put(key, compileModule(path, bytes().toString(), loaderOf(path), options));
	}

	/** Bytes the artifact needs that no source file has. */
	keep(bytes: Buffer): Digest {
		const digest = sha256(bytes);
		const key = sha256(`jibe.blob.v1\0${digest}`);
		if (!this.actions.get(key)) this.actions.put(key, { code: bytes, map: Buffer.alloc(0), facts: NO_FACTS });
		return digest;
	}

	/** What the next build can go on from. Where it can't be written this build is still good: the warning says what it costs. */
	save(table: Omit<StateTable, 'facts' | 'key'> & { facts: string | Buffer }): string | null {
		try {
			this.actions.flush();
			mkdirSync(this.stateDir, { recursive: true });
			writeWhole(this.statePath, encodeState({ ...table, key: this.key }));
			return null;
		} catch (error) {
			return `the build cache in ${this.settings.cacheDir} can't be written (${(error as Error).message}): the next build starts from nothing`;
		}
	}
}

/** Equal where two sources link alike. */
export function signatureOf(facts: Facts): Buffer {
	return Buffer.from(sha256(JSON.stringify(facts)).slice(7, 7 + SIGNATURE_BYTES * 2), 'hex');
}

/** @throws BuildError unless `bytes` are JSON (text is always fine). */
export function checkData(path: string, bytes: () => Buffer): void {
	if (!path.endsWith('.json')) return;
	try {
		JSON.parse(bytes().toString());
	} catch (cause) {
		throw new BuildError('syntax', `${path} is imported, but is not JSON: ${(cause as Error).message}`, { file: path, cause });
	}
}
